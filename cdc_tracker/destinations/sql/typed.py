"""A table for each event name, with a typed column for each property, as Segment's warehouses have them.

- Tables: a track's name in snake_case (`Order Paid` → order_paid); else identifies, groups, aliases, pages or screens.
  Names that differ only in how they are written share a table; `event` has the name as it was. A name that is taken by
  another of our tables gets `_event` behind it.
- Columns: property or trait names in snake_case; nested objects flattened (`address.city` → address_city); arrays as JSON text.
  One that is called like a column every table has gets `property_` before it. Of two properties that come to the same
  column in one event, the first is kept.
- Types: boolean, numeric (exact), timestamptz (ISO 8601 with an offset), else text; decided by the first value that is not null.
  Later values that do not fit become NULL here; text takes every value. A table has at most 1,000 columns.
- Names above 63 bytes are cut, with a hash behind.

Nothing is lost where something does not fit: `tracks` has every event whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import Connection

from cdc_tracker.destinations.naming import snake_case
from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.destinations.sql.tracks import Parsed
from cdc_tracker.errors import DestinationBlocked
from cdc_tracker.model import canonical

_BY_TYPE = {"identify": "identifies", "group": "groups", "alias": "aliases", "page": "pages", "screen": "screens"}
_FIXED = ("message_id", "event", "user_id", "anonymous_id", "group_id", "previous_id", "timestamp")
_POSTGRESQL = {"text": "text", "number": "numeric", "boolean": "bool", "time": "timestamptz"}
# SQLite would turn an exact number into a float in a column of type numeric; a name with `blob` in it leaves values alone.
_SQLITE = {"text": "text", "number": "number_blob", "boolean": "boolean", "time": "timestamp"}
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")
_MOST_COLUMNS = 1_000
_MOST_BYTES = 63
_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


class TypedTables:
    def __init__(self, database: Database, reserved: set[str]) -> None:
        """`reserved`: our own tables, which no event may take the name of."""
        self._database = database
        self._reserved = reserved | set(_BY_TYPE.values())
        self._kinds = _POSTGRESQL if database.is_postgresql else _SQLITE
        self._bind = _as_text if database.is_postgresql else _as_sqlite
        self._known: dict[str, dict[str, str]] = {}  # table → column → the database's type

    def forget(self) -> None:
        """What is known of the tables may not hold: a transaction that made some was undone, or someone changed them."""
        self._known.clear()

    def insert(self, connection: Connection, events: list[Parsed]) -> None:
        tables: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            tables.setdefault(self._table(event), []).append(_row(event))
        for table, rows in tables.items():
            self._insert(connection, table, rows)

    def _insert(self, connection: Connection, table: str, rows: list[dict[str, Any]]) -> None:
        columns = self._widened(connection, table, rows)
        named = {name for row in rows for name in row}
        used = {name: kind for name, kind in columns.items() if name in named}
        kinds = {name: _kind_of_column(kind) for name, kind in used.items()}
        values = [{name: self._bind(kinds[name], value) for name, value in row.items() if name in kinds} for row in rows]
        self._database.insert(connection, table, used, values, "message_id")

    def _widened(self, connection: Connection, table: str, rows: list[dict[str, Any]]) -> dict[str, str]:
        """The table's columns, after making the table and the columns that these rows need."""
        columns = self._known.get(table)
        if columns is None:
            fixed = {name: self._kinds["time" if name == "timestamp" else "text"] for name in _FIXED}
            fixed["message_id"] += " NOT NULL"
            self._database.make_table(connection, table, fixed, "message_id")
            columns = self._known[table] = self._database.columns(connection, table)
            if "message_id" not in columns:
                raise DestinationBlocked(
                    f"{self._database}: the table {table} is there, and it is not one of ours",
                    hint="set `schema` to one that holds nothing else",
                )
        for row in rows:
            for name, value in row.items():
                if name not in columns and value is not None and len(columns) < _MOST_COLUMNS:
                    columns[name] = self._kinds[_kind_of_value(value)]
                    self._database.add_column(connection, table, name, columns[name])
        return columns

    def _table(self, event: Parsed) -> str:
        if event.type in _BY_TYPE:
            return _BY_TYPE[event.type]
        name = _identifier(event.event or "event")
        return f"{name[:57]}_event" if name in self._reserved else name


def _row(event: Parsed) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(event, name) for name in _FIXED}
    row["event"] = event.title
    source = bytes(event.traits) or bytes(event.properties)
    for name, value in _flattened("", _DECODER.decode(source) if source else {}):
        column = _identifier(f"property_{name}" if snake_case(name) in _FIXED else name)
        row.setdefault(column, value)
    return row


def _flattened(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        path = f"{prefix}_{name}" if prefix else name
        if isinstance(value, dict):
            yield from _flattened(path, value)
        else:
            yield path, canonical(value) if isinstance(value, list) else value


def _identifier(text: str) -> str:
    """Snake case, not beginning with a digit, within 63 bytes; a hash where nothing is left or something was cut."""
    name = snake_case(text)
    if name[:1].isdigit():
        name = "_" + name
    encoded = name.encode()
    if name and len(encoded) <= _MOST_BYTES:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return encoded[: _MOST_BYTES - 9].decode(errors="ignore") + "_" + digest


def _kind_of_value(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | Decimal):
        return "number"
    return "time" if _is_time(value) else "text"


def _kind_of_column(kind: str) -> str:
    """What values a column takes, by the database's type; what someone else made takes none but text."""
    known = {name: kind for kinds in (_POSTGRESQL, _SQLITE) for kind, name in kinds.items()}
    return known.get(kind, "text" if kind in ("varchar", "bpchar") else "other")


def _is_time(value: object) -> bool:
    if not isinstance(value, str) or not _ISO.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _fits(kind: str, value: object) -> bool:
    return kind == "text" or _kind_of_value(value) == kind


def _as_text(kind: str, value: Any) -> str | None:
    """A value for a column of that kind, as PostgreSQL reads it."""
    if value is None or not _fits(kind, value):
        return None
    return value if isinstance(value, str) else canonical(value)


def _as_sqlite(kind: str, value: Any) -> str | int | float | None:
    """A number as SQLite's own where that is exact, else as text."""
    if value is None or not _fits(kind, value):
        return None
    if kind == "boolean":
        return int(value)
    if kind != "number":
        return _as_text(kind, value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    near = float(value)
    return near if Decimal(repr(near)) == value else canonical(value)
