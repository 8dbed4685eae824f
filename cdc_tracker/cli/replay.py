"""`replay`: a range of the journal again, as a job beside the live stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, estimate_view, options, output
from cdc_tracker.cli.follow_job import follow_jobs
from cdc_tracker.cli.jobs import say_queued
from cdc_tracker.units import plural

if TYPE_CHECKING:
    from cdc_tracker.delivery.points import Target

CURRENT = "current"


@click.command()
@click.argument("destination")
@click.option("--from", "start", required=True, callback=options.point, help=options.POINT)
@click.option("--to", "end", callback=options.point, help="Where to end, in the same forms (default: the checkpoint).")
@options.events
@click.option(
    "--mappings",
    "paths",
    multiple=True,
    default=(CURRENT,),
    show_default=True,
    metavar="PATH",
    help="The mappings: a file or folder, or `current` for those in force. Repeatable.",
)
@click.option("--max-rate", type=click.FloatRange(min=0, min_open=True), help="Events a second at most.")
@click.option("--dry-run", is_flag=True, help="Only show what would be sent again.")
@click.option("--detach", is_flag=True, help="Leave the job to the worker, and do not show its progress.")
@options.only_missing
@options.yes_duplicates
@output.yes
@output.as_json
@click.pass_obj
def replay(
    invocation: Invocation,
    /,
    destination: str,
    start: Target,
    end: Target | None,
    names: tuple[str, ...],
    paths: tuple[str, ...],
    max_rate: float | None,
    dry_run: bool,
    detach: bool,
    only_missing: bool,
    yes_duplicates: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send a range of the journal again, beside the live stream, whose checkpoint stays where it is.

    All operations, with the original ids wherever the mappings make the same event. The range ends at the destination's
    checkpoint at the latest: the live stream delivers what is beyond.
    """
    files = None if paths == (CURRENT,) else _files(invocation, paths)
    with invocation.state() as state, invocation.journal() as journal:
        with output.progress("Counting the events of this range") as advance:
            plan = operations.replay.plan(
                invocation.config,
                state,
                journal,
                destination,
                start,
                end,
                events=names,
                files=files,
                only_missing=only_missing,
                advance=advance,
            )
        again, after, upto = plan.estimate, str(plan.after), str(plan.upto)
        shown = {"destination": destination, "depth": "journal", "from": after, "to": upto, **estimate_view.as_json(again)}
        if not as_json:
            events = plural(again.counts.sent, "event")
            output.say(f"{destination}: {events} from {after} to {upto} would be sent again.")
            estimate_view.say(again)
        if not dry_run:
            question, twice = f"Send them to {destination}?", estimate_view.twice(again)
            accepted = output.agree(question, twice, yes=yes, duplicates=yes_duplicates)
            job = operations.replay.start(state, journal, plan, accept_duplicates=accepted, max_rate=max_rate)
            shown["job"] = job.id
        if as_json:
            output.emit(shown)
        elif not dry_run:
            say_queued([job.id])
            if not detach:
                follow_jobs(invocation.config, state, [job.id])


def _files(invocation: Invocation, paths: tuple[str, ...]) -> list[Path]:
    return [file for path in paths for file in (invocation.config.mapping_paths if path == CURRENT else [_existing(path)])]


def _existing(path: str) -> Path:
    found = Path(path)
    if not found.exists():
        raise click.BadParameter(f"there is no file or folder {path!r}", param_hint="--mappings")
    return found
