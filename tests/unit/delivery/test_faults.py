"""A destination that raises what its contract does not know: an event is parked, a fault of its own blocks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdc_tracker.delivery import circuit_breaker
from cdc_tracker.destinations.base import Limits
from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.errors import DestinationUnavailable
from cdc_tracker.model import DELIVERED, Batch, Position, Receipt
from tests.unit.delivery.stage import Holder, Stage, held, order, staged, until


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as opened:
        yield opened


class Failing(MemoryDestination):
    """Raises for events that `minds` says; `limit` events a call."""

    def __init__(self, minds: Callable[[int], bool], limit: int = 10_000, in_flight: int = 1) -> None:
        super().__init__()
        self.minds = minds
        self.limits = Limits(limit, 8 * 1024**2, 1024**2, in_flight)
        self.always = self._answer

    def _answer(self, batch: Batch) -> list[Receipt]:
        if any(self.minds(order(event)) for event in batch.events):
            raise UnicodeEncodeError("ascii", "größe", 2, 3, "ordinal not in range(128)")
        return [DELIVERED] * len(batch.events)


SHAPES = pytest.mark.parametrize(
    ("limit", "in_flight", "each"),
    [(10_000, 1, 1), (10_000, 1, 50), (1, 1, 1), (1, 8, 50), (7, 3, 5)],
    ids=["in bulk", "one segment", "one by one", "eight at once", "sevens"],
)


@SHAPES
def test_events_that_a_destination_fails_at_are_parked_and_the_others_arrive_once(
    stage: Stage, limit: int, in_flight: int, each: int
) -> None:
    destination = Failing(lambda number: number % 10 == 6, limit, in_flight)
    stage.rows(*range(50), each=each)
    with stage.delivering(destination):
        until(lambda: stage.settled(50), "all are counted")
    assert sorted(held(destination)) == [n for n in range(50) if n % 10 != 6]
    assert stage.parked() == ["destination_error"] * 5
    assert (stage.ledger().delivered, stage.ledger().rejected) == (45, 5)
    assert in_flight > 1 or held(destination) == sorted(held(destination))


def test_an_event_that_a_new_destination_fails_at_waits_for_one_that_tells(stage: Stage) -> None:
    destination = Failing(lambda number: number == 0)
    stage.rows(0)
    with stage.delivering(destination):
        until(lambda: stage.said()[0] == "blocked", "it says that it is blocked")
        assert "the only event of the batch" in stage.said()[1]
        assert stage.parked() == []
        stage.rows(1)
        until(lambda: stage.settled(2), "the second one has told")
    assert held(destination) == [1]
    assert stage.parked() == ["destination_error"]


@pytest.mark.parametrize("limit", [10_000, 1])
def test_a_few_events_at_which_it_fails_are_parked_where_it_took_others_before(stage: Stage, limit: int) -> None:
    destination = Failing(lambda number: number >= 5, limit)
    stage.rows(*range(5))
    with stage.delivering(destination):
        until(lambda: stage.settled(5), "those before have arrived")
        stage.rows(5, 6)
        until(lambda: stage.settled(7), "the two are parked")
    assert held(destination) == list(range(5))
    assert stage.parked() == ["destination_error"] * 2


@pytest.mark.parametrize(("limit", "in_flight"), [(10_000, 1), (1, 1), (1, 4)])
@pytest.mark.parametrize("before", [0, 20])
def test_a_fault_that_hits_every_event_blocks_and_parks_nothing(stage: Stage, limit: int, in_flight: int, before: int) -> None:
    broken = True
    destination = Failing(lambda number: broken and number >= before, limit, in_flight)
    stage.rows(*range(before))
    with stage.delivering(destination):
        until(lambda: stage.settled(before), "those before have arrived")
        stage.rows(*range(before, before + 60))
        until(lambda: stage.said()[0] == "blocked", "it says that it is blocked")
        assert stage.parked() == []
        broken = False
        until(lambda: stage.settled(before + 60), "all have arrived")
    assert sorted(held(destination)) == list(range(before + 60))
    assert stage.parked() == []


def test_mappings_mended_while_it_is_blocked_are_those_that_count(stage: Stage) -> None:
    destination = Failing(lambda number: number < 100)
    stage.rows(*range(20))
    with stage.delivering(destination):
        until(lambda: stage.said()[0] == "blocked", "it says that it is blocked")
        stage.mapping = stage.mapping.replace("id: new.id", "id: new.id + 100")
        stage.reload()
        until(lambda: stage.settled(20), "all have arrived")
    assert held(destination) == list(range(100, 120))


def test_a_client_that_is_broken_for_good_is_opened_anew(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The role ends, and its next start has a new one."""
    monkeypatch.setattr(circuit_breaker, "LONGEST", 0.05)
    monkeypatch.setattr(circuit_breaker, "REOPENED", 4)
    broken = Failing(lambda number: True)
    stage.rows(*range(10))
    with pytest.raises(DestinationUnavailable, match="opens it again"), stage.delivering(broken) as role:
        until(lambda: not role.is_alive(), "it ends")
    assert stage.parked() == []
    destination = MemoryDestination()
    with stage.delivering(destination):
        until(lambda: stage.settled(10), "all have arrived")
    assert held(destination) == list(range(10))


def test_many_events_at_which_it_fails_are_parked_once_a_later_transaction_tells(stage: Stage) -> None:
    destination = Failing(lambda number: number < 70, limit=1)
    stage.rows(*range(70))
    with stage.delivering(destination):
        until(lambda: stage.said()[0] == "blocked", "it says that it is blocked")
        stage.rows(70)
        until(lambda: stage.settled(71), "all are counted")
    assert held(destination) == [70]
    assert stage.parked() == ["destination_error"] * 70


class FailingHolder(Holder):
    """Fails at events, and at what else it is told to."""

    def __init__(self, minds: Callable[[int], bool] = lambda number: False) -> None:
        super().__init__()
        self.always = Failing(minds).always
        self.faults: dict[str, list[Exception]] = {}

    def _meet(self, step: str) -> None:
        if self.faults.get(step):
            raise self.faults[step].pop()

    def position(self) -> Position | None:
        self._meet("position")
        return super().position()

    def rewind(self, to: Position) -> None:
        self._meet("rewind")
        super().rewind(to)


@pytest.mark.parametrize("bad", [(3, 4, 17), (0,), (19,), (0, 19)])
@pytest.mark.parametrize("stored", [True, False], ids=["", "killed before it has stored it"])
def test_what_went_with_a_parked_event_is_not_sent_again_at_the_next_start(
    stage: Stage, bad: tuple[int, ...], stored: bool
) -> None:
    destination = FailingHolder(lambda number: number in bad)
    stage.rows(*range(20), each=20)
    with stage.delivering(destination):
        until(lambda: stage.settled(20), "all are counted")
    assert held(destination) == [n for n in range(20) if n not in bad]
    checkpoint = stage.state.checkpoints.get("main", "d")
    assert checkpoint is not None
    assert destination.stored == checkpoint.position
    if not stored:
        destination.stored = destination.stores[-2]
        assert destination.stored < checkpoint.position
    stage.rows(*range(20, 25))
    with stage.delivering(destination):
        until(lambda: stage.settled(25), "the next ones have arrived")
    assert held(destination) == [n for n in range(25) if n not in bad]
    assert len(stage.parked()) == len(bad)


def test_a_position_or_rewind_that_fails_is_tried_again(stage: Stage) -> None:
    destination = FailingHolder()
    destination.faults = {"position": [ValueError("odd"), RuntimeError("odder")], "rewind": [KeyError("oddest")]}
    stage.rows(*range(5))
    with stage.delivering(destination):
        until(lambda: stage.settled(5), "all have arrived")
        stage.state.checkpoints.request_rewind("main", "d", Position(0, -1))
        stage.journal.wake()
        until(lambda: stage.ledger().replayed == 5, "they have come again")
    assert held(destination) == [*range(5), *range(5)]


def test_a_position_that_is_none_blocks_until_it_is_one(stage: Stage) -> None:
    destination = FailingHolder()
    destination.stored = "16/B374D848"
    stage.rows(*range(5))
    with stage.delivering(destination):
        until(lambda: "cannot report its position" in stage.said()[1], "it says so")
        destination.stored = None
        until(lambda: stage.settled(5), "all have arrived")
