"""`rewind`: moves a destination's checkpoint back within the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, options, outlook, output
from cdc_tracker.errors import Stop

if TYPE_CHECKING:
    from cdc_tracker.delivery.points import Target
    from cdc_tracker.model import Position
    from cdc_tracker.state import Checkpoint, State


@click.command()
@click.argument("destination")
@click.option("--to", "target", required=True, callback=options.point, help=options.POINT)
@click.option("--dry-run", is_flag=True, help="Only say what would be sent again.")
@outlook.only_missing
@outlook.yes_duplicates
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

    Events are made anew under the present mappings; those that come out the same have the same ids. It may be done
    while the worker runs. It reaches back as far as the journal does.

    What the destination will do with them is said first. Where it does not know some of them again, it will have them
    twice, and that takes --yes-duplicates, also with --yes.
    """
    from cdc_tracker.cli import stores  # noqa: PLC0415
    from cdc_tracker.delivery.points import located  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    config = stores.load_config(invocation)
    operations.named.destination(config, destination)
    if only_missing:
        outlook.has_sent_ledger(config, destination)
    with stores.opened_state(config) as state, stores.opened_journal(config) as journal:
        record = operations.named.source(config, state)
        position = _checkpoint(state, record.name, destination).position
        to = _behind(located(journal, target), position)
        pipeline = assemble.build_pipeline(config, record, destination)
        again = outlook.outlook(config, state, destination, pipeline, journal, to, position, only_missing=only_missing)
        plan = {"destination": destination, "from": str(position), "to": str(to), **again.figures()}
        if not as_json:
            output.say(f"{destination}: from {position} back to {to}, {output.plural(again.found.sent, 'event')} would go again.")
            again.tell()
        if not dry_run:
            again.agree(f"Rewind {destination} to {to}?", yes=yes, duplicates=yes_duplicates)
            state.checkpoints.request_rewind(record.name, destination, to, only_missing=only_missing)
            journal.wake(destination)
            plan["applied"] = _when_applied(state, record.name, destination)
    if as_json:
        output.emit(plan)
    elif not dry_run:
        output.say(plan["applied"])


def _checkpoint(state: State, source: str, destination: str) -> Checkpoint:
    checkpoint = state.checkpoints.get(source, destination)
    if checkpoint is None:
        raise Stop(
            f"The destination {destination!r} has no checkpoint: nothing was ever delivered to it, and nothing can go again.",
            hint="`cdc-tracker setup` gives a new destination its checkpoint.",
        )
    return checkpoint


def _behind(to: Position, position: Position) -> Position:
    if to < position:
        return to
    raise Stop(
        f"The checkpoint is at {position}, which is not past {to}: there is nothing to send again. "
        "A rewind only goes back, since going forward would skip events.",
        hint="`cdc-tracker status` shows where each destination is.",
    )


def _when_applied(state: State, source: str, destination: str) -> str:
    if output.is_alive(state.reports.all(source), f"deliver:{destination}"):
        return "The running worker goes back at once."
    return "No worker is delivering to it now: the rewind is applied when `cdc-tracker run` starts."
