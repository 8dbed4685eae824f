"""Since when each mapping is in force at each destination, and whether a change has matched it since."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import and_, bindparam, case, delete, exists, func, select

from cdc_tracker.model import START, Position
from cdc_tracker.state.records import MappingRecord
from cdc_tracker.state.tables import ledger
from cdc_tracker.state.tables import mappings as t
from cdc_tracker.state.transactions import Aggregate
from cdc_tracker.times import now_micros

_of_destination = (t.c.source == bindparam("of_source"), t.c.destination == bindparam("of_destination"))
_KEYS = select(t.c.mapping).where(*_of_destination)
_END = delete(t).where(*_of_destination, t.c.mapping == bindparam("of_mapping"))
_matched = func.coalesce(func.sum(ledger.c.matched + ledger.c.replayed), 0)
_of_key = (ledger.c.source == bindparam("of_source"), ledger.c.destination == bindparam("of_destination"))
_COUNT = select(_matched).where(*_of_key, ledger.c.mapping == bindparam("of_mapping"))
# A mapping that was removed and came back is in the ledger already: only then are its hours added up.
_same = and_(ledger.c.source == t.c.source, ledger.c.destination == t.c.destination, ledger.c.mapping == t.c.mapping)
_counted = select(_matched).where(_same).correlate(t).scalar_subquery()
_silent = case((t.c.matched_before > 0, t.c.matched_before == _counted), else_=~exists().where(_same))
_ALL = (
    select(t.c.destination, t.c.mapping, t.c.loaded_at, t.c.after_lsn, t.c.after_ordinal, _silent.label("silent"))
    .where(t.c.source == bindparam("of_source"))
    .order_by(t.c.destination, t.c.mapping)
)


class MappingRecords(Aggregate):
    """The mappings in force, by destination."""

    def load(self, source: str, destination: str, keys: Collection[str], after: Position = START) -> None:
        """These are in force now. Those that were before stay as they are; others begin now, and those not named end.

        `after`: changes up to there were dealt with already.
        """
        place = {"of_source": source, "of_destination": destination}
        with self._transactions.fenced() as connection:
            before = set(connection.execute(_KEYS, place).scalars())
            for key in sorted(before.difference(keys)):
                connection.execute(_END, place | {"of_mapping": key})
            for key in sorted(set(keys) - before):
                matched = int(connection.execute(_COUNT, place | {"of_mapping": key}).scalar_one())
                row = {"source": source, "destination": destination, "mapping": key, "loaded_at": now_micros()}
                begin = START if matched else after
                row |= {"after_lsn": begin.commit_lsn, "after_ordinal": begin.ordinal}
                connection.execute(t.insert(), row | {"matched_before": matched})

    def all(self, source: str) -> list[MappingRecord]:
        """Returns the mappings in force, by destination and key. Looks up one row of the ledger for each, not its hours."""
        with self._transactions.reading() as connection:
            rows = connection.execute(_ALL, {"of_source": source}).all()
        return [
            MappingRecord(row.destination, row.mapping, row.loaded_at, Position(row.after_lsn, row.after_ordinal), not row.silent)
            for row in rows
        ]
