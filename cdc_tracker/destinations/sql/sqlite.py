"""SQLite: a file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, text

from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.errors import BatchRejected, CdcTrackerError, ConfigError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import canonical
from cdc_tracker.storage.files import identity


class Sqlite(Database):
    """A file in WAL mode. A transaction locks all of it against other writers."""

    time_type = "timestamp"
    json_type = "text"
    # SQLite would turn an exact number into a float in a column of type numeric; a name with `blob` in it leaves values alone.
    typed: ClassVar[Mapping[str, str]] = {"text": "text", "number": "number_blob", "boolean": "boolean", "time": "timestamp"}

    lock_rows = ""  # a transaction locks the whole file

    def __init__(self, url: URL, base: Path) -> None:
        self._file: tuple[int, int] | None = None  # the one that is open
        super().__init__(url.set(drivername="sqlite", database=str(base / (url.database or ""))))

    def connect(self, url: URL) -> Engine:
        folder = Path(url.database or "").parent
        if not folder.is_dir():
            raise ConfigError(f"the folder {folder} of the SQLite file does not exist")
        wait = {} if "timeout" in url.query else {"timeout": 10}  # seconds, while another has the file locked
        engine = create_engine(url, connect_args=wait, pool_size=1, max_overflow=0, hide_parameters=True)

        @event.listens_for(engine, "connect")
        def _configure(connection: Any, _: object) -> None:
            connection.isolation_level = None  # Python's own transactions do not cover CREATE and ALTER
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._file = self._found()

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def __str__(self) -> str:
        return f"sqlite:{self._url.database}"

    def replaced(self) -> bool:
        """Whether the file was removed or replaced: SQLite keeps using the one that it has open."""
        return self._file is not None and self._found() != self._file

    def close(self) -> None:
        super().close()
        self._file = None

    def _found(self) -> tuple[int, int] | None:
        return identity(Path(self._url.database or ""))

    def columns(self, connection: Connection, table: str) -> dict[str, str]:
        rows = connection.execute(text("SELECT name, type FROM pragma_table_info(:table)"), {"table": table})
        return {str(name): str(kind).lower() for name, kind in rows}

    def may_write(self, connection: Connection, table: str, columns: Mapping[str, str]) -> bool:
        return True  # its transaction began with a write lock: an unwritable file has failed already

    def may_create(self, connection: Connection, table: str) -> bool:
        return True

    def bind(self, kind: str, value: Any) -> object:
        """A number as SQLite's own if that is exact, else as text."""
        if kind == "boolean":
            return int(value)
        if kind != "number":
            return value if isinstance(value, str) else canonical(value)
        if isinstance(value, int):
            return value if -(2**63) <= value < 2**63 else str(value)
        near = float(value)
        return near if Decimal(repr(near)) == value else canonical(value)

    def fault(self, cause: BaseException) -> CdcTrackerError:
        said = self.said(cause)
        if isinstance(cause, sqlite3.DataError | sqlite3.IntegrityError):
            return BatchRejected(said)
        name = getattr(cause, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH", "SQLITE_NOTADB")):
            return DestinationBlocked(said, hint="make it a SQLite file that the worker's user may write to")
        hint = "free some space there: nothing is lost, and delivery continues by itself" if name == "SQLITE_FULL" else ""
        return DestinationUnavailable(said, hint=hint)
