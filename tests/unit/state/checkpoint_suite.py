"""Checkpoints, the ledger and rewinds, whatever database holds them."""

from __future__ import annotations

import pytest

from cdc_tracker.errors import StateMissing, Stop
from cdc_tracker.model import Position
from cdc_tracker.state import Checkpoint, LedgerRow, Outcomes, State
from tests.unit.state.samples import OpenedStore, letter, rejected
from tests.unit.state.stores import program

COMMITTER = """
import sys
from cdc_tracker.model import Position
from cdc_tracker.state import Outcomes, State
from tests.unit.state.samples import letter
state = State.open(sys.argv[1])
start = state.checkpoints.get("main", "jsonl").position.commit_lsn
for lsn in range(start + 1, start + 100000):
    counts = {(3, "Order Paid", "matched"): 1, (3, "Order Paid", "rejected"): 1}
    state.checkpoints.commit("main", "jsonl", Position(lsn, 0), Outcomes(counts, [letter(lsn)]))
    print(lsn, flush=True)
"""


class CheckpointSuite(OpenedStore):
    def test_a_checkpoint_is_created_once_and_then_left_alone(self, state: State) -> None:
        assert state.checkpoints.get("main", "webhook") is None
        state.checkpoints.create("main", "webhook", Position(200, 3))
        state.checkpoints.create("main", "webhook", Position(900, 0))
        state.checkpoints.create("other", "webhook", Position(7, 0))
        found = state.checkpoints.get("main", "webhook")
        assert found == Checkpoint(Position(200, 3), Position(200, 3), None, found.updated_at if found else 0)
        assert {name: point.position for name, point in state.checkpoints.all("main").items()} == {
            "jsonl": Position(100, -1),
            "webhook": Position(200, 3),
        }

    def test_a_commit_moves_the_checkpoint_and_adds_to_the_ledger(self, state: State) -> None:
        counts = {(3, "Order Paid", "matched"): 5, (3, "Order Paid", "delivered"): 4, (4, "Signed Up", "matched"): 1}
        assert state.checkpoints.commit("main", "jsonl", Position(150, 2), Outcomes(counts)) is None
        assert state.checkpoints.commit("main", "jsonl", Position(150, 7), Outcomes({(3, "Order Paid", "delivered"): 1})) is None
        found = state.checkpoints.get("main", "jsonl")
        assert found is not None
        assert (found.position, found.high, found.rewind_to) == (Position(150, 7), Position(150, 7), None)
        assert state.ledger.rows("main") == [
            LedgerRow("jsonl", "Order Paid", 3, 5, 5, 0, 0, 0, 0),
            LedgerRow("jsonl", "Signed Up", 4, 1, 0, 0, 0, 0, 0),
        ]
        assert [row.pending for row in state.ledger.rows("main")] == [0, 1]

    def test_the_ledger_is_filtered_by_destination_mapping_and_hour(self, state: State) -> None:
        state.checkpoints.create("main", "webhook", Position(0, -1))
        for destination in ("jsonl", "webhook"):
            for hour in (3, 4):
                state.checkpoints.commit(
                    "main", destination, Position(150, 0), Outcomes({(hour, key, "assumed"): hour for key in ("a", "b")})
                )
        assert len(state.ledger.rows("main")) == 8
        assert [row.hour for row in state.ledger.rows("main", "webhook", "b")] == [3, 4]
        assert state.ledger.rows("main", destination="jsonl", since_hour=4, mapping="a") == [
            LedgerRow("jsonl", "a", 4, 0, 0, 4, 0, 0, 0)
        ]
        assert state.ledger.rows("other") == []

    def test_a_checkpoint_does_not_go_back_by_a_commit_and_nothing_of_it_is_kept(self, state: State) -> None:
        state.checkpoints.commit("main", "jsonl", Position(150, 2), Outcomes({}))
        for back in (Position(150, 1), Position(149, 9)):
            with pytest.raises(Stop, match="would move from 0/96\\+2"):
                state.checkpoints.commit("main", "jsonl", back, Outcomes(rejected(1), [letter(140)]))
        assert state.ledger.rows("main") == []
        assert state.dead_letters.page("main") == []

    def test_a_commit_without_a_checkpoint_stops(self, state: State) -> None:
        with pytest.raises(StateMissing, match="no checkpoint of nowhere for the source main"):
            state.checkpoints.commit("main", "nowhere", Position(1, 0), Outcomes({}))

    def test_an_outcome_that_the_ledger_does_not_have_is_refused_and_nothing_is_kept(self, state: State) -> None:
        with pytest.raises(ValueError, match="lost"):
            state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes({(3, "a", "lost"): 1}))
        found = state.checkpoints.get("main", "jsonl")
        assert found is not None
        assert found.position == Position(100, -1)

    def test_a_rewind_is_told_by_commits_until_it_is_applied_and_high_stays(self, state: State) -> None:
        state.checkpoints.commit("main", "jsonl", Position(500, 4), Outcomes({}))
        state.checkpoints.request_rewind("main", "jsonl", Position(200, 1))
        found = state.checkpoints.get("main", "jsonl")
        assert found is not None
        assert found.rewind_to == Position(200, 1)
        assert state.checkpoints.commit("main", "jsonl", Position(600, 0), Outcomes({})) == Position(200, 1)
        assert state.checkpoints.apply_rewind("main", "jsonl") == Position(200, 1)
        found = state.checkpoints.get("main", "jsonl")
        assert found is not None
        assert (found.position, found.high, found.rewind_to) == (Position(200, 1), Position(600, 0), None)
        assert state.checkpoints.commit("main", "jsonl", Position(300, 0), Outcomes({})) is None
        found = state.checkpoints.get("main", "jsonl")
        assert found is not None
        assert (found.position, found.high) == (Position(300, 0), Position(600, 0))
        state.checkpoints.commit("main", "jsonl", Position(600, 1), Outcomes({}))
        found = state.checkpoints.get("main", "jsonl")
        assert found is not None
        assert found.high == Position(600, 1)

    def test_a_rewind_for_what_is_missing_is_in_force_until_the_checkpoint_is_where_it_was(self, state: State) -> None:
        def only_missing() -> bool:
            found = state.checkpoints.get("main", "jsonl")
            assert found is not None
            return found.only_missing

        state.checkpoints.commit("main", "jsonl", Position(500, 4), Outcomes({}))
        state.checkpoints.request_rewind("main", "jsonl", Position(200, 1), only_missing=True)
        assert not only_missing()
        state.checkpoints.commit("main", "jsonl", Position(500, 5), Outcomes({}))
        assert not only_missing()
        state.checkpoints.apply_rewind("main", "jsonl")
        assert only_missing()
        state.checkpoints.commit("main", "jsonl", Position(500, 4), Outcomes({}))
        assert only_missing()
        state.checkpoints.commit("main", "jsonl", Position(500, 5), Outcomes({}))
        assert not only_missing()
        state.checkpoints.request_rewind("main", "jsonl", Position(200, 1))
        state.checkpoints.apply_rewind("main", "jsonl")
        assert not only_missing()

    def test_the_last_rewind_that_was_asked_for_says_whether_all_is_sent(self, state: State) -> None:
        state.checkpoints.commit("main", "jsonl", Position(500, 4), Outcomes({}))
        for only_missing in (True, False, True):
            state.checkpoints.request_rewind("main", "jsonl", Position(200, 1), only_missing=not only_missing)
            state.checkpoints.request_rewind("main", "jsonl", Position(300, 1), only_missing=only_missing)
            assert state.checkpoints.apply_rewind("main", "jsonl") == Position(300, 1)
            found = state.checkpoints.get("main", "jsonl")
            assert found is not None
            assert found.only_missing is only_missing
            state.checkpoints.commit("main", "jsonl", Position(400, 0), Outcomes({}))

    def test_applying_a_rewind_that_nobody_asked_for_changes_nothing(self, state: State) -> None:
        assert state.checkpoints.apply_rewind("main", "jsonl") == Position(100, -1)

    def test_a_rewind_forward_is_refused_because_it_would_skip(self, state: State) -> None:
        with pytest.raises(Stop, match="move it forward and skip changes"):
            state.checkpoints.request_rewind("main", "jsonl", Position(100, 0))
        with pytest.raises(StateMissing):
            state.checkpoints.request_rewind("main", "nowhere", Position(1, 0))
        found = state.checkpoints.get("main", "jsonl")
        assert found is not None
        assert found.rewind_to is None

    def test_a_killed_deliverer_s_commits_are_whole(self, state: State, url: str) -> None:
        for commits in (5, 20):
            with program(COMMITTER, url) as committer:
                assert committer.stdout is not None
                for _ in range(commits):
                    assert committer.stdout.readline(), committer.stderr.read() if committer.stderr else ""
                committer.kill()
                said = list(map(int, committer.stdout.read().split()))
            found = state.checkpoints.get("main", "jsonl")
            assert found is not None
            assert not said or found.position.commit_lsn - said[-1] in (0, 1)
            count = found.position.commit_lsn - 100
            assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, count, 0, 0, count, 0, 0)
            assert state.dead_letters.count("main") == {("jsonl", "type_mismatch"): count}
