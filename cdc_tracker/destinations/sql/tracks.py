"""The table of all events, and the one of checkpoints."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, text

from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.errors import Unexplained
from cdc_tracker.model import Event, Position

_ABSENT = msgspec.Raw(b"")


class Parsed(msgspec.Struct, rename="camel", gc=False):
    """An event's fields. JSON parts stay the bytes that they are, so that numbers stay exact."""

    type: str
    message_id: str
    event: str | None = None
    name: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    group_id: str | None = None
    previous_id: str | None = None
    timestamp: str | None = None
    properties: msgspec.Raw = _ABSENT
    traits: msgspec.Raw = _ABSENT
    context: msgspec.Raw = _ABSENT

    @property
    def title(self) -> str | None:
        """A track's event, a page's or screen's name."""
        return self.event or self.name


_DECODER = msgspec.json.Decoder(Parsed)


def parse(event: Event) -> Parsed:
    """Raises Unexplained where it is not an event in the Segment spec's shape."""
    try:
        return _DECODER.decode(event.body)
    except msgspec.DecodeError as error:
        raise Unexplained(f"the event is not in the shape of a call: {error}") from error


class Tracks:
    """Every event, whole: JSON stays JSON (jsonb on PostgreSQL, text on SQLite)."""

    def __init__(self, database: Database, table: str) -> None:
        self._database = database
        self.table = table
        time, json = ("timestamptz", "jsonb") if database.is_postgresql else ("timestamp", "text")
        ids = ("message_id", "type", "event", "user_id", "anonymous_id", "group_id", "previous_id")
        self._kinds = {**dict.fromkeys(ids, "text"), "timestamp": time, "properties": json, "traits": json, "context": json}

    def make(self, connection: Connection) -> None:
        time = self._kinds["timestamp"]
        required = {"message_id": "text NOT NULL", "type": "text NOT NULL"}
        received = {"received_at": f"{time} DEFAULT CURRENT_TIMESTAMP"}
        self._database.make_table(connection, self.table, self._kinds | required | received, "message_id")

    def insert(self, connection: Connection, events: list[Parsed]) -> None:
        self._database.insert(connection, self.table, self._kinds, [self._row(event) for event in events], "message_id")

    def _row(self, event: Parsed) -> dict[str, object]:
        row: dict[str, object] = {
            "message_id": event.message_id,
            "type": event.type,
            "event": event.title,
            "user_id": event.user_id,
            "anonymous_id": event.anonymous_id,
            "group_id": event.group_id,
            "previous_id": event.previous_id,
            "timestamp": event.timestamp,
        }
        for name, json in (("properties", event.properties), ("traits", event.traits), ("context", event.context)):
            if json is not _ABSENT:
                row[name] = json if self._database.is_postgresql else bytes(json).decode()
        return row


class Checkpoints:
    """One row a destination, so that several can share a database."""

    table = "cdc_tracker_checkpoints"

    def __init__(self, database: Database, destination: str) -> None:
        self._database = database
        self._destination = destination

    def make(self, connection: Connection) -> None:
        columns = {"destination": "text NOT NULL", "commit_lsn": "bigint NOT NULL", "ordinal": "bigint NOT NULL"}
        self._database.make_table(connection, self.table, columns, "destination")

    def load(self, connection: Connection) -> Position | None:
        query = text(f"SELECT commit_lsn, ordinal FROM {self._database.qualified(self.table)} WHERE destination = :name")
        row = connection.execute(query, {"name": self._destination}).first()
        return Position(row[0], row[1]) if row else None

    def store(self, connection: Connection, position: Position) -> None:
        statement = f"""
            INSERT INTO {self._database.qualified(self.table)} (destination, commit_lsn, ordinal) VALUES (:name, :lsn, :ordinal)
            ON CONFLICT (destination) DO UPDATE SET commit_lsn = excluded.commit_lsn, ordinal = excluded.ordinal"""
        values = {"name": self._destination, "lsn": position.commit_lsn, "ordinal": position.ordinal}
        connection.execute(text(statement), values)
