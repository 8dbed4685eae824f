"""`jobs`: what is being sent of history, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import click

from cdc_tracker.cli import Invocation, output
from cdc_tracker.errors import Stop
from cdc_tracker.printable import one_line
from cdc_tracker.units import format_duration

if TYPE_CHECKING:
    from cdc_tracker.state import Job, State


@click.group(invoke_without_command=True)
@click.pass_context
def jobs(ctx: click.Context) -> None:
    """List, show, follow, pause, resume or cancel what `replay` and `backfill` have begun.

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
    from cdc_tracker.cli.stores import load_config, opened_state  # noqa: PLC0415

    config = load_config(invocation)
    with opened_state(config, to_read=True) as state:
        found = state.jobs(config.source.name, destination=destination, unfinished=unfinished)
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
    numbers = (f"{counts[name]:,}" for name in ("sent", "rejected", "withheld"))
    return (job.id, job.destination, job.kind, what(job), job.state, share(job), *numbers, left(job))


@jobs.command("show")
@click.argument("number", metavar="ID", type=int)
@output.as_json
@click.pass_obj
def show_(invocation: Invocation, number: int, as_json: bool) -> None:
    """Show one job: what was asked for, and how far it is."""
    from cdc_tracker.cli.stores import load_config, opened_state  # noqa: PLC0415

    config = load_config(invocation)
    with opened_state(config, to_read=True) as state:
        job = one(state, config.source.name, number)
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
    """Show a job's progress until it ends. Where no worker runs, one is started for that long."""
    from cdc_tracker.cli.follow_job import follow_job  # noqa: PLC0415
    from cdc_tracker.cli.stores import load_config, opened_state  # noqa: PLC0415

    config = load_config(invocation)
    with opened_state(config) as state:
        job = one(state, config.source.name, number)
        follow_job(config, state, [job.id])


@jobs.command()
@click.argument("number", metavar="ID", type=int)
@click.pass_obj
def pause(invocation: Invocation, number: int) -> None:
    """Let a job rest where it is. The journal keeps what it still needs."""
    _control(invocation, number, "paused", "Paused: `cdc-tracker jobs resume` goes on from there.")


@jobs.command()
@click.argument("number", metavar="ID", type=int)
@click.pass_obj
def resume(invocation: Invocation, number: int) -> None:
    """Let a paused or failed job go on where it was."""
    _control(invocation, number, "queued", "Queued: it goes on when the jobs before it are done.")


@jobs.command()
@click.argument("number", metavar="ID", type=int)
@output.yes
@click.pass_obj
def cancel(invocation: Invocation, number: int, yes: bool) -> None:
    """End a job for good. What it has sent stays sent."""
    output.ask(f"Cancel job {number}? It cannot be resumed.", yes=yes)
    _control(invocation, number, "cancelled", "Cancelled.")


def _control(invocation: Invocation, number: int, to: Literal["paused", "queued", "cancelled"], said: str) -> None:
    from cdc_tracker.cli.stores import load_config, opened_journal, opened_state  # noqa: PLC0415

    config = load_config(invocation)
    with opened_state(config) as state, opened_journal(config) as journal:
        job = one(state, config.source.name, number)
        state.control_job(job.id, to)
        journal.wake(job.destination)
    output.say(said)


def one(state: State, source: str, number: int) -> Job:
    """The source's job of that number. Raises Stop where there is none."""
    job = state.job(number)
    if job is None or job.source != source:
        raise Stop(f"There is no job {number}.", hint="`cdc-tracker jobs` lists those that there are.")
    return job


def as_dict(job: Job) -> dict[str, object]:
    """For JSON; without the mappings' texts."""
    spec = {name: value for name, value in job.spec.items() if name not in ("mappings", "from", "to")}
    return {
        "id": job.id,
        "destination": job.destination,
        "kind": job.kind,
        "what": what(job),
        "state": job.state,
        "trouble": job.trouble,
        "done": share(job),
        "left_seconds": seconds_left(job),
        **job.counts,
        "spec": spec,
        "mapping_files": sorted(job.spec["mappings"]),
        "created_at": output.moment(job.created_at),
        "started_at": output.moment(job.started_at),
        "finished_at": output.moment(job.finished_at),
    }


def what(job: Job) -> str:
    """The range or rows that a job is about, in a few words."""
    from cdc_tracker.model import Position  # noqa: PLC0415

    spec = job.spec
    if job.kind == "replay":
        events = ", ".join(spec["events"]) if spec["events"] is not None else "all events"
        return f"{events}, {Position(*spec['from'])} to {Position(*spec['to'])}"
    since, until = (output.moment(spec[name]) if spec[name] is not None else "" for name in ("from", "to"))
    period = f", {since or 'the beginning'} to {until or 'now'}" if since or until else ""
    return f"{spec['event']} of {spec['table']}{period}"


def dealt_with(job: Job) -> int:
    """What counts towards `total`: events of a replay, rows of a backfill."""
    counts = job.counts
    return counts["read"] if job.kind == "backfill" else counts["matched"]


def share(job: Job) -> str:
    """How much of it is done, as far as that is known beforehand."""
    total = job.counts["total"]
    if job.state == "done":
        return "100 %"
    return f"{min(99, 100 * dealt_with(job) // total)} %" if total else "–"


def seconds_left(job: Job) -> float | None:
    """By its rate so far; None where that tells nothing."""
    done, total = dealt_with(job), job.counts["total"]
    took = (job.updated_at - job.started_at) / 1e6
    if job.state != "running" or done <= 0 or total <= done or took <= 0:
        return None
    return took * (total - done) / done


def left(job: Job) -> str:
    """For a person."""
    seconds = seconds_left(job)
    return format_duration(seconds) if seconds is not None else ""


def say(numbers: Sequence[int]) -> None:
    """That jobs were begun."""
    for number in numbers:
        output.say(f"Job {number} is queued. `cdc-tracker jobs` tells how far it is; jobs pause, resume, cancel {number}.")
