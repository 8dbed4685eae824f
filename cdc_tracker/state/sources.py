"""What is known of each source, on a connection in a transaction that the caller owns."""

from __future__ import annotations

from dataclasses import fields

from sqlalchemy import Connection, bindparam, delete, select, text, update

from cdc_tracker.errors import StateMissing
from cdc_tracker.model import Lsn
from cdc_tracker.state.fence import Row, Step, follows, leads
from cdc_tracker.state.records import SourceRecord
from cdc_tracker.state.tables import sources as t

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


def claimed(name: str) -> Row:
    """The row, for the process that is to write it."""
    return Row(f"the record of the source {name}", t, {"name": name})


def get(connection: Connection, name: str) -> SourceRecord | None:
    row = connection.execute(_ONE, {"of_name": name}).first()
    return SourceRecord(*row) if row else None


def save(connection: Connection, record: SourceRecord, step: Step) -> None:
    values = {name: getattr(record, name) for name in _columns}
    connection.execute(_SAVE, values | {"next_version": step.next_version})


def confirm(connection: Connection, name: str, lsn: Lsn, journaled: Lsn, step: Step) -> bool:
    """False where it was not raised: it is as high already, or the row has another version."""
    values = {"of_name": name, "lsn": lsn, "journaled": journaled}
    raised = connection.execute(_CONFIRM, values | step._asdict()).rowcount
    if not raised and get(connection, name) is None:
        raise StateMissing(
            f"The state store knows no source {name}.",
            hint="Run `cdc-tracker setup`, or give the state store that it was set up with.",
        )
    return bool(raised)


def forget(connection: Connection, name: str) -> None:
    connection.execute(delete(t).where(t.c.name == name))
