"""A fault at every step of a job, and what must hold: the stream goes on, and the job's events go once where that is promised."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cdc_tracker.cli.jobs import as_dict
from cdc_tracker.delivery import loop
from cdc_tracker.delivery.jobs import retries, runner
from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, DestinationUnavailable, Fenced, StateUnavailable
from cdc_tracker.model import DELIVERED, START, Batch, Position, Receipt
from cdc_tracker.state import Job, ReplaySpec, Selection, Unreadable
from cdc_tracker.state.tables import jobs
from tests.unit.delivery.stage import MAPPING, Fault, Holder, Killed, Stage, Trap, TrappedHolder, held, order, staged, until

AWAY = StateUnavailable("away")
ROWS = 40
OTHER = MAPPING.replace("id: new.id", "id: new.id + 1000")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(loop, "COMMIT", 0.0)
    monkeypatch.setattr(runner, "AGAIN", 0.2)
    monkeypatch.setattr(runner, "EVENTS", 10)  # so that it goes in four calls
    with staged(tmp_path) as opened:
        yield opened


def delivered(stage: Stage, destination: MemoryDestination, parked: int = 0) -> Job:
    """The stream's events have arrived; a replay of all of them by other mappings, which give them the same ids.

    `parked`: events before them that are parked, and could now be retried. They are not replayed.
    """
    after = Position(0, -1)
    if parked:
        stage.mapping = MAPPING.replace("type: string", "type: integer")
        stage.rows(*range(100, 100 + parked))
        with stage.delivering(destination):
            until(lambda: stage.settled(parked), "they are parked")
        stage.mapping = MAPPING
        after = stage.journal.read(START, 100)[-1].last
    stage.rows(*range(ROWS), each=20)
    with stage.delivering(destination):
        until(lambda: stage.settled(parked + ROWS), "the stream's events have arrived")
    checkpoint = stage.state.checkpoints.get("main", "d")
    assert checkpoint is not None
    spec = ReplaySpec(after=after, upto=checkpoint.position, events=None, mappings={"events.yml": OTHER})
    return stage.state.jobs.create("main", "d", spec, total=ROWS)


def state_of(stage: Stage, job: Job) -> Job:
    found = stage.state.jobs.get(job.id)
    assert found is not None
    return found


def replayed(destination: MemoryDestination) -> list[int]:
    return [n - 1000 for n in held(destination) if n >= 1000]


GOES_ON = {
    "state away at its beginning": ("state", "jobs.commit", Fault(AWAY, 1, times=2)),
    "state away in between": ("state", "jobs.commit", Fault(AWAY, 3, times=2)),
    "state away once it has stored": ("state", "jobs.commit", Fault(AWAY, 3, after=True)),
    "destination away": ("destination", "deliver", Fault(DestinationUnavailable("away"), 2)),
    "its answer lost": ("destination", "deliver", Fault(DestinationUnavailable("cut"), 2, after=True)),
    "destination raises once": ("destination", "deliver", Fault(ValueError("odd"), 2)),
}


@pytest.mark.parametrize(("what", "method", "fault"), GOES_ON.values(), ids=GOES_ON.keys())
def test_a_job_goes_on_by_itself(stage: Stage, what: str, method: str, fault: Fault) -> None:
    destination = Holder()
    job = delivered(stage, destination)
    state, front = Trap(stage.state), TrappedHolder(destination)
    (front if what == "destination" else state).faults[method] = fault
    with stage.delivering(front, state=state):  # type: ignore[arg-type]
        until(lambda: state_of(stage, job).state == "done", "it is done")
    assert sorted(replayed(destination)) == list(range(ROWS))
    counts = state_of(stage, job).counts
    assert (counts.matched, counts.sent, counts.rejected) == (ROWS, ROWS, 0)
    assert stage.ledger().replayed == ROWS


ENDS = [
    (what, method, number, error, after)
    for what, method in (("state", "jobs.commit"), ("destination", "deliver"))
    for number in (1, 2, 4)
    for error in (Killed(), AlreadyRunning("another one holds the lock"), Fenced("another one has taken over"))
    for after in (False, True)
    if not (what == "destination" and isinstance(error, Fenced))
]


@pytest.mark.parametrize(
    ("what", "method", "number", "error", "after"),
    ENDS,
    ids=[f"{type(e).__name__} {'after' if a else 'before'} {m} {n}" for _, m, n, e, a in ENDS],
)
def test_a_job_that_was_cut_short_sends_each_event_once(
    stage: Stage, what: str, method: str, number: int, error: CdcTrackerError, after: bool
) -> None:
    destination = Holder()
    job = delivered(stage, destination)
    dead = threading.Event()
    state, front = Trap(stage.state, dead), TrappedHolder(destination, dead)
    (front if what == "destination" else state).faults[method] = Fault(error, number, after)
    with pytest.raises(CdcTrackerError), stage.delivering(front, state=state) as role:  # type: ignore[arg-type]
        until(lambda: not role.is_alive(), "it has ended")
    with stage.delivering(destination):
        until(lambda: state_of(stage, job).state == "done", "it is done")
    assert sorted(replayed(destination)) == list(range(ROWS))
    assert state_of(stage, job).counts.sent == ROWS
    assert stage.ledger().replayed == ROWS


class SlowWithJobs(Holder):
    def deliver(self, batch: Batch) -> list[Receipt]:
        if batch.out_of_band.startswith("job"):
            time.sleep(0.3)
        return super().deliver(batch)


@pytest.mark.parametrize("queued", ["before the job began", "after it was cut short"])
def test_dead_letters_do_not_make_a_job_that_was_cut_short_send_a_batch_twice(
    stage: Stage, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "EVENTS", 1)
    destination = SlowWithJobs()
    job = delivered(stage, destination, parked=4)
    before = queued == "before the job began"
    if before:
        stage.state.dead_letters.queue("main", Selection())
    dead = threading.Event()
    front = TrappedHolder(destination, dead)
    front.faults["deliver"] = Fault(Killed(), 2 if before else 1, after=True)  # the job's first batch
    with pytest.raises(Killed), stage.delivering(front, state=Trap(stage.state, dead)) as role:  # type: ignore[arg-type]
        until(lambda: not role.is_alive(), "it has ended")
    if not before:
        stage.state.dead_letters.queue("main", Selection())
    with stage.delivering(destination):
        until(lambda: state_of(stage, job).state == "done" and not stage.parked(), "all are sent")
    assert sorted(held(destination)) == [*range(ROWS), *range(100, 104), *range(1000, 1000 + ROWS)]


def test_a_job_that_was_cut_short_goes_before_one_that_was_resumed_meanwhile(stage: Stage) -> None:
    destination = Holder()
    first = delivered(stage, destination)
    assert isinstance(first.spec, ReplaySpec)
    second = stage.state.jobs.create("main", "d", first.spec, total=ROWS)
    stage.state.jobs.control(first.id, "paused")
    dead = threading.Event()
    front = TrappedHolder(destination, dead)
    front.faults["deliver"] = Fault(Killed(), 2, after=True)
    with pytest.raises(Killed), stage.delivering(front, state=Trap(stage.state, dead)) as role:  # type: ignore[arg-type]
        until(lambda: not role.is_alive(), "it has ended")
    stage.state.jobs.control(first.id, "queued")
    with stage.delivering(destination):
        until(lambda: all(state_of(stage, job).state == "done" for job in (first, second)), "both are done")
    assert sorted(replayed(destination)) == sorted([*range(ROWS), *range(ROWS)])


def cut_short(stage: Stage, destination: Holder, *, parked: int = 0) -> Job:
    """A replay whose first batch the destination has taken, and the state store does not know it; then it was paused."""
    job = delivered(stage, destination, parked)
    dead = threading.Event()
    front = TrappedHolder(destination, dead)
    front.faults["deliver"] = Fault(Killed(), 1, after=True)
    with pytest.raises(Killed), stage.delivering(front, state=Trap(stage.state, dead)) as role:  # type: ignore[arg-type]
        until(lambda: not role.is_alive(), "it has ended")
    stage.state.jobs.control(job.id, "paused")
    return job


def test_a_job_that_was_paused_after_it_was_cut_short_sends_no_batch_twice_once_another_job_has_run(stage: Stage) -> None:
    destination = Holder()
    first = cut_short(stage, destination)
    assert isinstance(first.spec, ReplaySpec)
    second = stage.state.jobs.create("main", "d", first.spec, total=ROWS)
    with stage.delivering(destination):
        until(lambda: state_of(stage, second).state == "done", "the other job is done")
        assert state_of(stage, first).state == "paused"
        assert state_of(stage, first).counts.sent == 10, "of the paused job only what had arrived is counted"
        stage.state.jobs.control(first.id, "queued")
        until(lambda: state_of(stage, first).state == "done", "the first job is done")
    assert sorted(replayed(destination)) == sorted([*range(ROWS), *range(ROWS)])
    assert state_of(stage, first).counts.sent == state_of(stage, second).counts.sent == ROWS


def test_a_job_that_was_paused_after_it_was_cut_short_sends_no_batch_twice_once_dead_letters_were_sent(stage: Stage) -> None:
    destination = Holder()
    job = cut_short(stage, destination, parked=4)
    stage.state.dead_letters.queue("main", Selection())
    with stage.delivering(destination):
        until(lambda: not stage.parked(), "the dead letters are sent")
        stage.state.jobs.control(job.id, "queued")
        until(lambda: state_of(stage, job).state == "done", "the job is done")
    assert sorted(held(destination)) == [*range(ROWS), *range(100, 104), *range(1000, 1000 + ROWS)]


def test_a_job_that_was_paused_with_nothing_in_flight_sends_nothing_after_a_restart(stage: Stage) -> None:
    destination = SlowWithJobs()
    job = delivered(stage, destination)
    with stage.delivering(destination):
        until(lambda: state_of(stage, job).counts.sent >= 10, "a batch has arrived")
    stopped_at = len(replayed(destination))
    stage.state.jobs.control(job.id, "paused")
    with stage.delivering(destination):
        stage.rows(900)
        until(lambda: 900 in held(destination), "the stream goes on")
        time.sleep(1.5)  # two looks at the jobs
    assert len(replayed(destination)) == stopped_at < ROWS
    assert state_of(stage, job).counts.sent == stopped_at


def test_a_job_at_whose_every_event_the_destination_fails_waits_and_the_stream_goes_on(stage: Stage) -> None:
    destination = Holder()
    job = delivered(stage, destination)

    def minds(batch: Batch) -> list[Receipt]:
        if any(order(event) >= 1000 for event in batch.events):
            raise ValueError("odd")
        return [DELIVERED] * len(batch.events)

    destination.always = minds
    with stage.delivering(destination):
        until(lambda: "fails at each of" in state_of(stage, job).trouble, "it says so")
        assert stage.parked() == []
        stage.rows(ROWS)
        until(lambda: stage.settled(ROWS + 1), "the stream goes on")
        until(lambda: state_of(stage, job).counts.rejected > 0, "what passes beside it shows that the job's are at fault")
    assert set(stage.parked()) == {"destination_error"}
    assert stage.ledger().delivered == ROWS + 1


def test_a_few_of_a_jobs_events_at_which_it_fails_are_parked(stage: Stage) -> None:
    destination = Holder()
    job = delivered(stage, destination)

    def minds(batch: Batch) -> list[Receipt]:
        if any(order(event) in (1003, 1017) for event in batch.events):
            raise ValueError("odd")
        return [DELIVERED] * len(batch.events)

    destination.always = minds
    with stage.delivering(destination):
        until(lambda: state_of(stage, job).state == "done", "it is done")
    assert sorted(replayed(destination)) == [n for n in range(ROWS) if n not in (3, 17)]
    assert stage.parked() == ["destination_error"] * 2
    assert state_of(stage, job).counts.rejected == 2


def landed(stage: Stage, job: Job, **columns: str) -> None:
    """The job's row as an earlier release stored it."""
    with stage.state._database.writing() as connection:
        connection.execute(jobs.update().where(jobs.c.id == job.id).values(**columns))


def test_a_landed_replay_goes_on_where_it_was(stage: Stage) -> None:
    destination = Holder()
    job = delivered(stage, destination)
    half = stage.journal.read(START, 1)[0].last  # rows() made two segments
    spec = json.loads(msgspec.json.encode(job.spec))
    del spec["version"]
    assert list(spec) == ["from", "to", "events", "mappings", "only_missing", "max_rate"]
    landed(
        stage,
        job,
        spec=json.dumps(spec),
        progress=json.dumps({"position": list(half)}),
        counts='{"read":0,"matched":20,"sent":20,"rejected":0,"withheld":0,"total":40}',
        state="running",
    )
    with stage.delivering(destination):
        until(lambda: state_of(stage, job).state == "done", "it is done")
    assert sorted(replayed(destination)) == list(range(ROWS // 2, ROWS))
    counts = state_of(stage, job).counts
    assert (counts.matched, counts.sent, counts.total) == (ROWS, ROWS, ROWS)


@pytest.mark.parametrize("column", ["spec", "progress"])
def test_a_job_that_only_another_version_can_read_fails_and_is_kept_as_it_is(stage: Stage, column: str) -> None:
    destination = Holder()
    job = delivered(stage, destination)
    landed(stage, job, **{column: '{"from": "the beginning", "position": "the middle"}'})
    with stage.delivering(destination):
        until(lambda: state_of(stage, job).state == "failed", "it has failed")
    assert "cannot be read" in state_of(stage, job).trouble and replayed(destination) == []
    kept = getattr(state_of(stage, job), column)
    assert isinstance(kept, Unreadable) and kept.text == '{"from": "the beginning", "position": "the middle"}'
    [listed] = stage.state.jobs.all("main")
    assert listed.state == "failed" and as_dict(listed)["trouble"] == listed.trouble
