"""Whose a stored position is, and what the delivery loop does when the destination's checkpoint is not where it left it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdc_tracker.destinations.base import Cursor, HoldsCheckpoint, KeyedCheckpoint
from cdc_tracker.errors import CheckpointMoved
from cdc_tracker.model import Position
from cdc_tracker.state import Selection
from tests.unit.delivery.stage import MAPPING, Holder, Stage, held, staged, until

BROKEN = MAPPING.replace("type: string", "type: integer")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as made:
        yield made


class Keyed(Holder):
    """Is told its cursor."""

    def bind(self, cursor: Cursor, owns: Callable[[Position], bool]) -> None:
        self.cursor, self.owns = cursor, owns


def bound(stage: Stage) -> Keyed:
    destination = Keyed()
    stage.delivery(destination, stage.state, lambda: True, lambda: True)
    return destination


def moved(stage: Stage, destination: Holder, *ids: int) -> None:
    """The role ends, because what it wrote last is not there when these rows come."""
    with pytest.raises(CheckpointMoved), stage.delivering(destination) as role:
        until(lambda: stage.settled(5), "the first ones are counted")
        destination.always = CheckpointMoved("it was emptied")
        stage.rows(*ids)
        until(lambda: not role.is_alive(), "the role has ended")


def test_a_destination_is_told_its_cursor_and_one_that_does_not_ask_goes_on_as_before(stage: Stage) -> None:
    assert isinstance(Holder(), HoldsCheckpoint)
    assert not isinstance(Holder(), KeyedCheckpoint)
    assert bound(stage).cursor == Cursor("main", "d", 0, "")
    stage.rows(*range(5))
    landed = Holder()
    with stage.delivering(landed):
        until(lambda: stage.settled(5), "all are counted")
    assert landed.position() is not None


def test_a_position_is_the_sources_own_where_its_journal_has_it(stage: Stage) -> None:
    stage.rows(*range(10), each=2)
    assert not bound(stage).owns(Position(1, -1))  # this source has never sent anything: it cannot be the one
    first = Holder()
    with stage.delivering(first):
        until(lambda: stage.settled(10), "all are counted")
    owns = bound(stage).owns
    own = [event.position for event in first.events] + [segment.last for segment in stage.journal.read(Position(0, -1), 100)]
    assert all(map(owns, own))
    assert owns(Position(1, -1))  # from before the journal's start: it skips nothing, and nothing is sent again
    end = own[-1].commit_lsn
    others = [Position(position.commit_lsn + 3, position.ordinal) for position in own] + [Position(end + 10**6, 0)]
    assert not any(map(owns, others))


def test_emptied_while_it_was_written_to_it_is_sent_again_what_it_lacks(stage: Stage) -> None:
    stage.rows(*range(5))
    moved(stage, Keyed(), 5, 6)
    empty = Keyed()
    with stage.delivering(empty):
        until(lambda: len(empty.events) == 7, "everything is there again")
    assert held(empty) == list(range(7))
    assert stage.ledger().pending == 0


def test_taken_back_while_it_was_written_to_it_is_sent_again_what_it_lacks(stage: Stage) -> None:
    stage.rows(*range(5))
    whole = Keyed()
    moved(stage, whole, 5)
    older = Keyed()
    older.events, older.stored = whole.events[:3], whole.events[2].position
    with stage.delivering(older):
        until(lambda: len(older.events) == 6, "everything is there again")
        until(lambda: "was restored" in stage.said()[1], "it says so")
    assert held(older) == list(range(6))


def test_found_empty_at_a_start_it_is_left_so_and_that_is_said(stage: Stage) -> None:
    stage.rows(*range(5))
    with stage.delivering(Keyed()):
        until(lambda: stage.settled(5), "all are counted")
    empty = Keyed()
    with stage.delivering(empty):
        stage.rows(5)
        until(lambda: stage.settled(6), "the next one is counted")
        until(lambda: "is empty although" in stage.said()[1], "it says so")
    assert held(empty) == [5]


def test_dead_letters_that_were_sent_again_are_not_taken_for_lost_at_the_next_start(stage: Stage) -> None:
    destination = Keyed()
    stage.rows(*range(5))
    with stage.delivering(destination):
        until(lambda: stage.settled(5), "all are counted")
        stage.mapping = BROKEN
        stage.reload()
        until(lambda: stage.state.in_hand.get("main", "d").mappings == {"events.yml": BROKEN}, "they count")
        stage.rows(5, 6)
        until(lambda: len(stage.parked()) == 2, "they are parked")
        stage.mapping = MAPPING
        stage.reload()
        until(lambda: stage.state.in_hand.get("main", "d").mappings == {"events.yml": MAPPING}, "the mended ones count")
        stage.state.dead_letters.queue("main", Selection())
        until(lambda: stage.ledger().delivered == 7, "they have arrived")
    with stage.delivering(destination):
        stage.rows(7)
        until(lambda: stage.settled(8), "the next one is counted")
    assert held(destination) == list(range(8))
    assert stage.said()[1] == ""


@pytest.mark.parametrize("running", [True, False])
def test_what_other_mappings_make_of_the_past_is_not_taken_for_lost(stage: Stage, running: bool) -> None:
    destination = Keyed()
    stage.mapping = MAPPING + "    when: new.id < 5\n"
    stage.rows(*range(5))
    with stage.delivering(destination):
        until(lambda: stage.settled(5), "all are counted")
        stage.rows(5, 6, 7)
        until(lambda: stage.state.checkpoints.all("main")["d"].position >= _last(stage), "the rest is passed")
        stage.mapping = MAPPING
        if running:
            stage.reload()
            until(lambda: stage.state.in_hand.get("main", "d").mappings == {"events.yml": MAPPING}, "they count")
    for _ in range(2):
        with stage.delivering(destination):
            until(lambda: stage.said()[0] == "idle", "it has begun")
    assert held(destination) == list(range(5))
    assert stage.said()[1] == ""


def _last(stage: Stage) -> Position:
    end = stage.journal.end()
    assert end is not None
    return end
