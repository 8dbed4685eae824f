"""Jobs, whatever database holds them."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any, Literal

import pytest
from sqlalchemy import select

from cdc_tracker.errors import StateMissing, Stop
from cdc_tracker.model import Position
from cdc_tracker.state import (
    BackfillProgress,
    BackfillSpec,
    Job,
    JobCounts,
    JobState,
    LedgerRow,
    Outcomes,
    ReplayProgress,
    ReplaySpec,
    State,
    sent_id,
)
from cdc_tracker.state.tables import jobs
from tests.unit.state.samples import RECORD, OpenedStore, letter, rejected
from tests.unit.state.stores import program

TEXTS = {"shop.yml": "version: 1\n# Grüße"}
SPEC = ReplaySpec(after=Position(100, -1), upto=Position(900, 3), events=None, mappings=TEXTS)
BACKFILL = BackfillSpec(
    event="Order Paid",
    table="shop.orders",
    where="id > 7",
    order="desc",
    from_us=None,
    to_us=1_790_000_000_000_000,
    mappings=TEXTS,
    only_missing=True,
    max_rate=0.5,
    chunk=5000,
)
WORKER = """
import sys
from dataclasses import replace
from cdc_tracker.model import Position
from cdc_tracker.state import JobCounts, Outcomes, ReplayProgress, State, sent_id
state = State.open(sys.argv[1])
job = state.jobs.next("main", "jsonl")
while True:
    done = job.progress.position.commit_lsn + 1 if job.progress.position else 1
    progress = ReplayProgress(position=Position(done, 0))
    job = replace(job, state="running", progress=progress, counts=JobCounts(sent=done), segment=b"part %d" % done)
    state.jobs.commit(job, Outcomes({(3, "Order Paid", "replayed"): 1}, sent=[sent_id(str(done))]))
    print(done, flush=True)
"""


def at(number: int) -> ReplayProgress:
    return ReplayProgress(position=Position(number, 0))


def reached(job: Job) -> int:
    assert isinstance(job.progress, ReplayProgress)
    return job.progress.position.commit_lsn if job.progress.position else 0


class JobSuite(OpenedStore):
    def job(self, state: State, **given: Any) -> Job:
        return state.jobs.create("main", "jsonl", SPEC, **given)

    def running(self, state: State, **given: Any) -> Job:
        job = replace(self.job(state, **given), state="running")
        assert state.jobs.commit(job, Outcomes({})) == "running"
        return job

    def found(self, state: State, job: Job) -> Job:
        found = state.jobs.get(job.id)
        assert found is not None
        return found

    def test_a_new_job_waits_and_comes_back_with_all_that_was_asked_for(self, state: State) -> None:
        job = state.jobs.create("main", "jsonl", BACKFILL, needs=Position(90, 2), total=1234)
        assert (job.source, job.destination, job.kind, job.state, job.spec) == ("main", "jsonl", "backfill", "queued", BACKFILL)
        assert job.counts == JobCounts(total=1234)
        assert (job.progress, job.segment, job.needs, job.trouble) == (BackfillProgress(), b"", Position(90, 2), "")
        assert job.created_at == job.updated_at > 1_700_000_000_000_000
        assert (job.started_at, job.finished_at, job.finished) == (0, 0, False)
        assert self.found(state, job) == job
        assert state.jobs.get(job.id + 1) is None
        assert self.job(state).needs is None

    def test_a_landed_backfill_is_read_and_stored_as_it_was(self, state: State) -> None:
        spec = (
            '{"event":"Order Paid","table":"shop.orders","where":"id > 7","order":"desc","from":null,"to":1790000000000000,'
            '"mappings":{"shop.yml":"version: 1\\n# Grüße"},"only_missing":true,"max_rate":0.5,"chunk":5000}'
        )
        progress = (
            '{"after":["a","1"],"low":700,"high":900,"last_key":["b","9"],"end":true,"at":3,"rows":20,"running":[7,8],'
            '"key":["k","id"]}'
        )
        job = state.jobs.create("main", "jsonl", BACKFILL)
        with state._database.writing() as connection:
            connection.execute(jobs.update().values(spec=spec, progress=progress))
        found = self.found(state, job)
        assert found.spec == BACKFILL and isinstance(found.progress, BackfillProgress)
        assert (found.progress.after, found.progress.last_key, found.progress.key) == (("a", "1"), ("b", "9"), ("k", "id"))
        assert (found.progress.low, found.progress.high, found.progress.running) == (700, 900, (7, 8))
        state.jobs.commit(replace(found, state="running"), Outcomes({}))
        with state._database.reading() as connection:
            stored = connection.execute(select(jobs.c.progress)).scalar_one()
        assert json.loads(stored) == json.loads(progress)

    def test_jobs_are_listed_in_order_without_segments(self, state: State) -> None:
        one = replace(self.running(state), segment=b"x" * 10_000)
        state.jobs.commit(one, Outcomes({}))
        two = state.jobs.create("main", "webhook", SPEC)
        three = state.jobs.create("other", "jsonl", SPEC)
        four = self.job(state)
        state.jobs.control(four.id, "cancelled")
        assert [job.id for job in state.jobs.all("main")] == [one.id, two.id, four.id]
        assert [job.segment for job in state.jobs.all("main")] == [b"", b"", b""]
        assert self.found(state, one).segment == b"x" * 10_000
        assert [job.id for job in state.jobs.all("main", destination="jsonl")] == [one.id, four.id]
        assert [job.id for job in state.jobs.all("main", unfinished=True)] == [one.id, two.id]
        assert [job.id for job in state.jobs.all("other")] == [three.id]

    def test_jobs_of_a_destination_come_one_after_the_other(self, state: State) -> None:
        other = state.jobs.create("main", "webhook", SPEC)
        one, two = self.job(state), self.job(state)
        assert state.jobs.next("main", "jsonl") == one
        state.jobs.commit(replace(one, state="running", segment=b"part"), Outcomes({}))
        following = state.jobs.next("main", "jsonl")
        assert following is not None
        assert (following.id, following.state, following.segment) == (one.id, "running", b"part")
        state.jobs.commit(replace(one, state="done"), Outcomes({}))
        assert state.jobs.next("main", "jsonl") == two
        assert state.jobs.next("main", "webhook") == other
        assert state.jobs.next("other", "jsonl") is None

    @pytest.mark.parametrize("ended", ["paused", "failed", "cancelled"])
    def test_a_job_that_does_not_run_holds_back_none_behind_it(self, state: State, ended: JobState) -> None:
        one, two = self.running(state), self.job(state)
        if ended == "failed":
            state.jobs.commit(replace(one, state="failed", trouble="the table is gone"), Outcomes({}))
        else:
            state.jobs.control(one.id, "paused" if ended == "paused" else "cancelled")
        assert state.jobs.next("main", "jsonl") == two
        if ended != "cancelled":
            state.jobs.control(one.id, "queued")
            first = state.jobs.next("main", "jsonl")
            assert first is not None
            assert first.id == one.id

    def test_a_commit_of_a_job_is_whole_and_leaves_the_checkpoint_alone(self, state: State) -> None:
        job = replace(
            self.job(state, total=9),
            state="running",
            progress=ReplayProgress(position=Position(140, 2)),
            counts=JobCounts(read=3, matched=2, sent=1, rejected=1, total=9),
            segment=b"part",
            needs=Position(140, 2),
            trouble="the destination does not answer",
        )
        before = state.checkpoints.get("main", "jsonl")
        assert state.jobs.commit(job, Outcomes(rejected(1), [letter(140)], sent=[sent_id("a")])) == "running"
        found = self.found(state, job)
        assert found == replace(job, started_at=found.started_at, updated_at=found.updated_at)
        assert found.started_at >= job.created_at
        (parked,) = state.dead_letters.page("main")
        assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, 1, 0, 0, 1, 0, 0)
        assert state.sent_ids.find("main", "jsonl", [sent_id("a")]) == {sent_id("a")}
        state.jobs.commit(job, Outcomes({}, settled=[parked.id]))
        assert state.dead_letters.page("main") == []
        assert self.found(state, job).started_at == found.started_at
        assert state.checkpoints.get("main", "jsonl") == before

    def test_nothing_of_a_commit_that_fails_is_kept(self, state: State) -> None:
        job = self.running(state)
        with pytest.raises(ValueError, match="lost"):
            state.jobs.commit(replace(job, progress=at(5)), Outcomes({(3, "a", "lost"): 1}, [letter(140)], sent=[sent_id("a")]))
        assert self.found(state, job).progress == ReplayProgress()
        assert state.dead_letters.page("main") == []
        assert state.sent_ids.count("main", "jsonl") == 0

    def test_a_done_job_keeps_its_counts_but_neither_segment_nor_journal(self, state: State) -> None:
        job = self.running(state, needs=Position(90, 0))
        given = replace(job, state="done", counts=JobCounts(sent=7), segment=b"left", progress=at(9))
        assert state.jobs.commit(given, Outcomes({})) == "done"
        found = self.found(state, job)
        assert (found.finished, found.segment, found.needs) == (True, b"", None)
        assert (found.counts.sent, found.progress) == (7, at(9))
        assert found.finished_at >= found.started_at > 0

    def test_a_failed_job_keeps_what_it_takes_to_try_again(self, state: State) -> None:
        job = self.running(state, needs=Position(90, 0))
        assert state.jobs.commit(replace(job, state="failed", segment=b"part", trouble="no such table"), Outcomes({})) == "failed"
        found = self.found(state, job)
        assert (found.finished, found.segment, found.needs, found.trouble) == (False, b"part", Position(90, 0), "no such table")
        assert found.finished_at > 0
        assert state.jobs.control(job.id, "queued") == "queued"
        found = self.found(state, job)
        assert (found.state, found.segment, found.trouble, found.finished_at) == ("queued", b"part", "", 0)

    @pytest.mark.parametrize("said", ["running", "done", "failed"])
    @pytest.mark.parametrize("asked", ["paused", "cancelled"])
    def test_what_a_person_asked_for_meanwhile_stays_but_so_does_what_was_sent(
        self, state: State, said: JobState, asked: Literal["paused", "cancelled"]
    ) -> None:
        job = self.running(state, needs=Position(90, 0))
        state.jobs.control(job.id, asked)
        given = replace(job, state=said, progress=at(5), segment=b"part")
        assert state.jobs.commit(given, Outcomes({(3, "Order Paid", "replayed"): 4}, sent=[sent_id("a")])) == asked
        found = self.found(state, job)
        assert (found.state, found.progress, self.ledger_row(state).replayed) == (asked, at(5), 4)
        assert state.sent_ids.count("main", "jsonl") == 1
        assert (found.segment, found.needs) == ((b"part", Position(90, 0)) if asked == "paused" else (b"", None))

    def test_a_job_that_was_resumed_before_its_code_saw_the_pause_goes_on(self, state: State) -> None:
        job = self.running(state)
        state.jobs.control(job.id, "paused")
        assert state.jobs.control(job.id, "queued") == "queued"
        assert state.jobs.commit(replace(job, progress=at(5)), Outcomes({})) == "running"
        assert self.found(state, job).state == "running"

    def test_asking_for_what_is_the_case_changes_nothing(self, state: State) -> None:
        job = self.job(state)
        assert state.jobs.control(job.id, "queued") == "queued"
        assert self.found(state, job) == job
        running = self.running(state)
        assert state.jobs.control(running.id, "queued") == "running"
        for to in ("paused", "cancelled"):
            assert state.jobs.control(job.id, to) == to
            before = self.found(state, job)
            assert state.jobs.control(job.id, to) == to
            assert self.found(state, job) == before

    def test_a_person_is_told_what_cannot_be_done_with_a_job(self, state: State) -> None:
        done, cancelled, failed = self.running(state), self.job(state), self.running(state)
        state.jobs.commit(replace(done, state="done"), Outcomes({}))
        state.jobs.control(cancelled.id, "cancelled")
        state.jobs.commit(replace(failed, state="failed"), Outcomes({}))
        for job, to, message in (
            (done, "paused", f"Job {done.id} cannot be paused: it is done"),
            (done, "queued", f"Job {done.id} cannot be resumed: it is done"),
            (done, "cancelled", f"Job {done.id} cannot be cancelled: it is done"),
            (cancelled, "queued", f"Job {cancelled.id} cannot be resumed: it is cancelled"),
            (cancelled, "paused", f"Job {cancelled.id} cannot be paused: it is cancelled"),
            (failed, "paused", f"Job {failed.id} cannot be paused: it has failed"),
        ):
            before = self.found(state, job)
            with pytest.raises(Stop, match=message):
                state.jobs.control(job.id, to)  # type: ignore[arg-type]  # any of the three
            assert self.found(state, job) == before
        with pytest.raises(StateMissing, match="no job 999"):
            state.jobs.control(999, "paused")
        with pytest.raises(StateMissing, match="no job 999"):
            state.jobs.commit(replace(done, id=999), Outcomes({(3, "a", "replayed"): 1}))
        assert state.ledger.rows("main") == []

    def test_the_journal_keeps_what_the_neediest_unfinished_job_needs(self, state: State) -> None:
        assert state.jobs.need("main") is None
        self.job(state)
        assert state.jobs.need("main") is None
        paused = self.job(state, needs=Position(300, 1))
        failed = self.running(state, needs=Position(300, 0))
        done = self.running(state, needs=Position(20, 0))
        cancelled = self.job(state, needs=Position(10, 0))
        state.jobs.create("other", "jsonl", SPEC, needs=Position(1, 0))
        assert state.jobs.need("main") == Position(10, 0)
        state.jobs.control(cancelled.id, "cancelled")
        assert state.jobs.need("main") == Position(20, 0)
        state.jobs.commit(replace(done, state="done"), Outcomes({}))
        state.jobs.control(paused.id, "paused")
        state.jobs.commit(replace(failed, state="failed"), Outcomes({}))
        assert state.jobs.need("main") == Position(300, 0)
        state.jobs.control(failed.id, "cancelled")
        assert state.jobs.need("main") == Position(300, 1)

    def test_where_the_source_begins_anew_its_unfinished_jobs_fail_and_keep_no_journal(self, state: State) -> None:
        running, done, paused = self.running(state, needs=Position(90, 0)), self.running(state), self.job(state)
        other = state.jobs.create("other", "jsonl", SPEC, needs=Position(5, 0))
        state.jobs.commit(replace(done, state="done"), Outcomes({}))
        state.jobs.control(paused.id, "paused")
        state.checkpoints.drop("main")
        assert [job.state for job in state.jobs.all("main")] == ["failed", "done", "failed"]
        found = self.found(state, running)
        assert "new epoch" in found.trouble
        assert found.finished_at > 0
        assert state.jobs.need("main") is None
        assert self.found(state, other) == other
        assert state.jobs.commit(replace(running, progress=at(5)), Outcomes({})) == "failed"
        assert "new epoch" in self.found(state, running).trouble

    def test_a_source_that_is_forgotten_takes_its_jobs_and_sent_ids_along(self, state: State) -> None:
        state.sources.save(RECORD)
        job = self.running(state)
        for source in ("main", "other"):
            state.checkpoints.create(source, "jsonl", Position(100, -1))
            state.checkpoints.commit(
                source, "jsonl", Position(150, 0), Outcomes({}, sent=[sent_id(str(number)) for number in range(2000)])
            )
        other = state.jobs.create("other", "jsonl", SPEC)
        state.forget("main")
        assert state.sources.get("main") is None
        assert state.jobs.get(job.id) is None
        assert state.sent_ids.find("main", "jsonl", [sent_id("7")]) == set()
        assert state.sent_ids.since("main", "jsonl") is None
        assert state.jobs.all("other") == [other]
        assert state.sent_ids.find("other", "jsonl", [sent_id("7")]) == {sent_id("7")}

    def test_a_killed_job_s_commits_are_whole(self, state: State, url: str) -> None:
        job = self.job(state)
        said: list[int] = []
        for commits in (5, 20):
            with program(WORKER, url) as worker:
                assert worker.stdout is not None
                for _ in range(commits):
                    assert worker.stdout.readline(), worker.stderr.read() if worker.stderr else ""
                worker.kill()
                said = list(map(int, worker.stdout.read().split())) or said
            found = self.found(state, job)
            done = reached(found)
            assert not said or done - said[-1] in (0, 1)
            assert (found.counts.sent, found.segment) == (done, b"part %d" % done)
            assert self.ledger_row(state).replayed == done == state.sent_ids.count("main", "jsonl")

    def test_a_job_that_is_read_while_it_commits_is_whole(self, state: State, url: str) -> None:
        job = self.running(state)
        problems: list[BaseException] = []

        def work() -> None:
            try:
                with State.open(url) as mine:
                    for done in range(1, 301):
                        segment = b"part %d" % done if done % 2 else b""
                        mine.jobs.commit(replace(job, progress=at(done), segment=segment), Outcomes({}))
            except BaseException as error:
                problems.append(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        while worker.is_alive():
            found = self.found(state, job)
            following = state.jobs.next("main", "jsonl")
            assert following is not None
            for one in (found, following):
                done = reached(one)
                assert one.segment == (b"part %d" % done if done % 2 else b"")
        worker.join(60)
        assert problems == []

    def test_pauses_and_resumes_while_a_job_commits_lose_neither(self, state: State, url: str) -> None:
        job = self.running(state)
        problems: list[BaseException] = []
        enough = threading.Event()

        def work() -> None:
            try:
                with State.open(url) as mine:
                    for done in range(1, 101):
                        mine.jobs.commit(replace(job, progress=at(done)), Outcomes({(3, "Order Paid", "replayed"): 1}))
            except BaseException as error:
                problems.append(error)
            finally:
                enough.set()

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        while not enough.is_set():
            assert state.jobs.control(job.id, "paused") == "paused"
            assert self.found(state, job).state == "paused"
            assert state.jobs.control(job.id, "queued") == "queued"
        state.jobs.control(job.id, "paused")
        worker.join(60)
        assert problems == []
        found = self.found(state, job)
        assert (found.state, found.progress, self.ledger_row(state).replayed) == ("paused", at(100), 100)
