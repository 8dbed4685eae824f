"""The sent-ledger, whatever database holds it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cdc_tracker.errors import Stop
from cdc_tracker.model import Position
from cdc_tracker.state import Outcomes, State, sent_ids
from cdc_tracker.state.sent_ids import WEEK
from tests.unit.state.samples import OpenedStore


def ids(count: int, seed: int = 1) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(16) for _ in range(count)]


@contextmanager
def at(monkeypatch: pytest.MonkeyPatch, moment: int) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(sent_ids, "now_micros", lambda: moment)
        yield


class SentSuite(OpenedStore):
    def send(self, state: State, *batches: list[bytes]) -> None:
        for batch in batches:
            found = state.checkpoints.get("main", "jsonl")
            assert found is not None
            state.checkpoints.commit("main", "jsonl", Position(found.position.commit_lsn + 1, 0), Outcomes({}, sent=batch))

    def test_what_was_sent_is_known_and_nothing_else(self, state: State) -> None:
        assert state.sent_ids.find("main", "jsonl", ids(3)) == set()
        assert (state.sent_ids.since("main", "jsonl"), state.sent_ids.count("main", "jsonl")) == (None, 0)
        before = time.time_ns() // 1000
        self.send(state, ids(3), [])
        since = state.sent_ids.since("main", "jsonl")
        assert since is not None
        assert before <= since <= time.time_ns() // 1000
        assert state.sent_ids.count("main", "jsonl") == 3
        assert state.sent_ids.find("main", "jsonl", [*ids(5), *ids(5)]) == set(ids(3))
        assert state.sent_ids.find("main", "jsonl", []) == set()
        for source, destination in (("main", "webhook"), ("other", "jsonl")):
            assert state.sent_ids.find(source, destination, ids(3)) == set()
            assert state.sent_ids.count(source, destination) == 0

    def test_an_id_is_known_only_if_the_checkpoint_was_committed_with_it(self, state: State) -> None:
        with pytest.raises(Stop):
            state.checkpoints.commit("main", "jsonl", Position(50, 0), Outcomes({}, sent=ids(3)))
        assert state.sent_ids.find("main", "jsonl", ids(3)) == set()

    @pytest.mark.parametrize("batch", [7, 500, 30_000])
    def test_tens_of_thousands_are_found_again_in_commits_of_any_size(self, state: State, batch: int) -> None:
        count = 30_000 if batch > 7 else 3_000
        given = ids(count)
        self.send(state, *(given[start : start + batch] for start in range(0, count, batch)))
        assert state.sent_ids.find("main", "jsonl", given) == set(given)
        unknown = ids(2000, seed=2)
        assert state.sent_ids.find("main", "jsonl", unknown) == set()
        assert state.sent_ids.find("main", "jsonl", unknown[:100] + given[-100:]) == set(given[-100:])
        assert state.sent_ids.count("main", "jsonl") == count

    def test_ids_that_begin_alike_are_told_apart(self, state: State) -> None:
        given = [b"\xff" * 4 + number.to_bytes(12, "big") for number in range(6000)]
        self.send(state, given[:2500], given[2500:5000])
        assert state.sent_ids.find("main", "jsonl", given) == set(given[:5000])
        edges = [b"\x00" * 16, b"\xff" * 16, b"\x00" * 15 + b"\x01", b"\x7f" + b"\xff" * 15, b"\x80" + b"\x00" * 15]
        self.send(state, edges)
        assert state.sent_ids.find("main", "jsonl", edges) == set(edges)

    def test_an_id_of_another_length_is_refused_before_it_spoils_others(self, state: State) -> None:
        with pytest.raises(ValueError, match="16 bytes"):
            self.send(state, [*ids(3), b"short"])
        assert state.sent_ids.count("main", "jsonl") == 0

    def test_what_was_sent_is_found_while_commits_move_it_about(self, state: State, url: str) -> None:
        known, problems = ids(600), []
        self.send(state, known)

        def commit() -> None:
            try:
                with State.open(url) as mine:
                    for number in range(60):
                        mine.checkpoints.commit(
                            "main", "jsonl", Position(1000 + number, 0), Outcomes({}, sent=ids(400, number + 2))
                        )
            except BaseException as error:
                problems.append(error)

        committer = threading.Thread(target=commit, daemon=True)
        committer.start()
        while committer.is_alive():
            assert state.sent_ids.find("main", "jsonl", known[::7]) == set(known[::7])
        committer.join(60)
        assert problems == []

    def test_sending_the_same_again_does_no_harm_in_the_same_week_or_another(
        self, state: State, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with at(monkeypatch, 2900 * WEEK):
            self.send(state, ids(3000), ids(3000))
        with at(monkeypatch, 2901 * WEEK):
            self.send(state, ids(3000))
        assert state.sent_ids.find("main", "jsonl", ids(3000)) == set(ids(3000))
        state.sent_ids.trim("main", "jsonl", 2901 * WEEK)
        assert state.sent_ids.find("main", "jsonl", ids(3000)) == set(ids(3000))
        assert state.sent_ids.count("main", "jsonl") == 3000

    def test_weeks_that_are_past_are_removed_and_no_more_vouched_for(self, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sent_ids, "REMOVED_AT_ONCE", 3)
        state.checkpoints.create("main", "webhook", Position(1, 0))
        state.checkpoints.create("other", "jsonl", Position(1, 0))
        for week in (2900, 2901, 2902):
            with at(monkeypatch, week * WEEK + 5):
                self.send(state, ids(4000, week))
                state.checkpoints.commit("main", "webhook", Position(week, 0), Outcomes({}, sent=ids(10, week)))
                state.checkpoints.commit("other", "jsonl", Position(week, 0), Outcomes({}, sent=ids(10, week)))
        assert state.sent_ids.since("main", "jsonl") == 2900 * WEEK + 5
        assert state.sent_ids.trim("main", "jsonl", 2900 * WEEK) == 0
        assert state.sent_ids.trim("main", "jsonl", 2902 * WEEK - 1) == 4000  # the second week is not over
        assert state.sent_ids.trim("main", "jsonl", 2902 * WEEK - 1) == 0
        assert state.sent_ids.since("main", "jsonl") == 2901 * WEEK + 5
        assert state.sent_ids.count("main", "jsonl") == 8000
        assert state.sent_ids.find("main", "jsonl", ids(4000, 2900)) == set()
        assert state.sent_ids.find("main", "jsonl", ids(4000, 2901)) == set(ids(4000, 2901))
        assert (
            state.sent_ids.find("main", "webhook", ids(10, 2900))
            == state.sent_ids.find("other", "jsonl", ids(10, 2900))
            == set(ids(10, 2900))
        )
        assert state.sent_ids.trim("main", "jsonl", 4000 * WEEK) == 8000
        assert (state.sent_ids.since("main", "jsonl"), state.sent_ids.count("main", "jsonl")) == (None, 0)
        self.send(state, ids(5))
        assert state.sent_ids.find("main", "jsonl", ids(10)) == set(ids(5))

    def test_a_removal_that_was_interrupted_is_ended_by_the_next(self, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
        with at(monkeypatch, 2900 * WEEK):
            self.send(state, ids(4000))
        with at(monkeypatch, 2901 * WEEK):
            self.send(state, ids(100, 2))
        monkeypatch.setattr(sent_ids, "REMOVED_AT_ONCE", 5)
        steps = iter(range(3))
        whole = sent_ids.remove_some

        def interrupted(*given: object) -> tuple[int, bool]:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return whole(*given)  # type: ignore[arg-type]  # as it was called

        with monkeypatch.context() as patch:
            patch.setattr(sent_ids, "remove_some", interrupted)
            with pytest.raises(KeyboardInterrupt):
                state.sent_ids.trim("main", "jsonl", 2901 * WEEK)
        left = len(state.sent_ids.find("main", "jsonl", ids(4000)))
        assert 0 < left < 4000
        assert state.sent_ids.count("main", "jsonl") == left + 100
        assert state.sent_ids.since("main", "jsonl") == 2901 * WEEK  # half a week is no knowledge
        assert state.sent_ids.trim("main", "jsonl", 2901 * WEEK) == left
        assert state.sent_ids.find("main", "jsonl", [*ids(4000), *ids(100, 2)]) == set(ids(100, 2))

    def test_a_week_of_which_a_part_was_removed_takes_ids_again(self, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
        """As after a clock that was put back. Its nodes have lost their first blocks, and may not write over the others."""
        with at(monkeypatch, 2900 * WEEK):
            for number in range(33):
                self.send(state, ids(100, number))
        monkeypatch.setattr(sent_ids, "REMOVED_AT_ONCE", 1)
        removed = 0
        for number in range(33, 45):
            with state._database.writing() as connection:
                [week] = sent_ids.begin_removal(connection, "main", "jsonl", 2901 * WEEK)
                removed += sent_ids.remove_some(connection, week)[0]
            with at(monkeypatch, 2900 * WEEK):
                self.send(state, ids(100, number))
            assert state.sent_ids.find("main", "jsonl", ids(100, number)) == set(ids(100, number))
        assert state.sent_ids.count("main", "jsonl") == 4500 - removed

    def test_ids_may_be_added_while_their_week_is_removed(self, state: State, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody has a reason to, but whatever comes of it is whole: an id is found and counted, or neither."""
        monkeypatch.setattr(sent_ids, "REMOVED_AT_ONCE", 2)
        problems: list[BaseException] = []

        def add() -> None:
            try:
                with State.open(url) as mine:
                    for number in range(40):
                        mine.checkpoints.commit("main", "jsonl", Position(1000 + number, 0), Outcomes({}, sent=ids(100, number)))
            except BaseException as error:
                problems.append(error)

        adder = threading.Thread(target=add, daemon=True)
        adder.start()
        removed = 0
        while adder.is_alive():
            removed += state.sent_ids.trim("main", "jsonl", 9000 * WEEK)
        adder.join(60)
        assert problems == []
        left = [one for number in range(40) for one in ids(100, number)]
        assert len(state.sent_ids.find("main", "jsonl", left)) == state.sent_ids.count("main", "jsonl") == 4000 - removed
        assert state.sent_ids.trim("main", "jsonl", 9000 * WEEK) == 4000 - removed
        assert state.sent_ids.find("main", "jsonl", left) == set()
