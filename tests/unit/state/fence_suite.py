"""One writer: what a process stores that lost its lock, or whose store was taken back, whatever database holds it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from sqlalchemy import text

from cdc_tracker.errors import CdcTrackerError, Fenced, StateUnavailable
from cdc_tracker.model import Position, Rejection
from cdc_tracker.state import CaptureReport, Job, Lock, Outcomes, State, sent_id
from cdc_tracker.state.tables import metadata
from tests.unit.state.job_suite import SPEC
from tests.unit.state.samples import ALL, RECORD, OpenedStore, letter, rejected

Write: TypeAlias = Callable[[State, Job], object]

DELIVERY: dict[str, Write] = {
    "checkpoint": lambda state, _: state.checkpoints.commit(
        "main", "jsonl", Position(300, 0), Outcomes(rejected(1), [letter(250)], sent=[sent_id("b")])
    ),
    "dead letter settled": lambda state, _: state.checkpoints.commit(
        "main", "jsonl", Position(200, 0), Outcomes({}, settled=[_letter(state)])
    ),
    "dead letter parked again": lambda state, _: state.dead_letters.finish_retry(
        "main", "jsonl", {}, {_letter(state): Rejection("refused", "a", Position(150, 0), 0)}, {}
    ),
    "dead letters sent again": lambda state, _: state.in_hand.take_letters("main", "jsonl", [_letter(state)]),
    "mappings to send by": lambda state, _: state.in_hand.take_mappings("main", "jsonl", {"a.yml": "version: 1"}),
    "rewind": lambda state, _: state.checkpoints.apply_rewind("main", "jsonl"),
    "job": lambda state, job: state.jobs.commit(replace(job, state="done"), Outcomes({(3, "a", "replayed"): 1})),
    "sent ids": lambda state, _: state.sent_ids.trim("main", "jsonl", 2**61),
}
CAPTURE: dict[str, Write] = {
    "confirmed": lambda state, _: state.sources.confirm("main", RECORD.confirmed_lsn + 10, 70),
    "confirmed no further": lambda state, _: state.sources.confirm("main", 1, 1),
    "record": lambda state, _: state.sources.save(replace(RECORD, timeline=9)),
}
REQUESTS: dict[str, Write] = {
    "rewind": lambda state, _: state.checkpoints.request_rewind("main", "jsonl", Position(110, 0)),
    "retry": lambda state, _: state.dead_letters.queue("main", ALL),
    "discard": lambda state, _: state.dead_letters.discard("main", ALL),
    "pause": lambda state, job: state.jobs.control(job.id, "paused"),
    "new job": lambda state, _: state.jobs.create("main", "jsonl", SPEC),
}


def _letter(state: State) -> int:
    return state.dead_letters.page("main")[0].id


def _contents(state: State) -> dict[str, list[Any]]:
    with state._database.reading() as connection:
        return {table.name: [tuple(row) for row in connection.execute(table.select())] for table in metadata.sorted_tables}


@contextmanager
def _answer_lost(state: State) -> Iterator[None]:
    """The connection breaks in COMMIT: what was written arrives, and nobody says so."""
    writing = state._database.writing

    @contextmanager
    def broken() -> Iterator[Any]:
        with writing() as connection:
            yield connection
        raise StateUnavailable("the connection broke")

    state._database.writing = broken  # type: ignore[method-assign]
    try:
        with pytest.raises(StateUnavailable, match="broke"):
            yield
    finally:
        del state._database.writing


class FenceSuite(OpenedStore):
    @pytest.fixture
    def lock(self, state: State) -> Iterator[Lock]:
        """That of a role which has work in the store."""
        with state.lock("first") as lock:
            yield lock

    @pytest.fixture
    def begun(self, state: State) -> Job:
        """A delivery's work of every kind is there; a rewind waits."""
        state.sources.save(RECORD)
        state.checkpoints.commit("main", "jsonl", Position(200, 0), Outcomes(rejected(1), [letter(150)], sent=[sent_id("a")]))
        state.dead_letters.queue("main", ALL)
        state.checkpoints.request_rewind("main", "jsonl", Position(120, 0))
        job = state.jobs.create("main", "jsonl", SPEC)
        state.jobs.commit(replace(job, state="running"), Outcomes({}))
        return job

    @pytest.fixture
    def second(self, url: str) -> Iterator[State]:
        """Another process's."""
        with State.open(url) as opened:
            yield opened

    def _takes_over(self, second: State, destination: str | None) -> None:
        with second.lock("second") as lock:
            second.claim(lock, "main", destination)

    @pytest.mark.parametrize(("of", "work"), [*(("jsonl", each) for each in DELIVERY), *((None, each) for each in CAPTURE)])
    def test_who_was_taken_over_from_stores_nothing_more(
        self, state: State, second: State, lock: Lock, begun: Job, of: str | None, work: str
    ) -> None:
        write = (DELIVERY if of else CAPTURE)[work]
        state.claim(lock, "main", of)
        self._takes_over(second, of)
        before = _contents(state)
        for _ in range(2):
            with pytest.raises(Fenced, match="Another process has taken over"):
                write(state, begun)
            state.reports.save("main", "capture", 1, "stopped", CaptureReport())
            assert _contents(state) == before
        write(second, begun)
        assert _contents(state) != before

    @pytest.mark.parametrize("work", DELIVERY)
    def test_the_one_that_holds_the_lock_stores_all_its_work(self, state: State, lock: Lock, begun: Job, work: str) -> None:
        state.claim(lock, "main", "jsonl")
        for _ in range(3):
            state.checkpoints.commit("main", "jsonl", Position(200, 0), Outcomes({}))
        DELIVERY[work](state, begun)
        state.checkpoints.commit("main", "jsonl", Position(400, 0), Outcomes({}))

    @pytest.mark.parametrize("ask", REQUESTS)
    def test_what_a_person_asks_for_disturbs_nobody(self, state: State, second: State, lock: Lock, begun: Job, ask: str) -> None:
        state.claim(lock, "main", "jsonl")
        REQUESTS[ask](second, begun)
        state.checkpoints.commit("main", "jsonl", Position(300, 0), Outcomes({}))

    @pytest.mark.parametrize("work", ["checkpoint", "job", "rewind"])
    def test_a_commit_whose_answer_was_lost_is_gone_on_from_whether_it_arrived_or_not(
        self, state: State, second: State, lock: Lock, begun: Job, work: str
    ) -> None:
        state.claim(lock, "main", "jsonl")
        for _ in range(2):
            with _answer_lost(state):
                DELIVERY[work](state, begun)
        state.checkpoints.commit("main", "jsonl", Position(300, 0), Outcomes({}))
        self._takes_over(second, "jsonl")
        with pytest.raises(Fenced):
            state.checkpoints.commit("main", "jsonl", Position(300, 0), Outcomes({}))

    @pytest.mark.parametrize("work", DELIVERY)
    def test_a_store_that_was_taken_back_is_not_gone_on_from(self, state: State, lock: Lock, begun: Job, work: str) -> None:
        """A failover lost the last commits, dead letters among them: what they were of must be done again."""
        state.claim(lock, "main", "jsonl")
        with state._database.reading() as connection:
            version = connection.execute(text("SELECT version FROM cdc_tracker_checkpoint")).scalar()
        state.checkpoints.commit("main", "jsonl", Position(200, 0), Outcomes({}))
        with state._database.writing() as connection:
            connection.execute(text("UPDATE cdc_tracker_checkpoint SET version = :v"), {"v": version})
        with pytest.raises(Fenced, match="was restored"):
            DELIVERY[work](state, begun)

    def test_a_take_over_that_a_failover_has_lost_is_not_mistaken_for_a_later_one(self, state: State, second: State) -> None:
        with state.lock("first") as first, second.lock("second") as other:
            with state._database.reading() as connection:
                version = connection.execute(text("SELECT version FROM cdc_tracker_checkpoint")).scalar()
            state.claim(first, "main", "jsonl")
            with state._database.writing() as connection:
                connection.execute(text("UPDATE cdc_tracker_checkpoint SET version = :v"), {"v": version})
            second.claim(other, "main", "jsonl")
            with pytest.raises(Fenced):
                state.checkpoints.commit("main", "jsonl", Position(300, 0), Outcomes({}))
            second.checkpoints.commit("main", "jsonl", Position(300, 0), Outcomes({}))

    def test_a_lock_that_is_known_to_be_another_s_is_enough(self, state: State, lock: Lock, begun: Job) -> None:
        state.claim(lock, "main", "jsonl")
        lock.lost = Fenced("gone")
        with pytest.raises(Fenced, match="gone"):
            state.checkpoints.commit("main", "jsonl", Position(300, 0), Outcomes({}))

    def test_a_checkpoint_that_was_made_anew_is_another_one(self, state: State, second: State, lock: Lock) -> None:
        state.claim(lock, "main", "jsonl")
        state.checkpoints.drop("main")
        with pytest.raises(Fenced, match="removed"):
            state.checkpoints.commit("main", "jsonl", Position(300, 0), Outcomes({}))
        second.checkpoints.create("main", "jsonl", Position(5, 0))
        with pytest.raises(Fenced):
            state.checkpoints.commit("main", "jsonl", Position(300, 0), Outcomes({}))

    def test_of_many_that_take_over_from_each_other_every_commit_that_succeeded_is_counted_once(
        self, url: str, state: State
    ) -> None:
        done: list[int] = []
        faults: list[BaseException] = []

        def work(number: int) -> None:
            with State.open(url) as mine, mine.lock(f"worker {number}") as lock:
                for _ in range(8):
                    mine.claim(lock, "main", "jsonl")
                    try:
                        for _ in range(4):
                            mine.checkpoints.commit("main", "jsonl", Position(200, 0), Outcomes({(3, "a", "delivered"): 1}))
                            done.append(number)
                    except Fenced:
                        pass
                    except CdcTrackerError as error:
                        faults.append(error)

        threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not faults
        assert self.ledger_row(state).delivered == len(done)
