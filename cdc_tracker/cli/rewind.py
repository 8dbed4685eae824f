"""`rewind`: moves a destination's checkpoint back within the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, estimate_view, options, output
from cdc_tracker.units import plural

if TYPE_CHECKING:
    from cdc_tracker.delivery.points import Target

_AT_ONCE = "The running worker goes back at once."
_LATER = "No worker is delivering to it now: the rewind is applied when `cdc-tracker run` starts."


@click.command()
@click.argument("destination")
@click.option("--to", "target", required=True, callback=options.point, help=options.POINT)
@click.option("--dry-run", is_flag=True, help="Only show what would be sent again.")
@options.only_missing
@options.yes_duplicates
@output.yes
@output.as_json
@click.pass_obj
def rewind(
    invocation: Invocation,
    destination: str,
    target: Target,
    dry_run: bool,
    only_missing: bool,
    yes_duplicates: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Move a destination's checkpoint back, so that the events after it are sent again.

    The changes are mapped again with the present mappings; events that come out the same have the same ids. A worker may be
    running. A rewind reaches back as far as the journal does.

    First it is shown what the destination will do with the events. If it does not recognize some of them, it will have them
    twice, and that takes --yes-duplicates, also with --yes.
    """
    with invocation.state() as state, invocation.journal() as journal:
        with output.progress("Counting the events of this range") as advance:
            plan = operations.rewind.plan(
                invocation.config, state, journal, destination, target, only_missing=only_missing, advance=advance
            )
        again, to = plan.estimate, plan.to
        shown = {"destination": destination, "from": str(plan.position), "to": str(to), **estimate_view.as_json(again)}
        if not as_json:
            events = plural(again.counts.sent, "event")
            output.say(f"{destination}: from {plan.position} back to {to}, {events} would be sent again.")
            estimate_view.say(again)
        if not dry_run:
            question, twice = f"Rewind {destination} to {to}?", estimate_view.twice(again)
            accepted = output.agree(question, twice, yes=yes, duplicates=yes_duplicates)
            at_once = operations.rewind.apply(state, journal, plan, accept_duplicates=accepted)
            shown["applied"] = _AT_ONCE if at_once else _LATER
    if as_json:
        output.emit(shown)
    elif not dry_run:
        output.say(shown["applied"])
