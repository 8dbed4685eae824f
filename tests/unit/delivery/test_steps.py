"""A fault at every step of the delivery loop, and what must hold once it is over: nothing lost, each event counted once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.delivery import loop
from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, DestinationUnavailable, Fenced, StateUnavailable, Stop
from cdc_tracker.model import DELIVERED, Position
from cdc_tracker.state import Selection
from tests.unit.delivery.stage import (
    MAPPING,
    Fault,
    Holder,
    Killed,
    Stage,
    Trap,
    TrappedHolder,
    held,
    order,
    staged,
    until,
)
from tests.unit.pipeline.frames import Order

AWAY = StateUnavailable("away")
LOST = AlreadyRunning("another one holds the lock")
FENCED = Fenced("another one has taken over")
ROWS = 60


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(loop, "COMMIT", 0.0)  # one that holds its checkpoint is committed for after each call, too
    with staged(tmp_path) as opened:
        yield opened


# Where a fault comes, and which. The role goes on by itself, or ends and is started again.
GOES_ON = [
    ("state", "checkpoints.commit", Fault(AWAY, 1, times=3)),
    ("state", "checkpoints.commit", Fault(AWAY, 2, after=True)),
    ("state", "checkpoints.commit", Fault(AWAY, 2, times=2, after=True)),
    ("state", "in_hand.take_mappings", Fault(AWAY, 1, times=2)),
    ("state", "in_hand.take_mappings", Fault(AWAY, 1, after=True)),
    ("state", "mappings.load", Fault(AWAY, 1, times=2)),
    ("state", "mappings.load", Fault(AWAY, 1, after=True)),
    ("state", "reports.save", Fault(AWAY, 1, times=5)),
    ("destination", "deliver", Fault(DestinationUnavailable("away"), 2)),
    ("destination", "deliver", Fault(DestinationUnavailable("cut"), 2, after=True)),
    ("destination", "deliver", Fault(ValueError("odd"), 2)),
    ("destination", "deliver", Fault(OSError("no descriptors"), 2, times=3)),
    ("destination", "position", Fault(DestinationUnavailable("away"), 1, times=2)),
    ("destination", "position", Fault(ValueError("odd"), 1)),
]
ENDS = [
    (what, method, Fault(error, number, after=after))
    for error in (Killed(), LOST, FENCED)
    for after in (False, True)
    for what, method, number in [
        ("state", "checkpoints.commit", 1),
        ("state", "checkpoints.commit", 3),
        ("state", "in_hand.take_mappings", 1),
        ("state", "mappings.load", 1),
        ("state", "checkpoints.get", 1),
        ("state", "in_hand.get", 1),
        ("destination", "deliver", 1),
        ("destination", "deliver", 3),
        ("destination", "position", 1),
    ]
    if not (what == "destination" and isinstance(error, Fenced))
]


def name(given: Any) -> str | None:
    if isinstance(given, Fault):
        return f"{type(given.error).__name__} {'after' if given.after else 'at'} {given.number}, {given.times} times"
    return None


def set_trap(stage: Stage, destination: MemoryDestination, what: str, method: str, fault: Fault) -> tuple[Trap, Trap]:
    dead = threading.Event()
    state = Trap(stage.state, dead)
    front = TrappedHolder(destination, dead) if isinstance(destination, Holder) else Trap(destination, dead)
    (front if what == "destination" else state).faults[method] = fault
    return state, front


def check(stage: Stage, destination: MemoryDestination, rows: int = ROWS, bad: frozenset[int] = frozenset()) -> None:
    found = held(destination)
    assert set(found) == set(range(rows)) - bad
    if isinstance(destination, Holder):
        assert len(found) == len(set(found)), "doubled"
    row = stage.ledger()
    assert (row.matched, row.pending) == (rows, 0)
    assert (row.delivered, row.rejected) == (rows - len(bad), len(bad))


@pytest.mark.parametrize("kind", [MemoryDestination, Holder])
@pytest.mark.parametrize(("what", "method", "fault"), GOES_ON, ids=name)
def test_the_role_goes_on_by_itself(stage: Stage, kind: type[MemoryDestination], what: str, method: str, fault: Fault) -> None:
    destination = kind()
    if method == "position" and kind is MemoryDestination:
        kind = Holder
        destination = kind()
    state, front = set_trap(stage, destination, what, method, fault)
    with stage.delivering(front, state=state):  # type: ignore[arg-type]
        for first in range(0, ROWS, 20):
            stage.rows(*range(first, first + 20), each=5)
            until(lambda number=first + 20: stage.settled(number), "all are counted")  # type: ignore[misc]
    check(stage, destination)


@pytest.mark.parametrize("kind", [MemoryDestination, Holder])
@pytest.mark.parametrize(("what", "method", "fault"), ENDS, ids=name)
def test_the_next_start_goes_on_where_the_last_one_ended(
    stage: Stage, kind: type[MemoryDestination], what: str, method: str, fault: Fault
) -> None:
    destination = kind()
    stage.rows(*range(ROWS), each=1)
    state, front = set_trap(stage, destination, what, method, fault)
    if kind is MemoryDestination and method == "position":
        front.faults.clear()  # it is not asked
        state.faults["in_hand.get"] = fault
    with pytest.raises(CdcTrackerError), stage.delivering(front, state=state) as role:  # type: ignore[arg-type]
        until(lambda: not role.is_alive(), "it has ended")
    with stage.delivering(destination):
        until(lambda: stage.settled(ROWS), "all are counted")
    check(stage, destination)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("method", ["checkpoints.commit", "deliver"])
def test_killed_around_a_parked_event_it_is_parked_once_and_nothing_doubled(
    stage: Stage, method: str, number: int, after: bool
) -> None:
    destination = Holder()

    def minds(batch: Any) -> Any:
        if any(order(event) in (7, 8, 33) for event in batch.events):
            raise ValueError("odd")
        return [DELIVERED] * len(batch.events)

    destination.always = minds
    stage.rows(*range(ROWS), each=30)
    what = "state" if method == "checkpoints.commit" else "destination"
    state, front = set_trap(stage, destination, what, method, Fault(Killed(), number, after=after))
    with pytest.raises(Stop), stage.delivering(front, state=state) as role:  # type: ignore[arg-type]
        until(lambda: not role.is_alive() or stage.settled(ROWS), "it has ended", seconds=10)
        if role.is_alive():
            raise Killed  # it came to its end without so many calls
    with stage.delivering(destination):
        until(lambda: stage.settled(ROWS), "all are counted")
    assert sorted(stage.parked()) == ["destination_error"] * 3
    found = held(destination)
    assert set(found) == set(range(ROWS)) - {7, 8, 33}


# What the destination has already, and other mappings than those that it got it by.

NOW = {
    "rejects what arrived": MAPPING.replace("type: string", "type: integer"),
    "leaves out what arrived": MAPPING.replace("on: [insert]", "on: [delete]"),
    "gives other ids": MAPPING.replace("    user_id", "    id: [new.id]\n    user_id"),
    "makes two of one": MAPPING + MAPPING.partition("events:\n")[2].replace("Order Paid", "Second"),
}


@pytest.mark.parametrize("now", NOW.values(), ids=NOW.keys())
def test_what_a_destination_has_is_counted_by_the_mappings_that_it_got_it_by(stage: Stage, now: str) -> None:
    destination = Holder()
    rows = 40
    stage.rows(*range(rows), each=20)
    state, front = set_trap(stage, destination, "state", "checkpoints.commit", Fault(Killed()))
    with pytest.raises(Killed), stage.delivering(front, state=state) as role:  # type: ignore[arg-type]
        until(lambda: not role.is_alive(), "it is killed")
    had = len(destination.events)
    assert had == rows
    stage.mapping = now
    for _ in range(2):
        with stage.delivering(destination):
            until(lambda: stage.settled(rows), "all are counted")
    assert len(destination.events) == rows
    assert stage.parked() == []
    assert stage.ledger().delivered == rows


def test_what_was_rejected_and_lies_before_what_the_destination_has_is_parked(stage: Stage) -> None:
    """Its dead letter was lost with the kill. By the mappings of then it is one, whatever those of now say."""
    odd = MAPPING.replace("{value: new.status, type: string}", "{value: new.status, type: string, max_length: 4}")
    stage.mapping = odd
    destination = Holder()
    stage.rows(*(Order(n, status="longer" if n == 3 else "paid") for n in range(10)), each=10)
    state, front = set_trap(stage, destination, "state", "checkpoints.commit", Fault(Killed()))
    with pytest.raises(Killed), stage.delivering(front, state=state) as role:  # type: ignore[arg-type]
        until(lambda: not role.is_alive(), "it is killed")
    assert stage.parked() == []
    stage.mapping = MAPPING
    with stage.delivering(destination):
        until(lambda: stage.settled(10), "all are counted")
        assert stage.parked() == ["too_long"]
        stage.state.dead_letters.queue("main", Selection())
        until(lambda: stage.ledger().delivered == 10, "it is sent again")
    assert sorted(held(destination)) == list(range(10))


def test_a_rewind_that_is_killed_loses_nothing(stage: Stage) -> None:
    destination = Holder()
    stage.rows(*range(20), each=5)
    with stage.delivering(destination):
        until(lambda: stage.settled(20), "all are counted")
    stage.state.checkpoints.request_rewind("main", "d", Position(0, -1))
    state, front = set_trap(stage, destination, "state", "checkpoints.apply_rewind", Fault(Killed()))
    with pytest.raises(Killed), stage.delivering(front, state=state) as role:  # type: ignore[arg-type]
        until(lambda: not role.is_alive(), "it is killed")
    with stage.delivering(destination):
        until(lambda: stage.ledger().replayed == 20, "they have come again")
    assert held(destination) == [*range(20), *range(20)]
