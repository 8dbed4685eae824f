"""A table for each event name, with a typed column for each property, as Segment's warehouses have them.

- Tables: a track's name in snake_case (`Order Paid` → order_paid); else identifies, groups, aliases, pages or screens.
  Names with the same snake_case share a table; the column `event` has the original name. The name of another
  table of this destination gets the suffix `_event`.
- Columns: property or trait names in snake_case; nested objects flattened (`address.city` → address_city); arrays as JSON text.
  A name that every table has, or that the database reserves (PostgreSQL's xmin), gets the prefix `property_`. If two properties
  of an event map to one column, the first is kept.
- Types: boolean, numeric (exact), timestamptz (ISO 8601 with an offset), else text. The first value that is not null decides.
  Later values that do not fit become NULL here; a text column accepts every value. Limits: 1,000 columns in a table (MySQL: 180);
  in PostgreSQL 8 KB for a row (300 long values); in MySQL 35 digits before the decimal point of a number and 30 after it.
- Names above 63 bytes are cut and end with a hash.

No value is lost if it does not fit: `tracks` contains every event whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from itertools import accumulate
from typing import Any

import msgspec
from sqlalchemy import Connection

from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.destinations.support.event_view import EventView
from cdc_tracker.destinations.support.naming import TABLES, identifier, snake_case
from cdc_tracker.errors import DestinationBlocked
from cdc_tracker.model import canonical

_FIXED = ("message_id", "event", "user_id", "anonymous_id", "group_id", "previous_id", "timestamp")
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")
_MOST_BYTES = 63
_KEPT_WITHIN = 26  # most bytes of a value in its row; PostgreSQL stores a longer one elsewhere and keeps a pointer
_TEXT = ("text", "varchar", "bpchar", "longtext", "mediumtext")
_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)
_VALUES = msgspec.json.Decoder(dict[str, msgspec.Raw])


class TypedTables:
    """Creates and fills the tables of one destination."""

    def __init__(self, database: Database, reserved: set[str]) -> None:
        """`reserved`: the destination's other tables, whose names no event may have."""
        self._database = database
        self._reserved = reserved | set(TABLES.values())
        self._kinds = {name: kind for kind, name in database.typed.items()}
        self._known: dict[str, dict[str, str]] = {}  # table → column → the database's type

    def forget(self) -> None:
        """Forgets the tables read so far: a transaction that created some was rolled back, or someone changed them."""
        self._known.clear()

    def make_room(self, connection: Connection, events: list[EventView]) -> dict[str, list[dict[str, Any]]]:
        """Creates the tables and columns that the events need. Returns the rows by table. Some databases commit at once."""
        tables: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            tables.setdefault(self._table(event), []).append(self._row(event))
        for table, rows in tables.items():
            self._widen(connection, table, rows)
        return tables

    def insert(self, connection: Connection, tables: dict[str, list[dict[str, Any]]]) -> None:
        """Inserts the rows that `make_room` returned."""
        for table, rows in tables.items():
            named = {name for row in rows for name in row}
            used = {name: kind for name, kind in self._known[table].items() if name in named}
            kinds = {name: self._kind_of_column(kind) for name, kind in used.items()}
            values = [
                {name: self._bound(kinds[name], value) for name, value in self._narrow(row).items() if name in kinds}
                for row in rows
            ]
            self._database.insert(connection, table, used, values, "message_id")

    def _narrow(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the first values of the row, as many as are certain to fit a row of the database."""
        most = self._database.row_bytes
        if most is None or len(row) * _KEPT_WITHIN <= most:
            return row
        sizes = accumulate(_bytes_within(value) for value in row.values())
        return {name: value for (name, value), size in zip(row.items(), sizes, strict=True) if size <= most}

    def _widen(self, connection: Connection, table: str, rows: list[dict[str, Any]]) -> None:
        database, columns = self._database, self._known.get(table)
        if columns is None:
            fixed = {name: database.typed["time" if name == "timestamp" else "text"] for name in _FIXED}
            fixed["message_id"] = f"{database.key_type} NOT NULL"
            database.make_table(connection, table, fixed, "message_id")
            columns = self._known[table] = database.columns(connection, table)
            if "message_id" not in columns:
                raise DestinationBlocked(
                    f"{database}: the table {table} exists, and cdc-tracker did not create it",
                    hint="set `schema` to one without other tables",
                )
        missing: dict[str, str] = {}
        for row in rows:
            for name, value in row.items():
                if name not in columns and value is not None and len(columns) + len(missing) < database.most_columns:
                    missing.setdefault(name, database.typed[_kind_of_value(value)])
        if missing:
            database.add_columns(connection, table, missing)
            self._known[table] = database.columns(connection, table)

    def _table(self, event: EventView) -> str:
        if event.type in TABLES:
            return TABLES[event.type]
        name = self._identifier(event.event or "event")
        return f"{name[:57]}_event" if name in self._reserved else name

    def _row(self, event: EventView) -> dict[str, Any]:
        row: dict[str, Any] = {name: getattr(event, name) for name in _FIXED}
        row["event"], row["timestamp"] = event.title or None, event.timestamp or None
        source = bytes(event.traits) or bytes(event.properties)
        for name, value in _flattened("", _decoded(source) if source else {}):
            column = self._identifier(name)
            if column in _FIXED or column in self._database.own_columns:
                column = self._identifier(f"property_{name}")
            row.setdefault(column, value)
        return row

    def _identifier(self, text: str) -> str:
        """Returns the text in snake case, not beginning with a digit, in at most 63 bytes. See naming.identifier."""
        name = self._database.identifier(snake_case(text))
        return identifier(f"_{name}" if name[:1].isdigit() else name, _MOST_BYTES, text)

    def _kind_of_column(self, kind: str) -> str:
        """Returns the kind of values that a column accepts; a type that someone else chose accepts text only."""
        return self._kinds.get(kind) or ("text" if kind.startswith(_TEXT) else "other")

    def _bound(self, kind: str, value: Any) -> object:
        if value is None or (kind != "text" and _kind_of_value(value) != kind):
            return None
        return self._database.bind(kind, value)


def _flattened(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        path = f"{prefix}_{name}" if prefix else name
        if isinstance(value, dict):
            yield from _flattened(path, value)
        else:
            yield path, canonical(value) if isinstance(value, list) else value


def _bytes_within(value: object) -> int:
    """Returns the most bytes that a value takes in its row: long texts and numbers are stored elsewhere."""
    if value is None or isinstance(value, bool):
        return 1
    return min(len(value if isinstance(value, str) else str(value)) + 4, _KEPT_WITHIN)


def _decoded(source: bytes) -> dict[str, Any]:
    try:
        return _DECODER.decode(source)
    except (ValueError, ArithmeticError):  # a number of more digits, or with a larger exponent, than Python reads
        return {name: _exact(bytes(value)) for name, value in _VALUES.decode(source).items()}


def _exact(value: bytes) -> Any:
    """Numbers of any size as Decimal, lists as the text that they are. None for a number that no Decimal holds."""
    if value[:1] == b"{":
        return {name: _exact(bytes(inner)) for name, inner in _VALUES.decode(value).items()}
    if value[:1] == b"[":
        return value.decode()
    if value[:1] not in b"-0123456789":
        return msgspec.json.decode(value)
    try:
        return Decimal(value.decode())
    except ArithmeticError:
        return None


def _kind_of_value(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | Decimal):
        return "number"
    return "time" if _is_time(value) else "text"


def _is_time(value: object) -> bool:
    if not isinstance(value, str) or not _ISO.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
