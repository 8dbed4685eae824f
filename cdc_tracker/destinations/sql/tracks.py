"""The table of all events, and the one of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, bindparam, text

from cdc_tracker.destinations.base import Cursor
from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.destinations.support.event_view import ABSENT, EventView
from cdc_tracker.model import START, Position


class Tracks:
    """Every event, whole. JSON is jsonb on PostgreSQL and the original text elsewhere; numbers are exact in both."""

    def __init__(self, database: Database, table: str) -> None:
        self._database = database
        self.table = table
        ids = ("message_id", "type", "event", "user_id", "anonymous_id", "group_id", "previous_id")
        parts = dict.fromkeys(("properties", "traits", "context"), database.json_type)
        self._kinds = {**dict.fromkeys(ids, database.text_type), "timestamp": database.time_type, **parts}

    def make(self, connection: Connection) -> None:
        """Creates the table unless it exists."""
        database = self._database
        required = {"message_id": f"{database.key_type} NOT NULL", "type": f"{database.text_type} NOT NULL"}
        received = {"received_at": f"{database.time_type} DEFAULT {database.now}"}
        database.make_table(connection, self.table, self._kinds | required | received, "message_id")

    def exists(self, connection: Connection) -> bool:
        """Whether there is such a table."""
        return bool(self._database.columns(connection, self.table))

    def insert(self, connection: Connection, events: list[EventView]) -> int | None:
        """The number of new events; None if the database does not report it."""
        return self._database.insert(connection, self.table, self._kinds, [self._row(event) for event in events], "message_id")

    def known(self, connection: Connection, ids: Sequence[str]) -> set[str]:
        """The ids that exist already."""
        query = text(f"SELECT message_id FROM {self._database.qualified(self.table)} WHERE message_id IN :ids")
        query = query.bindparams(bindparam("ids", expanding=True))
        chunks = (ids[start : start + 500] for start in range(0, len(ids), 500))
        return {found for chunk in chunks for found in connection.execute(query, {"ids": list(chunk)}).scalars()}

    def _row(self, event: EventView) -> dict[str, object]:
        row: dict[str, object] = {
            "message_id": event.message_id,
            "type": event.type,
            "event": event.title or None,
            "user_id": event.user_id,
            "anonymous_id": event.anonymous_id,
            "group_id": event.group_id,
            "previous_id": event.previous_id,
            "timestamp": self._database.time(event.timestamp or None),
        }
        for name, json in (("properties", event.properties), ("traits", event.traits), ("context", event.context)):
            if json is not ABSENT:
                row[name] = self._database.json(json)
        return row


class Checkpoints:
    """One row per cursor. In the column `destination`: the cursor's key; earlier versions stored the destination's name."""

    table = "cdc_tracker_checkpoints"

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = self._key = name
        self._owns: Callable[[Position], bool] = lambda position: False
        big = "bigint"
        self._kinds = {"destination": database.key_type, "commit_lsn": big, "ordinal": big}

    def bind(self, cursor: Cursor, owns: Callable[[Position], bool]) -> None:
        """See base.KeyedCheckpoint."""
        self._key, self._owns = cursor.key, owns

    def make(self, connection: Connection) -> None:
        """Creates the table unless it exists."""
        columns = {name: f"{kind} NOT NULL" for name, kind in self._kinds.items()}
        self._database.make_table(connection, self.table, columns, "destination")

    def load(self, connection: Connection) -> Position | None:
        """The position, locked until the transaction ends. Takes over a row under the name alone if it is this source's."""
        found = self._read(connection, self._key)
        if found is not None or self._key == self._name:
            return found
        old = self._read(connection, self._name)
        if old is not None and self._owns(old):
            where = "destination = :name AND commit_lsn = :commit_lsn AND ordinal = :ordinal"
            if self._update(connection, f"destination = :key WHERE {where}", name=self._name, **old._asdict()):
                return old
        return self._read(connection, self._key)  # another worker may have been quicker

    def advance(self, connection: Connection, expected: Sequence[Position | None], to: Position) -> bool:
        """Stores `to` if one of `expected` is stored (None: nothing is). Returns False otherwise."""
        where = "destination = :key AND commit_lsn = :from_lsn AND ordinal = :from_ordinal"
        for before in filter(None, expected):
            place = {"from_lsn": before.commit_lsn, "from_ordinal": before.ordinal, **to._asdict()}
            if self._update(connection, f"commit_lsn = :commit_lsn, ordinal = :ordinal WHERE {where}", **place):
                return True
        if None in expected and self._read(connection, self._key) is None:
            row = {"destination": self._key, **to._asdict()}
            self._database.insert(connection, self.table, self._kinds, [row], "destination")
            return self._read(connection, self._key) == to
        return False

    def store(self, connection: Connection, position: Position) -> None:
        """Stores the position, whatever is stored."""
        self._database.store(connection, self.table, {"destination": self._key, **position._asdict()}, "destination")

    def reset(self, connection: Connection) -> None:
        """Sets a stored position to the beginning."""
        if self._read(connection, self._key) is not None:
            self.store(connection, START)

    def _read(self, connection: Connection, key: str) -> Position | None:
        table, lock = self._database.qualified(self.table), self._database.lock_rows
        query = text(f"SELECT commit_lsn, ordinal FROM {table} WHERE destination = :key {lock}")
        row = connection.execute(query, {"key": key}).first()
        return Position(row[0], row[1]) if row else None

    def _update(self, connection: Connection, changes: str, **values: object) -> bool:
        statement = f"UPDATE {self._database.qualified(self.table)} SET {changes}"
        return connection.execute(text(statement), {"key": self._key, **values}).rowcount == 1
