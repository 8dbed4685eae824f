"""The ledger: counts per hour, mapping and destination.

matched = delivered + assumed + rejected + suppressed + pending. Rejected counts the dead letters that are parked or discarded;
one that is queued to be sent again is pending until it is delivered (delivered + 1) or parked again (rejected + 1).
"""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, func, select, text

from cdc_tracker.state.records import Counts, LedgerRow, Totals
from cdc_tracker.state.tables import OUTCOMES, totals
from cdc_tracker.state.tables import ledger as t
from cdc_tracker.state.transactions import Aggregate

_ADD = text(
    f"INSERT INTO cdc_tracker_ledger (source, destination, mapping, hour, {', '.join(OUTCOMES)}) "
    f"VALUES (:source, :destination, :mapping, :hour, {', '.join(f':{outcome}' for outcome in OUTCOMES)}) "
    "ON CONFLICT (source, destination, mapping, hour) DO UPDATE SET "
    + ", ".join(f"{outcome} = cdc_tracker_ledger.{outcome} + excluded.{outcome}" for outcome in OUTCOMES)
)
_TOTALED = (*OUTCOMES, *(f"{outcome}_ever" for outcome in OUTCOMES))
_TOTAL = text(
    f"INSERT INTO cdc_tracker_total (source, destination, {', '.join(_TOTALED)}) "
    f"VALUES (:source, :destination, {', '.join(f':{name}' for name in _TOTALED)}) "
    "ON CONFLICT (source, destination) DO UPDATE SET "
    + ", ".join(f"{name} = cdc_tracker_total.{name} + excluded.{name}" for name in _TOTALED)
)
_columns = (t.c.destination, t.c.mapping, t.c.hour, *(t.c[outcome] for outcome in OUTCOMES))


class Ledger(Aggregate):
    """Counts per hour, mapping and destination, and their totals."""

    def rows(
        self, source: str, destination: str | None = None, mapping: str | None = None, since_hour: int | None = None
    ) -> list[LedgerRow]:
        """Returns the counts by hour, destination, mapping."""
        wanted = select(*_columns).where(t.c.source == source).order_by(t.c.hour, t.c.destination, t.c.mapping)
        if destination is not None:
            wanted = wanted.where(t.c.destination == destination)
        if mapping is not None:
            wanted = wanted.where(t.c.mapping == mapping)
        if since_hour is not None:
            wanted = wanted.where(t.c.hour >= since_hour)
        with self._transactions.reading() as connection:
            return [LedgerRow(*row) for row in connection.execute(wanted)]

    def totals(self, source: str) -> dict[str, Totals]:
        """Returns totals by destination. Reads one row per destination, not the ledger."""
        found = {}
        with self._transactions.reading() as connection:
            for row in connection.execute(select(totals).where(totals.c.source == source)).mappings():
                now, ever = ({outcome: row[f"{outcome}{end}"] for outcome in OUTCOMES} for end in ("", "_ever"))
                found[row["destination"]] = Totals(now, ever)
        return found

    def delivered_since(self, source: str, hour: int) -> dict[str, int]:
        """Counts, by destination, delivered events of changes committed in that hour (since the Unix epoch) or later."""
        query = (
            select(t.c.destination, func.sum(t.c.delivered + t.c.assumed + t.c.replayed))
            .where(t.c.source == source, t.c.hour >= hour)
            .group_by(t.c.destination)
        )
        with self._transactions.reading() as connection:
            return {destination: int(number) for destination, number in connection.execute(query)}


def add(connection: Connection, source: str, destination: str, counts: Counts, *, moved: bool = False) -> None:
    """Adds to the ledger and its totals. `moved`: events changed their place, but nothing happened to any: `ever` stays."""
    rows: dict[tuple[int, str], dict[str, int]] = {}
    for (hour, mapping, outcome), count in counts.items():
        if outcome not in OUTCOMES:
            raise ValueError(f"the ledger has no outcome {outcome!r}: {', '.join(OUTCOMES)}")
        rows.setdefault((hour, mapping), dict.fromkeys(OUTCOMES, 0))[outcome] += count
    if rows:
        place = {"source": source, "destination": destination}
        # In order, so that two transactions that add to the same rows wait for each other and never in a circle.
        connection.execute(
            _ADD, [place | {"hour": hour, "mapping": mapping, **rows[hour, mapping]} for hour, mapping in sorted(rows)]
        )
        change: Counter[str] = Counter()
        for row in rows.values():
            change.update(row)
        happened = {f"{outcome}_ever": 0 if moved else max(0, change[outcome]) for outcome in OUTCOMES}
        connection.execute(_TOTAL, place | change | happened)
