"""The table of all events, and the one of checkpoints."""

from __future__ import annotations

from sqlalchemy import Connection, text

from cdc_tracker.destinations.calls import ABSENT, Call
from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.model import Position


class Tracks:
    """Every event, whole. JSON is jsonb on PostgreSQL, and elsewhere the text that it came as: numbers are exact in both."""

    def __init__(self, database: Database, table: str) -> None:
        self._database = database
        self.table = table
        ids = ("message_id", "type", "event", "user_id", "anonymous_id", "group_id", "previous_id")
        parts = dict.fromkeys(("properties", "traits", "context"), database.json_type)
        self._kinds = {**dict.fromkeys(ids, database.text_type), "timestamp": database.time_type, **parts}

    def make(self, connection: Connection) -> None:
        database = self._database
        required = {"message_id": f"{database.key_type} NOT NULL", "type": f"{database.text_type} NOT NULL"}
        received = {"received_at": f"{database.time_type} DEFAULT {database.now}"}
        database.make_table(connection, self.table, self._kinds | required | received, "message_id")

    def insert(self, connection: Connection, events: list[Call]) -> None:
        self._database.insert(connection, self.table, self._kinds, [self._row(event) for event in events], "message_id")

    def _row(self, event: Call) -> dict[str, object]:
        row: dict[str, object] = {
            "message_id": event.message_id,
            "type": event.type,
            "event": event.title,
            "user_id": event.user_id,
            "anonymous_id": event.anonymous_id,
            "group_id": event.group_id,
            "previous_id": event.previous_id,
            "timestamp": self._database.time(event.timestamp),
        }
        for name, json in (("properties", event.properties), ("traits", event.traits), ("context", event.context)):
            if json is not ABSENT:
                row[name] = self._database.json(json)
        return row


class Checkpoints:
    """One row a destination, so that several can share a database."""

    table = "cdc_tracker_checkpoints"

    def __init__(self, database: Database, destination: str) -> None:
        self._database = database
        self._destination = destination

    def make(self, connection: Connection) -> None:
        key = f"{self._database.key_type} NOT NULL"
        columns = {"destination": key, "commit_lsn": "bigint NOT NULL", "ordinal": "bigint NOT NULL"}
        self._database.make_table(connection, self.table, columns, "destination")

    def load(self, connection: Connection) -> Position | None:
        query = text(f"SELECT commit_lsn, ordinal FROM {self._database.qualified(self.table)} WHERE destination = :name")
        row = connection.execute(query, {"name": self._destination}).first()
        return Position(row[0], row[1]) if row else None

    def store(self, connection: Connection, position: Position) -> None:
        row = {"destination": self._destination, "commit_lsn": position.commit_lsn, "ordinal": position.ordinal}
        self._database.store(connection, self.table, row, "destination")
