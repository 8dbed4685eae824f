"""The parts that all kinds of database share: connecting, transactions, tables and columns, and inserting many rows at once.

Each kind is a subclass in a file of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import msgspec
from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cdc_tracker.errors import CdcTrackerError, DestinationUnavailable

Row = Mapping[str, Any]


class Database(ABC):
    """One connection, made when needed. Raises SQLAlchemy's errors; the destination translates them."""

    schema: str | None = None
    key_type: ClassVar[str] = "text"  # type of a text primary key
    text_type: ClassVar[str] = "text"
    time_type: ClassVar[str]
    json_type: ClassVar[str]
    typed: ClassVar[Mapping[str, str]]  # text, number, boolean, time → the types of a typed column, as `columns` tells them
    now: ClassVar[str] = "CURRENT_TIMESTAMP"
    most_columns: ClassVar[int] = 1_000
    row_bytes: ClassVar[int | None] = None  # most bytes of a row, beside long values, which are stored elsewhere; None: unlimited
    own_columns: ClassVar[frozenset[str]] = frozenset()  # names that the database reserves for itself
    table_options: str = ""
    lock_rows: ClassVar[str] = "FOR UPDATE"  # after a SELECT: it reads the newest version and locks it

    def __init__(self, url: URL) -> None:
        self._url = url
        self._engine = self.connect(url)

    @abstractmethod
    def connect(self, url: URL) -> Engine:
        """Returns the engine, with one connection at most."""

    def __str__(self) -> str:
        """Its name in messages, without credentials."""
        return f"{self._url.host or 'local'}/{self._url.database or ''}"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Durable when it ends."""
        with self._engine.begin() as connection:
            self.begin(connection)
            yield connection

    def begin(self, connection: Connection) -> None:  # noqa: B027 — most kinds need nothing
        """Runs at the start of every transaction."""

    def replaced(self) -> bool:
        """Whether the URL now leads to another database than the open one."""
        return False

    def close(self) -> None:
        """Ends the connection; the next transaction makes a new one."""
        self._engine.dispose()

    # Names.

    def quoted(self, name: str) -> str:
        """The name as an identifier in a statement."""
        return '"' + name.replace('"', '""') + '"'

    def qualified(self, table: str) -> str:
        """The table, quoted, in the schema if one is set."""
        return f"{self.quoted(self.schema)}.{self.quoted(table)}" if self.schema else self.quoted(table)

    def identifier(self, name: str) -> str:
        """The name as this database accepts it; empty if nothing is left."""
        return name

    # Tables.

    @abstractmethod
    def columns(self, connection: Connection, table: str) -> dict[str, str]:
        """The columns and the database's names of their types; empty if there is no such table."""

    def make_schema(self, connection: Connection) -> None:  # noqa: B027 — one kind has schemas
        """Creates the schema if one is set and missing."""

    def make_table(self, connection: Connection, table: str, columns: Mapping[str, str], key: str) -> None:
        """Creates the table unless it exists: CREATE … IF NOT EXISTS requires privileges even then."""
        if self.columns(connection, table):
            return
        with self.tables_locked(connection):
            if not self.columns(connection, table):
                parts = [f"{self.quoted(name)} {kind}" for name, kind in columns.items()]
                parts.append(f"PRIMARY KEY ({self.quoted(key)})")
                statement = f"CREATE TABLE {self.qualified(table)} ({', '.join(parts)}) {self.table_options}"
                connection.execute(text(statement))

    def add_columns(self, connection: Connection, table: str, columns: Mapping[str, str]) -> None:
        """Adds the columns that do not exist yet."""
        with self.tables_locked(connection):
            there = self.columns(connection, table)
            for name, kind in columns.items():
                if name not in there:
                    connection.execute(text(f"ALTER TABLE {self.qualified(table)} ADD COLUMN {self.quoted(name)} {kind}"))

    @contextmanager
    def tables_locked(self, connection: Connection) -> Iterator[None]:
        """Prevents another destination from creating the same table at the same time."""
        yield

    def missing_privileges(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        """Returns the privileges that the user lacks, as texts that follow `not allowed to`."""
        missing = []
        for table in tables:
            if columns := self.columns(connection, table):
                missing += [] if self.may_write(connection, table, columns) else [f"SELECT, INSERT and UPDATE in {table}"]
            elif not self.may_create(connection, table):
                missing.append(f"create {table}")
        return missing

    @abstractmethod
    def may_write(self, connection: Connection, table: str, columns: Mapping[str, str]) -> bool:
        """Whether the user may read, insert and update rows of the table, which has these columns."""

    @abstractmethod
    def may_create(self, connection: Connection, table: str) -> bool:
        """Whether the user may create the table, which does not exist."""

    # Rows.

    def json(self, value: msgspec.Raw) -> object:
        """JSON text as a parameter, its numbers exact."""
        return bytes(value).decode()

    def time(self, value: str | None) -> object:
        """An ISO 8601 time as a parameter."""
        return value

    @abstractmethod
    def bind(self, kind: str, value: Any) -> object:
        """A value as a parameter for a typed column of that kind; None if it would not be exact."""

    def insert(self, connection: Connection, table: str, kinds: Mapping[str, str], rows: Sequence[Row], key: str) -> int | None:
        """Inserts rows, except those whose key exists. `kinds`: the type of each column; a row omits what is NULL.

        Returns the number of inserted rows; None if the database does not report it.
        """
        if not rows:
            return 0
        names = ", ".join(self.quoted(name) for name in kinds)
        source, parameters = self.source(kinds, rows)
        statement = f"INSERT INTO {self.qualified(table)} ({names}) {source} {self.unless_exists(self.quoted(key))}"
        return connection.execute(text(statement), parameters).rowcount

    def source(self, kinds: Mapping[str, str], rows: Sequence[Row]) -> tuple[str, Any]:
        """The part of an INSERT that has the rows, and its parameters: numbered, since not every name is valid for one."""
        labels = {name: f"p{i}" for i, name in enumerate(kinds)}
        values = f"VALUES ({', '.join(f':{label}' for label in labels.values())})"
        return values, [{label: row.get(name) for name, label in labels.items()} for row in rows]

    def unless_exists(self, key: str) -> str:
        """The clause that leaves out rows whose key exists."""
        return f"ON CONFLICT ({key}) DO NOTHING"

    def replacing(self, key: str, others: Sequence[str]) -> str:
        """The clause that updates the other columns of a row whose key exists."""
        return f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in others)}"

    def store(self, connection: Connection, table: str, row: Row, key: str) -> None:
        """Inserts the row, or replaces the one with its key."""
        labels = ", ".join(f":{name}" for name in row)
        clause = self.replacing(key, [name for name in row if name != key])
        connection.execute(text(f"INSERT INTO {self.qualified(table)} ({', '.join(row)}) VALUES ({labels}) {clause}"), dict(row))

    # Failures.

    @abstractmethod
    def fault(self, cause: BaseException) -> CdcTrackerError:
        """A driver's error as a CdcTrackerError, without the statement and its values."""

    def translated(self, error: SQLAlchemyError) -> CdcTrackerError:
        """The error as a CdcTrackerError with the driver's message, but without the statement and its values."""
        cause = error.orig if isinstance(error, DBAPIError) else None
        return DestinationUnavailable(f"{self}: {error}") if cause is None else self.fault(cause)

    def said(self, message: object) -> str:
        """A driver's message in one line, after the database's name."""
        return f"{self}: {' '.join(str(message).split())}"
