"""Jobs: what `replay` and `backfill` have started, how far it is, and its control."""

from __future__ import annotations

from typing import Literal, NamedTuple

from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal
from cdc_tracker.state import Job, State

Control = Literal["paused", "queued", "cancelled"]


class Progress(NamedTuple):
    """`done` of `total`: rows read by a backfill, events made by a replay; `total` is 0 where unknown, an estimate otherwise.

    `percent` and `seconds_left` are None where nothing is known of them. The latter goes by the rate so far.
    """

    done: int
    total: int
    percent: int | None
    seconds_left: float | None


def one(state: State, source: str, number: int) -> Job:
    """The source's job of that number. Raises Stop where there is none."""
    job = state.jobs.get(number)
    if job is None or job.source != source:
        raise Stop(f"There is no job {number}.", hint="`cdc-tracker jobs` lists them.")
    return job


def control(state: State, journal: Journal, source: str, number: int, to: Control) -> None:
    """Pauses, resumes (`queued`) or cancels a job. Raises Stop where there is none, or where its state does not allow that."""
    job = one(state, source, number)
    state.jobs.control(job.id, to)
    journal.wake(job.destination)


def progress(job: Job) -> Progress:
    """How far a job is."""
    done, total = job.counts["read" if job.kind == "backfill" else "matched"], job.counts["total"]
    percent = 100 if job.state == "done" else min(99, 100 * done // total) if total else None
    took = (job.updated_at - job.started_at) / 1e6
    steady = job.state == "running" and 0 < done < total and took > 0
    return Progress(done, total, percent, took * (total - done) / done if steady else None)
