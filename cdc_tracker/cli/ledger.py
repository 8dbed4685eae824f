"""`ledger`: what became of every event, as counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, options, output
from cdc_tracker.times import for_display

if TYPE_CHECKING:
    from cdc_tracker.operations.ledger import Axis
    from cdc_tracker.state import LedgerRow

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

    matched = delivered + assumed + rejected + suppressed + pending. An event is counted in the hour of its commit.
    """
    with invocation.state(to_read=True) as state:
        rows = operations.ledger.summed(state, invocation.source, by, since_hour=since, destination=destination, mapping=mapping)
    keys = _COLUMNS[by]
    if as_json:
        output.emit([{key: _cell(row, key) for key in keys} | {name: getattr(row, name) for name in COUNTED} for row in rows])
    elif not rows:
        output.say(f"No events since {for_display(since * _HOUR_US)}.")
    else:
        cells = [[*(_cell(row, key) for key in keys), *(_number(getattr(row, name)) for name in COUNTED)] for row in rows]
        output.console().print(output.table((*keys, *COUNTED), cells, right=COUNTED))


def _cell(row: LedgerRow, column: str) -> str:
    return for_display(row.hour * _HOUR_US) if column == "hour" else str(getattr(row, column))


def _number(count: int) -> str:
    return f"{count:,}" if count else "–"
