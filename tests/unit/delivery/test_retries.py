"""Dead letters that are sent again, on the road that the stream and jobs go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_tracker.delivery import report
from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.errors import DestinationUnavailable
from cdc_tracker.model import DELIVERED, Batch, Receipt
from cdc_tracker.state import Selection
from tests.unit.delivery.stage import MAPPING, Fault, Holder, Killed, Stage, Trap, TrappedHolder, held, order, staged, until

BROKEN = MAPPING.replace("type: string", "type: integer")
ALL = Selection()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as opened:
        yield opened


def parked(stage: Stage, destination: MemoryDestination, count: int, each: int = 100) -> None:
    """So many dead letters, and mappings by which each would go through now."""
    stage.mapping = BROKEN
    stage.rows(*range(count), each=each)
    with stage.delivering(destination):
        until(lambda: stage.settled(count), "all are parked")
    assert len(stage.parked()) == count
    stage.mapping = MAPPING


@pytest.mark.invariant(15)
@pytest.mark.parametrize("kind", [MemoryDestination, Holder])
def test_thousands_of_dead_letters_are_sent_in_a_few_calls_and_commits(stage: Stage, kind: type[MemoryDestination]) -> None:
    destination = kind()
    parked(stage, destination, 5_000, each=1_000)
    state = Trap(stage.state)
    destination.batches.clear()
    stage.state.dead_letters.queue("main", ALL)
    with stage.delivering(destination, state=state):  # type: ignore[arg-type]  # it has every method of one
        until(lambda: stage.ledger().delivered == 5_000, "all have arrived")
    assert sorted(held(destination)) == list(range(5_000))
    assert stage.parked() == []
    assert len([batch for batch in destination.batches if batch.events]) < 10
    assert state.calls("dead_letters.finish_retry") < 10


def test_the_role_says_that_it_waits_while_retries_find_the_destination_away(stage: Stage) -> None:
    destination = MemoryDestination()
    parked(stage, destination, 20)
    stage.state.dead_letters.queue("main", ALL)
    destination.always = DestinationUnavailable("away")
    with stage.delivering(destination):
        until(lambda: stage.said() == ("retrying", "away"), "it says so")
        told = reported(stage)
        until(lambda: reported(stage) > told, "it goes on saying so")
        destination.always = None
        until(lambda: stage.ledger().delivered == 20, "all have arrived")
        until(lambda: stage.said() == ("idle", ""), "it says that the trouble is over, although the stream has no event")
    assert held(destination) == list(range(20))


def reported(stage: Stage) -> int:
    return next(role.updated_at for role in stage.state.reports.all("main") if role.role == "deliver:d")


def test_the_stream_and_retries_take_turns(stage: Stage) -> None:
    """Each of many calls takes a while, and the stream is never read to its end meanwhile."""
    destination = MemoryDestination()
    parked(stage, destination, 6_000, each=1_000)
    stage.state.dead_letters.queue("main", ALL)
    stage.rows(*range(6_000, 6_200))

    def slow(batch: Batch) -> list[Receipt]:
        time.sleep(0.01)
        return [DELIVERED] * len(batch.events)

    destination.always = slow
    with stage.delivering(destination):
        until(lambda: stage.ledger().delivered == 6_200, "all have arrived")
    old = [n for n, batch in enumerate(destination.batches) if batch.events and order(batch.events[0]) < 6_000]
    new = [n for n, batch in enumerate(destination.batches) if batch.events and order(batch.events[0]) >= 6_000]
    assert old[0] < new[-1]
    assert new[0] < old[-1]


def test_a_letter_that_fails_again_is_parked_with_its_history(stage: Stage) -> None:
    destination = MemoryDestination()
    parked(stage, destination, 10)
    [first, *_] = stage.state.dead_letters.page("main")
    stage.mapping = BROKEN.replace("type: integer", "type: boolean")
    for tries in (1, 2):
        stage.state.dead_letters.queue("main", ALL)
        with stage.delivering(destination):
            until(lambda: stage.settled(10), "all are parked again")
        letters = stage.state.dead_letters.page("main")
        assert [letter.attempts for letter in letters] == [tries] * 10
        assert (letters[0].id, letters[0].created_at) == (first.id, first.created_at)
        assert stage.ledger().rejected == 10


def test_letters_that_a_destination_fails_at_are_parked_again_and_do_not_block_the_stream(stage: Stage) -> None:
    destination = MemoryDestination()
    parked(stage, destination, 10)
    stage.state.dead_letters.queue("main", ALL)
    destination.always = ValueError("each of them")
    with stage.delivering(destination):
        until(lambda: stage.settled(10), "all are parked again")
        destination.always = None
        stage.rows(10)
        until(lambda: stage.settled(11), "the stream goes on")
    assert stage.parked() == ["destination_error"] * 10
    assert held(destination) == [10]


def test_a_letter_that_cannot_be_read_any_more_is_parked_again_and_the_others_go(stage: Stage) -> None:
    destination = MemoryDestination()
    parked(stage, destination, 3)
    with stage.state._database.writing() as connection:
        connection.exec_driver_sql("UPDATE cdc_tracker_dead_letter SET segment = x'00' WHERE id = 2")
    stage.state.dead_letters.queue("main", ALL)
    with stage.delivering(destination):
        until(lambda: stage.settled(3), "all are dealt with")
    assert stage.parked() == ["unreadable"]
    assert held(destination) == [0, 2]


KILLS = {
    "before they are noted": ("state", "in_hand.take_letters", False),
    "before they are sent": ("state", "in_hand.take_letters", True),
    "before the destination has them": ("destination", "deliver", False),
    "when the destination has them": ("destination", "deliver", True),
    "before they are settled": ("state", "dead_letters.finish_retry", False),
    "when they are settled": ("state", "dead_letters.finish_retry", True),
}


@pytest.mark.parametrize("after", ["the same", "others are queued", "some are discarded", "other mappings"])
@pytest.mark.parametrize(("what", "method", "done"), KILLS.values(), ids=KILLS.keys())
def test_killed_while_letters_are_sent_again_none_is_lost_or_doubled(
    stage: Stage, what: str, method: str, done: bool, after: str
) -> None:
    destination = Holder()
    parked(stage, destination, 30)
    ids = [letter.id for letter in stage.state.dead_letters.page("main")]
    stage.state.dead_letters.queue("main", Selection(ids=ids[10:20]))
    dead = threading.Event()
    state, front = Trap(stage.state, dead), TrappedHolder(destination, dead)
    (front if what == "destination" else state).faults[method] = Fault(Killed(), after=done)
    with pytest.raises(Killed), stage.delivering(front, state=state) as role:  # type: ignore[arg-type]
        until(lambda: not role.is_alive(), "it is killed")
    expected = list(range(10, 20))
    if after == "others are queued":
        stage.state.dead_letters.queue("main", Selection(ids=ids[5:10]))
        expected = list(range(5, 20))
    if after == "some are discarded":
        stage.state.dead_letters.discard("main", Selection(ids=ids[15:16]))
    if after == "other mappings":
        stage.mapping = BROKEN
    with stage.delivering(destination):
        until(lambda: stage.ledger().pending == 0, "all are dealt with")
    found = held(destination)
    assert len(set(found)) == len(found)
    letters = {letter.id for letter in stage.state.dead_letters.page("main")}
    discarded = {15} if after == "some are discarded" else set()
    assert {n for n in found if ids[n] in letters} <= discarded
    if after != "other mappings":
        assert set(expected) - set(found) <= discarded
    row = stage.ledger()
    assert row.matched == 30 == row.delivered + row.rejected


def test_a_destination_that_does_not_answer_is_told_of_until_it_does(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PATIENCE", 0.5)
    answered = threading.Event()
    destination = MemoryDestination()

    def hang(batch: Batch) -> list[Receipt]:
        answered.wait(60)
        return [DELIVERED] * len(batch.events)

    destination.always = hang
    stage.rows(*range(5))
    with stage.delivering(destination):
        until(lambda: stage.said() == ("delivering", "it has been given events, and does not answer"), "it says so")
        answered.set()
        until(lambda: stage.settled(5) and not stage.said()[1], "it is over")
