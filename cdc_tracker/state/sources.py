"""Sources: what setup recorded of each, and how far it has been confirmed."""

from __future__ import annotations

from dataclasses import fields

from sqlalchemy import Connection, bindparam, select, text, update

from cdc_tracker.errors import StateMissing
from cdc_tracker.model import Lsn
from cdc_tracker.state.records import SourceRecord
from cdc_tracker.state.tables import sources as t
from cdc_tracker.state.transactions import Aggregate, ClaimedRow, follows, leads

_columns = [field.name for field in fields(SourceRecord)]
_ONE = select(*(t.c[name] for name in _columns)).where(t.c.name == bindparam("of_name"))
_SAVE = text(
    f"INSERT INTO cdc_tracker_source (version, {', '.join(_columns)}) VALUES (:next_version, "
    f"{', '.join(f':{name}' for name in _columns)}) ON CONFLICT (name) DO UPDATE SET version = excluded.version, "
    + ", ".join(f"{name} = excluded.{name}" for name in _columns if name != "name")
)
_CONFIRM = (
    update(t)
    .where(t.c.name == bindparam("of_name"), t.c.confirmed_lsn < bindparam("lsn"), follows(t))
    .values(confirmed_lsn=bindparam("lsn"), journaled_lsn=bindparam("journaled"), version=leads())
)


class Sources(Aggregate):
    """The record that setup made of each source."""

    def get(self, name: str) -> SourceRecord | None:
        """The record; None if the source was not set up."""
        with self._transactions.reading() as connection:
            return _get(connection, name)

    def save(self, record: SourceRecord) -> None:
        """Insert the record, or replace all of it."""
        values = {name: getattr(record, name) for name in _columns}
        with self._transactions.stepping() as (connection, step):
            self._transactions.writer.compare(connection, step)
            connection.execute(_SAVE, values | {"next_version": step.next_version})

    def confirm(self, name: str, lsn: Lsn, journaled: Lsn) -> None:
        """Advances the confirmed LSN to `lsn`; never lowers it. Call it before the feedback that confirms `lsn` is sent.

        `journaled` is the journal's end.
        """
        values = {"of_name": name, "lsn": lsn, "journaled": journaled}
        with self._transactions.stepping() as (connection, step):
            if connection.execute(_CONFIRM, values | step._asdict()).rowcount:
                return
            if _get(connection, name) is None:
                raise StateMissing(
                    f"The state store has no source {name}.",
                    hint="Run `cdc-tracker setup`, or give the state store that it was set up with.",
                )
            self._transactions.writer.compare(connection, step)


def claimed(name: str) -> ClaimedRow:
    """The row that only capture writes."""
    return ClaimedRow(f"the record of the source {name}", t, {"name": name})


def _get(connection: Connection, name: str) -> SourceRecord | None:
    row = connection.execute(_ONE, {"of_name": name}).first()
    return SourceRecord(*row) if row else None
