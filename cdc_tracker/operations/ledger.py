"""Counts of events by outcome."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from cdc_tracker.state import LedgerRow, State

Axis = Literal["hour", "mapping", "destination"]
_COUNTS = ("matched", "delivered", "assumed", "rejected", "suppressed", "replayed", "repeated")


def summed(
    state: State, source: str, by: Axis, *, since_hour: int, destination: str | None = None, mapping: str | None = None
) -> list[LedgerRow]:
    """One row for each destination and each value of `by`, ordered by the latter. `since_hour`: hours since the Unix epoch.

    What is summed over is blank: `hour` is 0 unless the rows are by hour, `mapping` is "" unless they are by mapping.
    """
    sums: dict[tuple[int, str, str], Counter[str]] = {}
    for row in state.ledger.rows(source, destination=destination, mapping=mapping, since_hour=since_hour):
        key = (row.hour if by == "hour" else 0, row.mapping if by == "mapping" else "", row.destination)
        sums.setdefault(key, Counter()).update({name: getattr(row, name) for name in _COUNTS})
    return [
        LedgerRow(place, event, hour, **{name: counts[name] for name in _COUNTS})
        for (hour, event, place), counts in sorted(sums.items())
    ]
