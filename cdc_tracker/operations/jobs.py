"""Jobs: what `replay` and `backfill` have started: how far it is, its control, and following it until it ends."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from cdc_tracker.config.config import Config
from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal
from cdc_tracker.monitoring import reports
from cdc_tracker.state import DeliveryReport, Job, State
from cdc_tracker.worker.processes import spawn

LOOK = 0.2  # seconds between two looks at a job
LAST_WORDS = 2_000  # characters of a worker's log that are shown if it ends by itself
Control = Literal["paused", "queued", "cancelled"]


class Progress(NamedTuple):
    """`done` of `total`: rows read by a backfill, events made by a replay; `total` is an estimate, 0 if unknown.

    `percent` and `seconds_left` are None if unknown; the latter follows from the rate so far.
    """

    done: int
    total: int
    percent: int | None
    seconds_left: float | None


def one(state: State, source: str, number: int) -> Job:
    """The source's job of that number. Raises Stop if there is none."""
    job = state.jobs.get(number)
    if job is None or job.source != source:
        raise Stop(f"There is no job {number}.", hint="`cdc-tracker jobs` lists them.")
    return job


def control(state: State, journal: Journal, source: str, number: int, to: Control) -> None:
    """Pauses, resumes (`queued`) or cancels a job. Raises Stop if there is none, or its state does not allow that."""
    job = one(state, source, number)
    state.jobs.control(job.id, to)
    journal.wake(job.destination)


def progress(job: Job) -> Progress:
    """How far a job is."""
    done, total = job.counts.read if job.kind == "backfill" else job.counts.matched, job.counts.total
    percent = 100 if job.state == "done" else min(99, 100 * done // total) if total else None
    took = (job.updated_at - job.started_at) / 1e6
    steady = job.state == "running" and 0 < done < total and took > 0
    return Progress(done, total, percent, took * (total - done) / done if steady else None)


class Seen(NamedTuple):
    """A job as it is now. `trouble`: why it makes no progress, from the job or from its delivery; "" if it does."""

    job: Job
    trouble: str


@contextlib.contextmanager
def worker_for(config: Config, state: State, number: int) -> Iterator[Callable[[], None] | None]:
    """Runs a worker for the job of that number until the end; yields None if one that delivers to its destination already runs.

    What is yielded raises Stop, with the end of the worker's log, if the worker has ended by itself.
    """
    source = config.source.name
    if reports(state.reports.all(source), f"deliver:{one(state, source, number).destination}"):
        yield None
        return
    with tempfile.TemporaryFile() as log:
        process = spawn([sys.executable, "-m", "cdc_tracker", "--config", str(config.path), "run"], log)

        def check() -> None:
            if process.poll() is None:
                return
            log.seek(0)
            said = log.read().decode(errors="backslashreplace")[-LAST_WORDS:]
            raise Stop(
                f"The worker started for the job has ended with exit code {process.returncode}. The end of its log:\n{said}",
                hint="The job continues where it is when a worker runs: `cdc-tracker run`.",
            )

        try:
            yield check
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def follow(state: State, source: str, number: int, check_worker: Callable[[], None] | None = None) -> Iterator[Seen]:
    """The job as it is now, then again a few times a second until it is neither queued nor running.

    Raises Stop if the job fails, and what `check_worker` raises.
    """
    while True:
        job = one(state, source, number)
        yield Seen(job, job.trouble or _trouble(state, job))
        if job.state not in ("queued", "running"):
            break
        time.sleep(LOOK)
        if check_worker is not None:
            check_worker()
    if job.state == "failed":
        raise Stop(f"Job {job.id} failed: {job.trouble}", hint=f"`cdc-tracker jobs resume {job.id}` tries again from there.")


def _trouble(state: State, job: Job) -> str:
    return state.reports.last(job.source, f"deliver:{job.destination}", DeliveryReport).trouble
