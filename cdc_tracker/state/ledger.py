"""The ledger: counts per hour, mapping and destination, on a connection in a transaction that the caller owns.

matched = delivered + assumed + rejected + suppressed + pending. Rejected counts the dead letters that are parked or discarded;
one that is queued to be sent again is pending until it is delivered (delivered + 1) or parked again (rejected + 1).
"""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, func, select, text

from cdc_tracker.state.records import Counts, LedgerRow, Totals
from cdc_tracker.state.tables import OUTCOMES, totals
from cdc_tracker.state.tables import ledger as t

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


def add(connection: Connection, source: str, destination: str, counts: Counts, *, moved: bool = False) -> None:
    """`moved`: the counts say where events are now, and nothing has happened to any of them."""
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


def totals_of(connection: Connection, source: str) -> dict[str, Totals]:
    """By destination, in as many rows as there are destinations."""
    found = {}
    for row in connection.execute(select(totals).where(totals.c.source == source)).mappings():
        now, ever = ({outcome: row[f"{outcome}{end}"] for outcome in OUTCOMES} for end in ("", "_ever"))
        found[row["destination"]] = Totals(now, ever)
    return found


def delivered_since(connection: Connection, source: str, hour: int) -> dict[str, int]:
    """By destination: events of changes committed in that hour and later ones that were delivered."""
    query = (
        select(t.c.destination, func.sum(t.c.delivered + t.c.assumed + t.c.replayed))
        .where(t.c.source == source, t.c.hour >= hour)
        .group_by(t.c.destination)
    )
    return {destination: int(number) for destination, number in connection.execute(query)}


def rows_of(
    connection: Connection, source: str, destination: str | None, mapping: str | None, since_hour: int | None
) -> list[LedgerRow]:
    wanted = select(*_columns).where(t.c.source == source).order_by(t.c.hour, t.c.destination, t.c.mapping)
    if destination is not None:
        wanted = wanted.where(t.c.destination == destination)
    if mapping is not None:
        wanted = wanted.where(t.c.mapping == mapping)
    if since_hour is not None:
        wanted = wanted.where(t.c.hour >= since_hour)
    return [LedgerRow(*row) for row in connection.execute(wanted)]
