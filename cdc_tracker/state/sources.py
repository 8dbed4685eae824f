"""What is known of each source, on a connection in a transaction that the caller owns."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, select, text, update

from cdc_tracker.errors import StateMissing
from cdc_tracker.model import Lsn
from cdc_tracker.state.records import SourceRecord
from cdc_tracker.state.tables import sources as t

_ONE = select(t).where(t.c.name == bindparam("of_name"))
_columns = [column.name for column in t.c]
_SAVE = text(
    f"INSERT INTO cdc_tracker_source ({', '.join(_columns)}) VALUES ({', '.join(f':{name}' for name in _columns)}) "
    f"ON CONFLICT (name) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _columns if name != 'name')}"
)
_CONFIRM = (
    update(t)
    .where(t.c.name == bindparam("of_name"), t.c.confirmed_lsn < bindparam("lsn"))
    .values(confirmed_lsn=bindparam("lsn"), journaled_lsn=bindparam("journaled"))
)


def get(connection: Connection, name: str) -> SourceRecord | None:
    row = connection.execute(_ONE, {"of_name": name}).first()
    return SourceRecord(*row) if row else None


def save(connection: Connection, record: SourceRecord) -> None:
    connection.execute(_SAVE, {name: getattr(record, name) for name in _columns})


def confirm(connection: Connection, name: str, lsn: Lsn, journaled: Lsn) -> None:
    raised = connection.execute(_CONFIRM, {"of_name": name, "lsn": lsn, "journaled": journaled}).rowcount
    if not raised and get(connection, name) is None:
        raise StateMissing(
            f"The state store knows no source {name}.",
            hint="Run `cdc-tracker setup`, or give the state store that it was set up with.",
        )


def forget(connection: Connection, name: str) -> None:
    connection.execute(delete(t).where(t.c.name == name))
