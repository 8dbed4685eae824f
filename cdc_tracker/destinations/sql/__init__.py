"""Events as rows of a PostgreSQL, MySQL, MariaDB or SQLite database, each exactly once.

A batch and its position are written in one transaction; a row whose message_id exists stays as it is. So a batch is stored whole
or not at all, and one whose commit was not answered can be sent again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, SecretStr, model_validator
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

from cdc_tracker.destinations.base import Cursor, DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.destinations.sql.mysql import MySql
from cdc_tracker.destinations.sql.postgresql import PostgreSql
from cdc_tracker.destinations.sql.sqlite import Sqlite
from cdc_tracker.destinations.sql.tracks import Checkpoints, Tracks
from cdc_tracker.destinations.sql.typed import TypedTables
from cdc_tracker.destinations.support.event_view import EventView, read_event
from cdc_tracker.destinations.support.exactly_once import moved
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked
from cdc_tracker.model import DELIVERED, REPEATED, Batch, Position, Receipt

_POSTGRESQL, _MYSQL = ("postgresql", "postgres"), ("mysql", "mariadb")
_IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"


class SqlSettings(DestinationSettings):
    model_config = ConfigDict(populate_by_name=True)

    type: Literal["sql"] = "sql"
    in_flight: int = Field(default=1, ge=1, le=1, description="always 1: the checkpoint moves in order")
    url: SecretStr = Field(description="postgresql://… with any libpq parameter, mysql://…, mariadb://…, or sqlite:///FILE")
    schema_: str | None = Field(
        default=None, alias="schema", pattern=_IDENTIFIER, description="PostgreSQL only; made where missing"
    )
    table: str = Field(default="tracks", pattern=_IDENTIFIER)
    table_per_event: bool = Field(default=False, description="also a table for each event name, with typed columns")

    @model_validator(mode="after")
    def _holds(self) -> SqlSettings:
        _check_url(self.url.get_secret_value(), self.schema_)
        return self


class _DuplicatesFound(Exception):
    """Some ids of the batch are in the table already, or occur twice in it."""


class SqlDestination:
    """Connects when first needed. `tracks` has every event of every type, whole; see typed.py for the other tables."""

    Settings: ClassVar[type[DestinationSettings]] = SqlSettings
    guarantee: ClassVar[Guarantee] = "exactly once"
    duplicate_handling: ClassVar[str] = "ignores it by its message_id, also where a changed mapping gives it other contents"
    dedupe_window: ClassVar[float] = math.inf
    age_limit: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: SqlSettings, base: Path) -> None:
        self.limits = Limits(events=5_000, batch_bytes=8 * 1024**2, event_bytes=1 << 40, whole_changes=True)
        self._database = _opened(settings.url.get_secret_value(), settings.schema_, base)
        self._tracks = Tracks(self._database, settings.table)
        self._checkpoints = Checkpoints(self._database, name)
        reserved = {settings.table, self._checkpoints.table}
        self._typed = TypedTables(self._database, reserved) if settings.table_per_event else None
        self._made = False
        self._expected: list[Position | None] = []  # possibly stored: the last, and those whose commit was not answered

    def bind(self, cursor: Cursor, owns: Callable[[Position], bool]) -> None:
        self._checkpoints.bind(cursor, owns)

    def deliver(self, batch: Batch) -> list[Receipt]:
        """Durable on return. Raises BatchRejected if the database refuses a value; nothing is written then.

        An event of the stream whose message_id exists already is REPEATED.
        """
        rows = [read_event(event) for event in batch.events]
        try:
            self._write(batch, rows)
        except _DuplicatesFound:
            known = self._write(batch, rows, look=True)
            seen = Counter(known)
            seen.update(row.message_id for row in reversed(rows))
            receipts = []
            for row in reversed(rows):  # the first of equal ids counts
                seen[row.message_id] -= 1
                receipts.append(REPEATED if seen[row.message_id] else DELIVERED)
            return receipts[::-1]
        return [DELIVERED] * len(rows)

    def _write(self, batch: Batch, rows: list[EventView], *, look: bool = False) -> set[str]:
        """Writes the batch. `look`: returns the ids that existed before; otherwise they raise _DuplicatesFound."""
        known: set[str] = set()
        with self._transaction() as connection:
            stored = self._checkpoints.load(connection) if look or not self._expected else None
            self._expected = self._expected or [stored]
            if look and stored != batch.upto:  # else an earlier try stored it, and its answer was lost
                known = self._tracks.known(connection, [row.message_id for row in rows])
            # Tables and columns first: if creating them ends the transaction, it contains nothing of the batch yet.
            tables = self._typed.make_room(connection, rows) if self._typed else {}
            new = self._tracks.insert(connection, rows)
            if new is not None and new < len(rows) and not (look or batch.out_of_band or batch.history):
                raise _DuplicatesFound
            if self._typed:
                self._typed.insert(connection, tables)
            if batch.out_of_band:  # it changes no position; its ids make it idempotent
                self._check(self._checkpoints.load(connection) in self._expected)
            else:
                self._check(self._checkpoints.advance(connection, self._expected, batch.upto))
                self._expected = list(dict.fromkeys([*self._expected, batch.upto]))
        if not batch.out_of_band:
            self._expected = [batch.upto]
        return known

    def position(self) -> Position | None:
        with self._transaction() as connection:
            found = self._checkpoints.load(connection)
            self._check(not self._expected or found in self._expected)
        self._expected = [found]
        return found

    def rewind(self, to: Position) -> None:
        with self._transaction() as connection:
            self._checkpoints.store(connection, to)
        self._expected = [to]

    def probe(self) -> None:
        """Connects and checks that the tables exist or may be created, without creating them."""
        try:
            with self._database.transaction() as connection:
                missing = self._database.missing_privileges(connection, [self._tracks.table, self._checkpoints.table])
        except SQLAlchemyError as error:
            raise self._translated(error) from None
        if missing:
            self._database.close()
            raise DestinationBlocked(
                f"{self._database}: not allowed to {', '.join(missing)}", hint="grant it to the user of `url`"
            )

    def close(self) -> None:
        self._database.close()

    def _check(self, holds: bool) -> None:
        if not holds:
            self._expected = []
            raise moved(self._database)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if self._database.replaced():
            self._database.close()
            self._made = False
        done = False
        try:
            with self._database.transaction() as connection:
                if not self._made:
                    self._database.make_schema(connection)
                    self._checkpoints.make(connection)
                    if not self._tracks.exists(connection):
                        self._checkpoints.reset(connection)  # someone has dropped the table of events, to which it belongs
                    self._tracks.make(connection)
                yield connection
            self._check(not self._database.replaced())
            done = True
        except SQLAlchemyError as error:
            raise self._translated(error) from None
        finally:
            self._made = done
            if self._typed and not done:
                self._typed.forget()

    def _translated(self, error: SQLAlchemyError) -> CdcTrackerError:
        trouble = self._database.translated(error)
        if isinstance(trouble, DestinationBlocked):
            self._database.close()  # MySQL grants a database to new sessions only
        return trouble


def _check_url(url: str, schema: str | None) -> None:
    """Raises ValueError if the settings are invalid; without the URL, which may contain a password."""
    try:
        address = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise ValueError("`url` is not a database URL such as postgresql://user@host/database") from None
    kind = address.drivername.partition("+")[0]
    if kind not in (*_POSTGRESQL, *_MYSQL, "sqlite"):
        raise ValueError(f"`url`: {kind} is not supported; postgresql://…, mysql://…, mariadb://… and sqlite:///FILE are")
    if kind == "sqlite" and (address.database or ":memory:") == ":memory:":
        raise ValueError("`url`: sqlite needs a file: sqlite:///FILE")
    if kind in _MYSQL and not address.database:
        raise ValueError("`url` names no database: mysql://user@host/database")
    if kind not in _POSTGRESQL and schema:
        raise ValueError("`schema` is for PostgreSQL only")


def _opened(url: str, schema: str | None, base: Path) -> Database:
    """The database of a URL that passed `_check_url`. Connects when first needed."""
    address = make_url(url)
    kind = address.drivername.partition("+")[0]
    if kind == "sqlite":
        return Sqlite(address, base)
    return MySql(address) if kind in _MYSQL else PostgreSql(address, schema)
