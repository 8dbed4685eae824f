"""A job's progress, shown until it ends; in a worker started for it where none runs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

from cdc_tracker.cli import jobs as commands
from cdc_tracker.cli import output
from cdc_tracker.errors import Stop
from cdc_tracker.printable import one_line
from cdc_tracker.worker.processes import ends_with_us

if TYPE_CHECKING:
    from cdc_tracker.config import Config
    from cdc_tracker.state import Job, State

LOOK = 0.2  # seconds
LAST_WORDS = 2_000  # characters of a worker's log that are shown where it ends by itself


def follow_job(config: Config, state: State, numbers: Sequence[int]) -> None:
    """Show how these jobs go, one after another. Raises Stop where one fails. Ctrl-C leaves them to the worker."""
    try:
        with _worker(config, state, numbers[0]) as worker:
            for number in numbers:
                _follow(config, state, number, worker)
    except KeyboardInterrupt:
        output.say("\nNot followed any more. The job goes on where a worker runs: `cdc-tracker jobs`.", err=True)


def _follow(config: Config, state: State, number: int, worker: _Own | None) -> None:
    job = commands.one(state, config.source.name, number)
    with _bar(job) as advance:
        while job.state in ("queued", "running"):
            time.sleep(LOOK)
            if worker is not None:
                worker.check()
            job = commands.one(state, config.source.name, number)
            advance(job, _trouble(state, job))
    if job.state == "failed":
        raise Stop(f"Job {job.id} failed: {job.trouble}", hint=f"`cdc-tracker jobs resume {job.id}` tries again from there.")
    output.say(_ended(job))


def _trouble(state: State, job: Job) -> str:
    """Why nothing happens: what the job says, or the deliverer that it runs in."""
    roles = [role for role in state.roles(job.source) if role.role == f"deliver:{job.destination}"]
    return job.trouble or next((str(role.detail.get("trouble", "")) for role in roles), "")


def _ended(job: Job) -> str:
    counts = job.counts
    parts = [f"{counts['sent']:,} sent"]
    parts += [f"{counts[name]:,} {name}" for name in ("withheld", "rejected") if counts[name]]
    read = f" from {output.plural(counts['read'], 'row')}" if job.kind == "backfill" else ""
    hint = " `cdc-tracker dead-letters list` shows why." if counts["rejected"] else ""
    return f"Job {job.id} is {job.state}: {', '.join(parts)}{read}.{hint}"


@contextlib.contextmanager
def _bar(job: Job) -> Iterator[_Advance]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        yield _Advance(bar, bar.add_task(f"job {job.id}", total=job.counts["total"] or None, rate=""))


class _Advance:
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self._seen = (time.monotonic(), -1)
        self._rate = ""

    def __call__(self, job: Job, trouble: str) -> None:
        done, now = commands.dealt_with(job), time.monotonic()
        at, before = self._seen
        if before < 0:
            self._seen = (now, done)
        elif now > at + 1.0:
            self._rate = f"{(done - before) / (now - at):,.0f}/s"
            self._seen = (now, done)
        said = trouble or (self._rate if job.state == "running" else job.state)
        self._bar.update(self._task, completed=done, rate=one_line(said))


if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextlib.contextmanager
def _worker(config: Config, state: State, number: int) -> Iterator[_Own | None]:
    """The worker that runs, or one of our own."""
    destination = commands.one(state, config.source.name, number).destination
    if output.is_alive(state.roles(config.source.name), f"deliver:{destination}"):
        yield None
        return
    output.say("No worker is running: one is started for the length of this job.", err=True)
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "cdc_tracker", "--config", str(config.path), "run"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=ends_with_us(),  # noqa: PLW1509 - prctl only
        )
        try:
            yield _Own(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


class _Own:
    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._process, self._log = process, log

    def check(self) -> None:
        """Raises Stop where it has ended by itself."""
        if self._process.poll() is None:
            return
        self._log.seek(0)
        said = self._log.read().decode(errors="backslashreplace")[-LAST_WORDS:]
        raise Stop(
            f"The worker started for the job has ended with exit code {self._process.returncode}. Its last words:\n{said}",
            hint="The job goes on where it is when a worker runs: `cdc-tracker run`.",
        )
