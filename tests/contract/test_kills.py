"""A process that delivers is killed and started again where it was: nothing is lost, whatever had arrived."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from cdc_tracker.delivery.sender import send
from cdc_tracker.destinations.base import Destination
from tests.contract.kills import Deliverer
from tests.contract.kits import HOLDERS, NAMES
from tests.contract.test_destinations import never, quiet
from tests.vendors.kit import Kit, batch, event, events

KILLS = 5
KILLED = [name for name in NAMES if name not in {"memory", "stdout", *HOLDERS}]  # what those two hold goes with the process


def _deliver_for_ever(open_destination: Callable[[], Destination], start: int, done: Connection) -> None:
    """Says on `done` how far it is, after opening and after every batch."""
    destination = open_destination()
    n = start
    while True:
        done.send(n)
        count = random.randint(1, 40)
        send(destination, batch(events(count, start=n)), stop=never, on_trouble=quiet)
        n += count


@pytest.mark.invariant(5)
@pytest.mark.parametrize("kit", KILLED, indirect=True)
def test_killed_at_any_moment_nothing_is_lost(kit: Kit) -> None:
    told = 0
    for _ in range(KILLS):
        child = Deliverer(_deliver_for_ever, kit.open, told)
        told = child.hear()
        began = time.monotonic()
        batches = random.randint(0, 4)
        for _ in range(batches):
            told = child.hear()
        time.sleep(random.uniform(0, (time.monotonic() - began) / max(batches, 1)))  # into the next one
        told = [told, *child.kill()][-1]
    _check(kit, told)


def _check(kit: Kit, told: int) -> None:
    """After one more run, over what the last one may have sent without our hearing of it."""
    destination = kit.open()
    send(destination, batch(events(100, start=told)), stop=never, on_trouble=quiet)
    destination.close()
    calls = kit.held()
    found = [call["messageId"] for call in calls]
    assert set(found) == {event(n).message_id for n in range(told + 100)}
    copies = {(call["messageId"], call["event"], call["userId"], call["properties"]["order_id"]) for call in calls}
    assert len(copies) == len(set(found))  # what came again is the same
    duplicates = len(found) - len(set(found))
    assert kit.keeps_repeats or duplicates == 0


def _fall(number: int, done: Connection) -> None:
    done.send("begun")
    os.kill(os.getpid(), number)


def test_a_delivering_process_that_dies_fails_its_test_at_once_and_never_holds_it_up() -> None:
    child = Deliverer(_fall, int(signal.SIGSEGV))
    assert child.hear() == "begun"
    with pytest.raises(pytest.fail.Exception, match=r"ended by itself, with the code -11"):
        child.hear()
