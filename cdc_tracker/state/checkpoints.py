"""Checkpoints, on a connection in a transaction that the caller owns."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, case, false, select, text, tuple_, update

from cdc_tracker.errors import StateMissing, Stop
from cdc_tracker.model import Position
from cdc_tracker.state import fence
from cdc_tracker.state.fence import Step, follows, leads
from cdc_tracker.state.records import Checkpoint
from cdc_tracker.state.tables import checkpoints as c

PARTITION = 0

_here = (c.c.source == bindparam("of_source"), c.c.destination == bindparam("of_destination"), c.c.partition == PARTITION)
_given = tuple_(bindparam("to_lsn"), bindparam("to_ordinal"))
_higher = tuple_(c.c.high_lsn, c.c.high_ordinal) < _given
_below = tuple_(c.c.high_lsn, c.c.high_ordinal) > _given

_ONE = select(c).where(*_here)
_ALL = select(c).where(c.c.source == bindparam("of_source"), c.c.partition == PARTITION)
_CREATE = text(
    "INSERT INTO cdc_tracker_checkpoint (source, destination, partition, lsn, ordinal, high_lsn, high_ordinal, version, "
    "updated_at) VALUES (:of_source, :of_destination, 0, :to_lsn, :to_ordinal, :to_lsn, :to_ordinal, :now, :now) "
    "ON CONFLICT DO NOTHING"
)
_ADVANCE = (
    update(c)
    .where(*_here, tuple_(c.c.lsn, c.c.ordinal) <= _given, follows(c))
    .values(
        lsn=bindparam("to_lsn"),
        ordinal=bindparam("to_ordinal"),
        high_lsn=case((_higher, bindparam("to_lsn")), else_=c.c.high_lsn),
        high_ordinal=case((_higher, bindparam("to_ordinal")), else_=c.c.high_ordinal),
        only_missing=and_(c.c.only_missing, _below),
        version=leads(),
        updated_at=bindparam("now"),
    )
    .returning(c.c.rewind_lsn, c.c.rewind_ordinal)
)
_REQUEST = (
    update(c)
    .where(*_here, tuple_(c.c.lsn, c.c.ordinal) >= _given)
    .values(rewind_lsn=bindparam("to_lsn"), rewind_ordinal=bindparam("to_ordinal"), rewind_only_missing=bindparam("missing"))
    .returning(c.c.lsn)
)
_APPLY = (
    update(c)
    .where(*_here, c.c.rewind_lsn.is_not(None))
    .values(
        lsn=c.c.rewind_lsn,
        ordinal=c.c.rewind_ordinal,
        rewind_lsn=None,
        rewind_ordinal=None,
        only_missing=c.c.rewind_only_missing,
        rewind_only_missing=false(),
        updated_at=bindparam("now"),
    )
    .returning(c.c.lsn, c.c.ordinal)
)


def now() -> int:
    return time.time_ns() // 1000


def get(connection: Connection, source: str, destination: str) -> Checkpoint | None:
    row = connection.execute(_ONE, _place(source, destination)).first()
    return _checkpoint(row) if row else None


def every(connection: Connection, source: str) -> dict[str, Checkpoint]:
    return {row.destination: _checkpoint(row) for row in connection.execute(_ALL, {"of_source": source})}


def create(connection: Connection, source: str, destination: str, position: Position) -> None:
    connection.execute(_CREATE, _place(source, destination, position))


def claimed(source: str, destination: str) -> fence.Row:
    """The row, for the process that is to write it."""
    key = {"source": source, "destination": destination, "partition": PARTITION}
    return fence.Row(f"the checkpoint of {destination} ({source})", c, key)


def advance(
    connection: Connection, source: str, destination: str, position: Position, writer: fence.Unclaimed, step: Step
) -> Position | None:
    """Raises Fenced where the writer has lost it, Stop where it would go back. Returns where a rewind that waits goes to."""
    row = connection.execute(_ADVANCE, _place(source, destination, position) | step._asdict()).first()
    if row is None:
        writer.refuse(connection, step)
        found = _existing(connection, source, destination)
        raise Stop(
            f"The checkpoint of {destination} ({source}) would go back from {found.position} to {position} without a rewind.",
            hint="Two workers may be delivering to this destination, or its state store was changed by hand.",
        )
    return _optional(row)


def request_rewind(connection: Connection, source: str, destination: str, to: Position, only_missing: bool) -> None:
    place = _place(source, destination, to) | {"missing": only_missing}
    if connection.execute(_REQUEST, place).first() is None:
        found = _existing(connection, source, destination)
        raise Stop(
            f"{destination} ({source}) is at {found.position}: a rewind to {to} would go forward and skip what is between.",
            hint="Give a position or time before the checkpoint.",
        )


def apply_rewind(connection: Connection, source: str, destination: str) -> Position:
    row = connection.execute(_APPLY, _place(source, destination)).first()
    return Position(row.lsn, row.ordinal) if row else _existing(connection, source, destination).position


def _existing(connection: Connection, source: str, destination: str) -> Checkpoint:
    found = get(connection, source, destination)
    if found is None:
        raise StateMissing(
            f"The state store has no checkpoint of {destination} for the source {source}.",
            hint="Look at the destination's name, and whether state.url and data_dir are those that it ran with.",
        )
    return found


def _place(source: str, destination: str, position: Position | None = None) -> dict[str, Any]:
    place: dict[str, Any] = {"of_source": source, "of_destination": destination, "now": now()}
    if position is not None:
        place |= {"to_lsn": position.commit_lsn, "to_ordinal": position.ordinal}
    return place


def _checkpoint(row: Row[Any]) -> Checkpoint:
    high = Position(row.high_lsn, row.high_ordinal)
    return Checkpoint(Position(row.lsn, row.ordinal), high, _optional(row), row.updated_at, row.only_missing)


def _optional(row: Row[Any]) -> Position | None:
    return Position(row.rewind_lsn, row.rewind_ordinal) if row.rewind_lsn is not None else None
