"""Counts of events by outcome, and mappings that no change has matched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Literal

from cdc_tracker.state import LedgerRow, MappingRecord, State

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


def unmatched(
    state: State, source: str, destinations: Collection[str], *, destination: str | None = None, mapping: str | None = None
) -> list[MappingRecord]:
    """The mappings in force that no change has matched since they were loaded, by key and destination.

    `destinations`: those that are configured. `destination`, `mapping`: only these.
    """
    records = [each for each in state.mappings.all(source) if not each.matched and each.destination in destinations]
    wanted = [each for each in records if destination in (None, each.destination) and mapping in (None, each.mapping)]
    return sorted(wanted, key=lambda each: (each.mapping, each.destination))


def never_matched(state: State, source: str, destinations: Collection[str]) -> dict[str, int]:
    """Mappings in force that have matched at none of the destinations → since when they are, in microseconds. In order of key."""
    records = [each for each in state.mappings.all(source) if each.destination in destinations]
    matched = {each.mapping for each in records if each.matched}
    since: dict[str, int] = {}
    for each in sorted(records, key=lambda each: (each.mapping, each.loaded_at)):
        if each.mapping not in matched:
            since.setdefault(each.mapping, each.loaded_at)
    return since
