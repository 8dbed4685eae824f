"""`diff`: what other mappings would have made of a past range of the journal. Sends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, diff_view, options, output

if TYPE_CHECKING:
    from cdc_tracker.delivery.points import Target

_MAPPINGS = "The other mappings, a file or folder. Repeatable."


@click.command()
@click.option("--mappings", "paths", multiple=True, required=True, type=click.Path(path_type=Path, exists=True), help=_MAPPINGS)
@click.option("--from", "start", required=True, callback=options.point, help=options.POINT)
@click.option("--to", "end", callback=options.point, help="Where to end, in the same forms (default: the journal's end).")
@click.option("--destination", help="Only what goes to this destination.")
@options.events
@click.option("--samples", type=click.IntRange(0, 1000), default=3, show_default=True, help="How many of each kind to show.")
@output.as_json
@click.pass_obj
def diff(
    invocation: Invocation,
    paths: tuple[Path, ...],
    start: Target,
    end: Target | None,
    destination: str | None,
    names: tuple[str, ...],
    samples: int,
    as_json: bool,
) -> None:
    """Show what other mappings would have made of a past range, without sending.

    Reads the journal under the mappings in force and under those given, and compares event by event. Events of the outbox do
    not depend on mappings and are left out. Values of properties that are `pii` are not shown. A running worker is not
    disturbed. The exit code is 0 whether there are differences or not.
    """
    with (
        invocation.state(to_read=True) as state,
        invocation.journal(to_read=True) as journal,
        output.progress("Comparing") as advance,
    ):
        found = operations.diff.compare(
            invocation.config,
            state,
            journal,
            paths,
            start,
            end,
            destination=destination,
            events=names,
            samples=samples,
            advance=advance,
        )
    if as_json:
        diff_view.emit(found, destination)
    else:
        diff_view.say(found)
