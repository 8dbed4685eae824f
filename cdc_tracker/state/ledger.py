"""The ledger: counts per hour, mapping and destination, on a connection in a transaction that the caller owns.

matched = delivered + assumed + rejected + suppressed + pending. Rejected counts the dead letters that are parked or discarded;
one that is queued to be sent again is pending until it is delivered (delivered + 1) or parked again (rejected + 1).
"""

from __future__ import annotations

from sqlalchemy import Connection, select, text

from cdc_tracker.state.records import Counts, LedgerRow
from cdc_tracker.state.tables import OUTCOMES
from cdc_tracker.state.tables import ledger as t

_ADD = text(
    f"INSERT INTO cdc_tracker_ledger (source, destination, mapping, hour, {', '.join(OUTCOMES)}) "
    f"VALUES (:source, :destination, :mapping, :hour, {', '.join(f':{outcome}' for outcome in OUTCOMES)}) "
    "ON CONFLICT (source, destination, mapping, hour) DO UPDATE SET "
    + ", ".join(f"{outcome} = cdc_tracker_ledger.{outcome} + excluded.{outcome}" for outcome in OUTCOMES)
)
_columns = (t.c.destination, t.c.mapping, t.c.hour, *(t.c[outcome] for outcome in OUTCOMES))


def add(connection: Connection, source: str, destination: str, counts: Counts) -> None:
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
