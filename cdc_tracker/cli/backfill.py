"""`backfill`: events of a table's present rows, for history that is older than the journal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, options, output
from cdc_tracker.cli.jobs import queued
from cdc_tracker.times import for_display
from cdc_tracker.units import format_duration, format_size, plural

if TYPE_CHECKING:
    from cdc_tracker.delivery.points import Target
    from cdc_tracker.operations.backfill import Backfill

WHAT_IT_IS = (
    "It reads rows as they are now: updates and deletes of the past are not in them, and each event is marked with "
    "context.source.snapshot."
)


@click.command()
@click.argument("event")
@click.option("--destination", "names", multiple=True, required=True, help="Where to send. Repeatable.")
@click.option("--from", "start", callback=options.moment, help='Only events since then: an ISO time, or how long ago ("30d").')
@click.option("--to", "end", callback=options.moment, help="Only events before then.")
@click.option("--where", help="SQL that limits the rows, on top of the mapping's own.")
@click.option("--order", type=click.Choice(["asc", "desc"]), default="asc", show_default=True, help="Of the table's key.")
@click.option("--max-rate", type=click.FloatRange(min=0, min_open=True), help="Events a second at most.")
@click.option("--chunk", type=click.IntRange(1, 100_000), default=5_000, show_default=True, help="Rows read at once at most.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--detach", is_flag=True, help="Leave the job to the worker, and do not show its progress.")
@options.yes_duplicates
@output.yes
@output.as_json
@click.pass_obj
def backfill(
    invocation: Invocation,
    /,
    event: str,
    names: tuple[str, ...],
    start: Target | None,
    end: Target | None,
    where: str | None,
    order: Literal["asc", "desc"],
    max_rate: float | None,
    chunk: int,
    dry_run: bool,
    detach: bool,
    yes_duplicates: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send the event that a mapping makes of each row of its table, for history older than the journal.

    The mapping declares `backfill`, `id` and `timestamp`. Rows are read in chunks by the table's key, beside the live stream;
    an event that the stream sends too has the same id, and an older read never overwrites a later change.
    """
    wanted = operations.backfill.Wanted(
        from_us=start.time_us if start else None,
        to_us=end.time_us if end else None,
        where=where,
        order=order,
        chunk=chunk,
        max_rate=max_rate,
    )
    with invocation.state() as state:
        plans = operations.backfill.plan(invocation.config, state, event, names, wanted)
        for plan in plans:
            if not as_json:
                _say(plan)
            if not dry_run:
                question = f"Read {plan.spec.table} for {plan.destination}?"
                yes_duplicates = output.agree(question, _twice(plan), yes=yes, duplicates=yes_duplicates)
        shown = [_as_json(plan) for plan in plans]
        numbers = []
        if not dry_run:
            with invocation.journal() as journal:
                jobs = operations.backfill.start(state, journal, plans, accept_duplicates=yes_duplicates)
            numbers = [job.id for job in jobs]
            shown = [each | {"job": number} for each, number in zip(shown, numbers, strict=True)]
        if as_json:
            output.emit(shown)
        else:
            queued(invocation.config, state, numbers, follow=not detach)


def _as_json(plan: Backfill) -> dict[str, Any]:
    kind, spec = plan.kind, plan.spec
    return {
        "event": spec.event,
        "destination": plan.destination,
        "table": spec.table,
        "key": list(plan.key),
        "rows": plan.rows,
        "bytes": plan.bytes,
        "depth": "table",
        "guarantee": kind.guarantee,
        "repeats": kind.duplicate_handling,
        "only_missing": spec.only_missing,
        "dry_run": plan.dry_run,
        "may_be_twice": plan.duplicates,
        "age_limit_seconds": output.finite(kind.age_limit),
        "from": for_display(spec.from_us) if spec.from_us is not None else None,
    }


def _say(plan: Backfill) -> None:
    rows = f"about {plural(plan.rows, 'row')} ({format_size(plan.bytes)})"
    output.say(f"{plan.spec.event} → {plan.destination}: {rows} of {plan.spec.table}, by {', '.join(plan.key)}.")
    output.say(WHAT_IT_IS)
    if plan.dry_run:
        output.say("The destination is in a dry run: events would be counted as suppressed, and none sent.")
    if plan.spec.only_missing:
        output.say("What its sent-ledger has is held back.")
    else:
        output.say(f"An event that it already has: this destination {plan.kind.duplicate_handling}.")
    if math.isfinite(limit := plan.kind.age_limit):
        output.say(
            f"It takes nothing older than {format_duration(limit)}: such events are rejected and parked. --from leaves them out."
        )


def _twice(plan: Backfill) -> str:
    """The question whether to send duplicates; "" if there would be none."""
    delivered = f"{plan.destination} was delivered {plural(plan.duplicates, 'event')} of {plan.spec.event}"
    return f"{delivered} that it does not recognize by their ids. Send all the same?" if plan.duplicates else ""
