"""`jobs`: lists, shows, follows and controls replays and backfills."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, output
from cdc_tracker.printable import one_line
from cdc_tracker.times import for_display
from cdc_tracker.units import format_duration, plural

if TYPE_CHECKING:
    from cdc_tracker.config.config import Config
    from cdc_tracker.operations.jobs import Control, Progress, Seen
    from cdc_tracker.state import Job, State


@click.group(invoke_without_command=True)
@click.pass_context
def jobs(ctx: click.Context) -> None:
    """List, show, follow, pause, resume or cancel what `replay` and `backfill` have started.

    Jobs of one destination run one after another, within the worker and beside its live stream.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@jobs.command("list")
@click.option("--destination", help="Only of this destination.")
@click.option("--unfinished", is_flag=True, help="Only those that are not done or cancelled.")
@output.as_json
@click.pass_obj
def list_(invocation: Invocation, destination: str | None = None, unfinished: bool = False, as_json: bool = False) -> None:
    """List jobs, oldest first."""
    with invocation.state(to_read=True) as state:
        found = state.jobs.all(invocation.source, destination=destination, unfinished=unfinished)
    if as_json:
        output.emit([as_dict(job) for job in found])
    elif not found:
        output.say("No jobs.")
    else:
        columns = ("id", "destination", "kind", "what", "state", "done", "sent", "rejected", "withheld", "left")
        rows = [_row(job) for job in found]
        output.console().print(output.table(columns, rows, right=("id", "done", "sent", "rejected", "withheld", "left")))
        for job in found:
            if job.trouble:
                output.say(f"{job.id}: {job.trouble}")


def _row(job: Job) -> tuple[object, ...]:
    counts = job.counts
    numbers = (f"{number:,}" for number in (counts.sent, counts.rejected, counts.withheld))
    progress = operations.jobs.progress(job)
    left = format_duration(progress.seconds_left) if progress.seconds_left is not None else ""
    return (job.id, job.destination, job.kind, what(job), job.state, share(progress), *numbers, left)


@jobs.command("show")
@click.argument("number", metavar="ID", type=int)
@output.as_json
@click.pass_obj
def show_(invocation: Invocation, number: int, as_json: bool) -> None:
    """Show one job: what was asked for, and how far it is."""
    with invocation.state(to_read=True) as state:
        job = operations.jobs.one(state, invocation.source, number)
    if as_json:
        output.emit(as_dict(job))
        return
    for name, value in as_dict(job).items():
        if value not in (None, "", []):
            output.say(f"{name:14}{one_line(str(value))}")


@jobs.command()
@click.argument("number", metavar="ID", type=int)
@click.pass_obj
def follow(invocation: Invocation, number: int) -> None:
    """Show a job's progress until it ends. If no worker runs, one is started for that long."""
    with invocation.state() as state:
        follow_jobs(invocation.config, state, [number])


@jobs.command()
@click.argument("number", metavar="ID", type=int)
@click.pass_obj
def pause(invocation: Invocation, number: int) -> None:
    """Pause a job where it is. The journal keeps what it still needs."""
    _control(invocation, number, "paused", "Paused: `cdc-tracker jobs resume` continues from there.")


@jobs.command()
@click.argument("number", metavar="ID", type=int)
@click.pass_obj
def resume(invocation: Invocation, number: int) -> None:
    """Continue a paused or failed job from where it was."""
    _control(invocation, number, "queued", "Queued: it continues when the jobs before it are done.")


@jobs.command()
@click.argument("number", metavar="ID", type=int)
@output.yes
@click.pass_obj
def cancel(invocation: Invocation, number: int, yes: bool) -> None:
    """End a job for good. What it has sent stays sent."""
    output.ask(f"Cancel job {number}? It cannot be resumed.", yes=yes)
    _control(invocation, number, "cancelled", "Cancelled.")


def _control(invocation: Invocation, number: int, to: Control, said: str) -> None:
    with invocation.state() as state, invocation.journal() as journal:
        operations.jobs.control(state, journal, invocation.source, number, to)
    output.say(said)


def as_dict(job: Job) -> dict[str, object]:
    """For JSON; without the mappings' texts."""
    import msgspec  # noqa: PLC0415

    asked = msgspec.to_builtins(job.spec)
    spec = {name: value for name, value in asked.items() if name not in ("mappings", "from", "to", "version", "text")}
    progress = operations.jobs.progress(job)
    return {
        "id": job.id,
        "destination": job.destination,
        "kind": job.kind,
        "what": what(job),
        "state": job.state,
        "trouble": job.trouble,
        "done": share(progress),
        "left_seconds": progress.seconds_left,
        **msgspec.to_builtins(job.counts),
        "spec": spec,
        "mapping_files": sorted(asked.get("mappings", ())),
        "created_at": for_display(job.created_at),
        "started_at": for_display(job.started_at),
        "finished_at": for_display(job.finished_at),
    }


def what(job: Job) -> str:
    """The range or rows that a job is about, in a few words."""
    from cdc_tracker.state import BackfillSpec, ReplaySpec  # noqa: PLC0415

    spec = job.spec
    if isinstance(spec, ReplaySpec):
        events = ", ".join(spec.events) if spec.events is not None else "all events"
        return f"{events}, {spec.after} to {spec.upto}"
    if not isinstance(spec, BackfillSpec):
        return f"cannot be read: {spec.reason}"
    since, until = (for_display(time) if time is not None else "" for time in (spec.from_us, spec.to_us))
    period = f", {since or 'the beginning'} to {until or 'now'}" if since or until else ""
    return f"{spec.event} of {spec.table}{period}"


def share(progress: Progress) -> str:
    """`45 %`, or a dash if unknown."""
    return f"{progress.percent} %" if progress.percent is not None else "–"


# Progress, until they end.


def queued(config: Config, state: State, numbers: Sequence[int], *, follow: bool) -> None:
    """Print that these jobs are queued, and the commands for them. `follow`: as `follow_jobs`."""
    for number in numbers:
        output.say(f"Job {number} is queued. `cdc-tracker jobs` shows how far it is; jobs pause, resume, cancel {number}.")
    if numbers and follow:
        follow_jobs(config, state, numbers)


def follow_jobs(config: Config, state: State, numbers: Sequence[int]) -> None:
    """Show these jobs, one after another, until each has ended. Raises Stop if one fails. Ctrl-C leaves them to the worker."""
    try:
        with operations.jobs.worker_for(config, state, numbers[0]) as check_worker:
            if check_worker is not None:
                output.say("No worker is running: one is started until the job ends.", err=True)
            for number in numbers:
                _follow(config.source.name, state, number, check_worker)
    except KeyboardInterrupt:
        output.say("\nNot followed any more. The job continues in a running worker: `cdc-tracker jobs`.", err=True)


def _follow(source: str, state: State, number: int, check_worker: Callable[[], None] | None) -> None:
    steps = operations.jobs.follow(state, source, number, check_worker)
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
        number = bar.add_task(f"job {job.id}", total=job.counts.total or None, rate="")
        [task] = bar.tasks

        def advance(seen: Seen) -> None:
            bar.update(number, completed=operations.jobs.progress(seen.job).done)
            speed = f"{task.speed:,.0f}/s" if task.speed else ""
            said = seen.trouble or (speed if seen.job.state == "running" else seen.job.state)
            bar.update(number, rate=one_line(said))

        yield advance
