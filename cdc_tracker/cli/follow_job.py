"""The progress of jobs on the terminal, until they end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from cdc_tracker import operations
from cdc_tracker.cli import output
from cdc_tracker.printable import one_line
from cdc_tracker.units import plural

if TYPE_CHECKING:
    from cdc_tracker.config.config import Config
    from cdc_tracker.operations.jobs import OwnWorker, Seen
    from cdc_tracker.state import Job, State


def follow_jobs(config: Config, state: State, numbers: Sequence[int]) -> None:
    """Show these jobs, one after another, until each has ended. Raises Stop if one fails. Ctrl-C leaves them to the worker."""
    try:
        with operations.jobs.worker_for(config, state, numbers[0]) as worker:
            if worker is not None:
                output.say("No worker is running: one is started until the job ends.", err=True)
            for number in numbers:
                _follow(config.source.name, state, number, worker)
    except KeyboardInterrupt:
        output.say("\nNot followed any more. The job continues in a running worker: `cdc-tracker jobs`.", err=True)


def _follow(source: str, state: State, number: int, worker: OwnWorker | None) -> None:
    steps = operations.jobs.follow(state, source, number, worker)
    job = next(steps).job
    with _bar(job) as advance:
        for seen in steps:
            advance(seen)
            job = seen.job
    output.say(_ended(job))


def _ended(job: Job) -> str:
    counts = job.counts
    parts = [f"{counts.sent:,} sent"]
    parts += [f"{number:,} {name}" for name, number in (("withheld", counts.withheld), ("rejected", counts.rejected)) if number]
    read = f" from {plural(counts.read, 'row')}" if job.kind == "backfill" else ""
    hint = " `cdc-tracker dead-letters list` shows why." if counts.rejected else ""
    return f"Job {job.id} is {job.state}: {', '.join(parts)}{read}.{hint}"


@contextlib.contextmanager
def _bar(job: Job) -> Iterator[Callable[[Seen], None]]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    rate = TextColumn("{task.fields[rate]}", markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"job {job.id}", total=job.counts.total or None, rate="")
        speed = _Speed()

        def advance(seen: Seen) -> None:
            done = operations.jobs.progress(seen.job).done
            said = seen.trouble or (speed.of(done) if seen.job.state == "running" else seen.job.state)
            bar.update(task, completed=done, rate=one_line(said))

        yield advance


class _Speed:
    def __init__(self) -> None:
        self._at, self._before, self._text = time.monotonic(), -1, ""

    def of(self, done: int) -> str:
        """`1,200/s`, measured over at least a second."""
        now = time.monotonic()
        if self._before < 0:
            self._at, self._before = now, done
        elif now > self._at + 1.0:
            self._text = f"{(done - self._before) / (now - self._at):,.0f}/s"
            self._at, self._before = now, done
        return self._text
