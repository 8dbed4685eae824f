"""Checkpoints: up to where each destination has dealt with everything."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, case, delete, false, select, text, tuple_, update

from cdc_tracker.errors import StateMissing, Stop
from cdc_tracker.model import Position
from cdc_tracker.state import jobs
from cdc_tracker.state.outcomes import Outcomes
from cdc_tracker.state.records import Checkpoint
from cdc_tracker.state.tables import checkpoints as c
from cdc_tracker.state.transactions import Aggregate, ClaimedRow, Step, follows, leads
from cdc_tracker.times import now_micros

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


class Checkpoints(Aggregate):
    """Up to where each destination has dealt with everything."""

    def get(self, source: str, destination: str) -> Checkpoint | None:
        """The checkpoint; None if the destination has none."""
        with self._transactions.reading() as connection:
            return _get(connection, source, destination)

    def all(self, source: str) -> dict[str, Checkpoint]:
        """Returns the checkpoints by destination."""
        with self._transactions.reading() as connection:
            return {row.destination: _checkpoint(row) for row in connection.execute(_ALL, {"of_source": source})}

    def create(self, source: str, destination: str, position: Position) -> None:
        """Leaves an existing checkpoint as it is."""
        with self._transactions.writing() as connection:
            connection.execute(_CREATE, _place(source, destination, position))

    def drop(self, source: str) -> None:
        """Removes the source's checkpoints when its positions lose their meaning. Counts and dead letters stay; jobs fail."""
        with self._transactions.writing() as connection:
            connection.execute(delete(c).where(c.c.source == source))
            jobs.end_all(connection, source)

    def commit(self, source: str, destination: str, position: Position, outcomes: Outcomes) -> Position | None:
        """Advances the checkpoint and stores the outcomes, all or nothing.

        Returns the target of a pending rewind, or None. Raises Stop if the checkpoint would move back.
        """
        with self._transactions.stepping() as (connection, step):
            target = self._advance(connection, source, destination, position, step)
            outcomes.store(connection, source, destination)
        return target

    def _advance(self, connection: Connection, source: str, destination: str, position: Position, step: Step) -> Position | None:
        row = connection.execute(_ADVANCE, _place(source, destination, position) | step._asdict()).first()
        if row is None:
            self._transactions.writer.refuse(connection, step)
            found = _existing(connection, source, destination)
            raise Stop(
                f"The checkpoint of {destination} ({source}) would move from {found.position} back to {position}.",
                hint="Two workers may be delivering to this destination, or its state store was changed by hand.",
            )
        return _optional(row)

    def request_rewind(self, source: str, destination: str, to: Position, *, only_missing: bool = False) -> None:
        """The delivery learns of it by its next commit or get. Raises Stop if `to` is ahead of the checkpoint.

        `only_missing` is in force from when the rewind is applied until the checkpoint reaches `high` again.
        """
        place = _place(source, destination, to) | {"missing": only_missing}
        with self._transactions.writing() as connection:
            if connection.execute(_REQUEST, place).first() is None:
                found = _existing(connection, source, destination)
                raise Stop(
                    f"{destination} ({source}) is at {found.position}: a rewind to {to} would move it forward and skip changes.",
                    hint="Give a position or time before the checkpoint.",
                )

    def apply_rewind(self, source: str, destination: str) -> Position:
        """Moves the checkpoint to the target of the pending rewind. Returns the position in force."""
        with self._transactions.fenced() as connection:
            row = connection.execute(_APPLY, _place(source, destination)).first()
            return Position(row.lsn, row.ordinal) if row else _existing(connection, source, destination).position


def claimed(source: str, destination: str) -> ClaimedRow:
    """The row that only the destination's delivery writes."""
    key = {"source": source, "destination": destination, "partition": PARTITION}
    return ClaimedRow(f"the checkpoint of {destination} ({source})", c, key)


def _get(connection: Connection, source: str, destination: str) -> Checkpoint | None:
    row = connection.execute(_ONE, _place(source, destination)).first()
    return _checkpoint(row) if row else None


def _existing(connection: Connection, source: str, destination: str) -> Checkpoint:
    found = _get(connection, source, destination)
    if found is None:
        raise StateMissing(
            f"The state store has no checkpoint of {destination} for the source {source}.",
            hint="Check the destination's name, and that state.url and data_dir are those that it ran with.",
        )
    return found


def _place(source: str, destination: str, position: Position | None = None) -> dict[str, Any]:
    place: dict[str, Any] = {"of_source": source, "of_destination": destination, "now": now_micros()}
    if position is not None:
        place |= {"to_lsn": position.commit_lsn, "to_ordinal": position.ordinal}
    return place


def _checkpoint(row: Row[Any]) -> Checkpoint:
    high = Position(row.high_lsn, row.high_ordinal)
    return Checkpoint(Position(row.lsn, row.ordinal), high, _optional(row), row.updated_at, row.only_missing)


def _optional(row: Row[Any]) -> Position | None:
    return Position(row.rewind_lsn, row.rewind_ordinal) if row.rewind_lsn is not None else None
