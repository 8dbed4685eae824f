"""A job's progress until it ends, in a worker started for it where none runs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, NamedTuple

from cdc_tracker.config.config import Config
from cdc_tracker.errors import Stop
from cdc_tracker.monitoring import reports
from cdc_tracker.operations import jobs
from cdc_tracker.state import DeliveryReport, Job, State
from cdc_tracker.worker.processes import ends_with_us

LOOK = 0.2  # seconds between two looks at a job
LAST_WORDS = 2_000  # characters of a worker's log that are shown where it ends by itself


class Seen(NamedTuple):
    """A job as it is now. `trouble`: why nothing happens, from the job or the delivery that it runs in; "" where all is well."""

    job: Job
    trouble: str


class OwnWorker:
    """A worker that was started for a job."""

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._process, self._log = process, log

    def check(self) -> None:
        """Raises Stop, with the end of its log, where it has ended by itself."""
        if self._process.poll() is None:
            return
        self._log.seek(0)
        said = self._log.read().decode(errors="backslashreplace")[-LAST_WORDS:]
        raise Stop(
            f"The worker started for the job has ended with exit code {self._process.returncode}. The end of its log:\n{said}",
            hint="The job continues where it is when a worker runs: `cdc-tracker run`.",
        )


@contextlib.contextmanager
def worker_for(config: Config, state: State, number: int) -> Iterator[OwnWorker | None]:
    """A worker for the job of that number, stopped at the end; None where one that delivers to its destination runs already."""
    source = config.source.name
    if reports(state.reports.all(source), f"deliver:{jobs.one(state, source, number).destination}"):
        yield None
        return
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cdc_tracker", "--config", str(config.path), "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=ends_with_us(),  # noqa: PLW1509 - prctl only
        )
        try:
            yield OwnWorker(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def follow(state: State, source: str, number: int, worker: OwnWorker | None = None) -> Iterator[Seen]:
    """The job as it is now, then again a few times a second until it is neither queued nor running.

    Raises Stop where the job fails, or the worker that was started for it ends.
    """
    while True:
        job = jobs.one(state, source, number)
        yield Seen(job, job.trouble or _trouble(state, job))
        if job.state not in ("queued", "running"):
            break
        time.sleep(LOOK)
        if worker is not None:
            worker.check()
    if job.state == "failed":
        raise Stop(f"Job {job.id} failed: {job.trouble}", hint=f"`cdc-tracker jobs resume {job.id}` tries again from there.")


def _trouble(state: State, job: Job) -> str:
    return state.reports.last(job.source, f"deliver:{job.destination}", DeliveryReport).trouble
