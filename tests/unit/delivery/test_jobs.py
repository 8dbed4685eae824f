"""A fault at every step of a job, and what must hold: the stream goes on, and the job's events go once where that is promised."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cdc_tracker.cli.jobs import as_dict
from cdc_tracker.delivery import loop
from cdc_tracker.delivery.jobs import runner
from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, DestinationUnavailable, Fenced, StateUnavailable
from cdc_tracker.model import DELIVERED, START, Batch, Position, Receipt
from cdc_tracker.state import Job, ReplaySpec, Unreadable
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


def delivered(stage: Stage, destination: MemoryDestination) -> Job:
    """The stream's events have arrived; a replay of all of them by other mappings, which give them the same ids."""
    stage.rows(*range(ROWS), each=20)
    with stage.delivering(destination):
        until(lambda: stage.settled(ROWS), "the stream's events have arrived")
    checkpoint = stage.state.checkpoints.get("main", "d")
    assert checkpoint is not None
    spec = ReplaySpec(after=Position(0, -1), upto=checkpoint.position, events=None, mappings={"events.yml": OTHER})
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
