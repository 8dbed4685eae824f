"""`ledger`: what became of every event, as counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker.cli import Invocation, output
from cdc_tracker.delivery.points import parse_since

if TYPE_CHECKING:
    from cdc_tracker.state import LedgerRow

COUNTED = ("matched", "delivered", "assumed", "rejected", "suppressed", "pending", "replayed", "repeated")
_HOUR_US = 3_600_000_000


def _since(_ctx: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return parse_since(value, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option("--since", default="24h", callback=_since, show_default=True, help="How long ago, or an ISO time.")
@click.option("--by", type=click.Choice(["hour", "mapping", "destination"]), default="mapping", show_default=True)
@click.option("--destination", help="Only this destination.")
@click.option("--mapping", help="Only this mapping.")
@output.as_json
@click.pass_obj
def ledger(invocation: Invocation, since: int, by: str, destination: str | None, mapping: str | None, as_json: bool) -> None:
    """Show counts of matched, delivered, rejected and pending events.

    matched = delivered + assumed + rejected + suppressed + pending. An event is counted in the hour of its commit.
    """
    from cdc_tracker.cli.stores import load_config, opened_state  # noqa: PLC0415

    config = load_config(invocation)
    with opened_state(config, to_read=True) as state:
        rows = state.ledger(config.source.name, destination=destination, mapping=mapping, since_hour=since)
    sums = _summed(rows, by)
    if as_json:
        output.emit([dict(zip((*_columns(by), *COUNTED), (*key, *values), strict=True)) for key, values in sums])
    elif not sums:
        output.say(f"No events since {output.moment(since * _HOUR_US)}.")
    else:
        table = output.table((*_columns(by), *COUNTED), [(*key, *_grouped(values)) for key, values in sums], right=COUNTED)
        output.console().print(table)


def _columns(by: str) -> tuple[str, ...]:
    return {"hour": ("hour", "destination"), "mapping": ("mapping", "destination"), "destination": ("destination",)}[by]


def _key(by: str) -> Callable[[Any], tuple[str, ...]]:
    if by == "hour":
        return lambda row: (output.moment(row.hour * _HOUR_US), row.destination)
    if by == "mapping":
        return lambda row: (row.mapping, row.destination)
    return lambda row: (row.destination,)


def _summed(rows: Iterable[LedgerRow], by: str) -> list[tuple[tuple[str, ...], list[int]]]:
    sums: dict[tuple[str, ...], Counter[str]] = {}
    key = _key(by)
    for row in rows:
        counts = sums.setdefault(key(row), Counter())
        for name in COUNTED:
            counts[name] += getattr(row, name)
    return [(each, [counts[name] for name in COUNTED]) for each, counts in sorted(sums.items())]


def _grouped(values: list[int]) -> list[str]:
    return [f"{value:,}" if value else "–" for value in values]
