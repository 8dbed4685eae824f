"""What every destination must do that stores its own checkpoint."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import cast

import pytest

from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
from cdc_tracker.destinations.send import Backoff, send
from cdc_tracker.model import Batch, Outcome, Position
from tests.contract.faulty import faulty
from tests.contract.test_destinations import never, quiet
from tests.vendors.kit import Kit, batch, event, events

KILLS = 15
QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005)


class Holder(Destination, HoldsCheckpoint):
    """Both protocols, for the type checker."""


def opened(kit: Kit) -> Holder:
    return cast("Holder", kit.open())


def order(kit: Kit) -> list[int]:
    return [call["properties"]["order_id"] for call in kit.held()]


def test_there_is_no_position_before_the_first_batch(holder: Kit) -> None:
    destination = opened(holder)
    assert destination.position() is None
    destination.close()


def test_the_position_is_stored_with_the_events(holder: Kit) -> None:
    destination = opened(holder)
    made = events(25)
    destination.deliver(Batch(made, Position(9_000, -1)))
    assert destination.position() == Position(9_000, -1)
    destination.close()
    again = opened(holder)
    assert again.position() == Position(9_000, -1)
    again.close()


def test_a_rewound_destination_receives_the_range_again(holder: Kit) -> None:
    destination = opened(holder)
    made = events(30)
    destination.deliver(batch(made))
    destination.rewind(made[9].position)
    destination.close()
    again = opened(holder)
    assert again.position() == made[9].position
    again.deliver(batch(made[10:]))
    assert again.position() == made[-1].position
    again.close()
    assert order(holder) == list(range(30)) + (list(range(10, 30)) if holder.keeps_repeats else [])


@pytest.mark.invariant(6)
def test_a_position_never_passes_an_event_that_was_rejected(holder: Kit) -> None:
    """Its dead letter is written by the core later, and a crash may come between."""
    destination = opened(holder)
    front = faulty(destination)
    made = events(20)
    front.minds = lambda one: one.message_id == made[12].message_id
    receipts = send(front, batch(made), stop=never, on_trouble=quiet, backoff=QUICK)
    assert [i for i, receipt in enumerate(receipts) if receipt.outcome is Outcome.REJECTED] == [12]
    position = destination.position()
    assert position is not None
    assert made[11].position <= position < made[12].position
    destination.close()


def test_a_position_never_passes_what_is_not_stored_while_a_batch_goes_in_parts(holder: Kit) -> None:
    destination = opened(holder)
    front = faulty(destination)
    front.most = 3
    made = events(20)
    send(front, batch(made), stop=never, on_trouble=quiet, backoff=QUICK)
    for call in front.calls[:-1]:
        unsent = [one.position for one in made if one.position > call.events[-1].position]
        assert len(call.events) > 3 or call.upto < unsent[0]
    assert destination.position() == made[-1].position
    destination.close()


def test_older_events_sent_again_do_not_move_the_position_back(holder: Kit) -> None:
    """As retried dead letters are."""
    destination = opened(holder)
    made = events(40)
    destination.deliver(batch(made))
    front = faulty(destination)
    front.most = 2
    send(front, Batch(made[:8], made[-1].position, aside="dead letter 1"), stop=never, on_trouble=quiet, backoff=QUICK)
    assert {call.upto for call in front.calls} == {made[-1].position}
    assert destination.position() == made[-1].position
    destination.close()


@pytest.mark.invariant(5)
def test_a_batch_that_goes_beside_the_stream_leaves_the_position_and_is_taken_once(holder: Kit) -> None:
    destination = opened(holder)
    made = events(40)
    destination.deliver(batch(made[:10]))
    beside = Batch(made[20:30], made[9].position, aside="job 1 at 3")
    destination.deliver(beside)
    assert destination.position() == made[9].position
    destination.close()
    again = opened(holder)  # as after a crash before the job's progress was stored
    again.deliver(beside)
    again.deliver(batch(made[10:20]))
    again.deliver(beside)
    again.deliver(Batch(made[30:], made[19].position, aside="job 1 at 4"))
    assert again.position() == made[19].position
    again.close()
    assert sorted(order(holder)) == list(range(40))


def _deliver_for_ever(open_destination: Callable[[], Holder], done: Connection) -> None:
    """Says on `done` where it began, and then after every batch."""
    destination = open_destination()
    position = destination.position()
    done.send(position)
    n = 0 if position is None else _number(position) + 1
    while True:
        made = [event(k, name=f"Event {k % 3}", **{f"p{k % 12}": k}) for k in range(n, n + random.randint(1, 40))]
        send(destination, batch(made), stop=never, on_trouble=quiet)
        n += len(made)
        done.send(None)


def _number(position: Position) -> int:
    """Which event stands at a position: the inverse of kits.raw_event."""
    return (position.commit_lsn - 1_000) // 10 + position.ordinal


@pytest.mark.invariant(5)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_at_any_moment_each_event_is_there_once(holder: Kit) -> None:
    context = multiprocessing.get_context("fork")  # the parent has nothing of the destination open
    positions: list[Position | None] = []
    for _ in range(KILLS):
        ours, theirs = context.Pipe()
        with ours, theirs:
            child = context.Process(target=_deliver_for_ever, args=(holder.open, theirs))
            child.start()
            positions.append(ours.recv())
            began = time.monotonic()
            batches = random.randint(0, 4)
            for _ in range(batches):
                ours.recv()
            time.sleep(random.uniform(0, (time.monotonic() - began) / max(batches, 1)))  # into the next one
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            assert child.exitcode == -signal.SIGKILL
            child.close()
        position, held = _settled(holder)
        count = 0 if position is None else _number(position) + 1
        assert held == list(range(max(count, len(held)) if holder.merges else count))
    assert len(set(positions)) > KILLS // 3  # it went on between the kills


def _settled(kit: Kit) -> tuple[Position | None, list[int]]:
    """The position and what is there. A server may still be about to commit what the killed process sent."""
    destination = opened(kit)
    try:
        position = destination.position()
        while True:
            held = order(kit)
            position, before = destination.position(), position
            if position == before:
                return position, held
    finally:
        destination.close()
