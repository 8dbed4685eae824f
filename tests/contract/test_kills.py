"""A process that delivers is killed and started again where it was: nothing is lost, whatever had arrived."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from cdc_tracker.destinations.base import Destination
from cdc_tracker.destinations.send import send
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
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("kit", KILLED, indirect=True)
def test_killed_at_any_moment_nothing_is_lost(kit: Kit) -> None:
    context = multiprocessing.get_context("fork")
    told = 0
    for _ in range(KILLS):
        ours, theirs = context.Pipe()
        with ours, theirs:
            child = context.Process(target=_deliver_for_ever, args=(kit.open, told, theirs))
            child.start()
            ours.recv()
            began = time.monotonic()
            batches = random.randint(0, 4)
            for _ in range(batches):
                told = ours.recv()
            time.sleep(random.uniform(0, (time.monotonic() - began) / max(batches, 1)))  # into the next one
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            while ours.poll():
                told = ours.recv()
            assert child.exitcode == -signal.SIGKILL
            child.close()
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
