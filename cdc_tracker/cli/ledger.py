"""`ledger`: what became of every event, as counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, options, output
from cdc_tracker.printable import one_line
from cdc_tracker.times import for_display

if TYPE_CHECKING:
    from cdc_tracker.operations.ledger import Axis
    from cdc_tracker.state import LedgerRow, MappingRecord

COUNTED = ("matched", "delivered", "assumed", "rejected", "suppressed", "pending", "replayed", "repeated")
_COLUMNS: dict[Axis, tuple[str, ...]] = {
    "hour": ("hour", "destination"),
    "mapping": ("mapping", "destination"),
    "destination": ("destination",),
}
_HOUR_US = 3_600_000_000


@click.command()
@click.option("--since", default="24h", callback=options.hour, show_default=True, help="How long ago, or an ISO time.")
@click.option("--by", type=click.Choice(list(_COLUMNS)), default="mapping", show_default=True)
@click.option("--destination", help="Only this destination.")
@click.option("--mapping", help="Only this mapping.")
@output.as_json
@click.pass_obj
def ledger(invocation: Invocation, since: int, by: Axis, destination: str | None, mapping: str | None, as_json: bool) -> None:
    """Show counts of matched, delivered, rejected and pending events.

    matched = delivered + assumed + rejected + suppressed + pending. An event is counted in the hour of its commit. By mapping,
    there is also a row of zeros for each mapping that no change has matched since it was first loaded, whenever that was.
    """
    config, source = invocation.config, invocation.source
    with invocation.state(to_read=True) as state:
        rows = operations.ledger.summed(state, source, by, since_hour=since, destination=destination, mapping=mapping)
        unmatched = (
            operations.ledger.unmatched(state, source, config.destinations, destination=destination, mapping=mapping)
            if by == "mapping"
            else []
        )
    if as_json:
        output.emit([*(_counts(row, by) for row in rows), *map(_never, unmatched)])
        return
    if rows or unmatched:
        keys = _COLUMNS[by]
        cells = [[*(_cell(row, key) for key in keys), *(_number(getattr(row, name)) for name in COUNTED)] for row in rows]
        cells += [[each.mapping, each.destination, *("–" for _ in COUNTED)] for each in unmatched]
        output.console().print(output.table((*keys, *COUNTED), cells, right=COUNTED))
    if not rows:
        output.say(f"No events since {for_display(since * _HOUR_US)}.")
    for each in unmatched:
        output.say(f"{never_matched(each.mapping, each.loaded_at)} ({each.destination})")


def never_matched(mapping: str, since: int) -> str:
    """A sentence about a mapping that is in force since then, in microseconds."""
    return f"{one_line(mapping)}: no change has matched since {for_display(since)}, when it was first loaded"


def _counts(row: LedgerRow, by: Axis) -> dict[str, Any]:
    return {key: _cell(row, key) for key in _COLUMNS[by]} | {name: getattr(row, name) for name in COUNTED}


def _never(each: MappingRecord) -> dict[str, Any]:
    since = {"unmatched_since": for_display(each.loaded_at)}
    return {"mapping": each.mapping, "destination": each.destination} | dict.fromkeys(COUNTED, 0) | since


def _cell(row: LedgerRow, column: str) -> str:
    return for_display(row.hour * _HOUR_US) if column == "hour" else str(getattr(row, column))


def _number(count: int) -> str:
    return f"{count:,}" if count else "–"
