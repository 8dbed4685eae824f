"""A SQL store, as state and journal use it: opened, migrated, with the driver's errors translated at this one boundary."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from select import POLLIN, poll
from typing import Any

from sqlalchemy import Connection, Engine, Row, Text, bindparam, column, func, inspect, select, table
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cdc_tracker.errors import CdcTrackerError, ConfigError, Retry, Stop
from cdc_tracker.storage import postgresql, sqlite
from cdc_tracker.storage.faults import fault
from cdc_tracker.storage.files import identity

LOCK_SECONDS = 30


@dataclass(frozen=True)
class Kind:
    """The description of a store: state or journal."""

    noun: str  # "the journal"
    unavailable: type[Retry]
    version_table: str
    migrations: Path  # the folder of its Alembic scripts
    revisions: tuple[str, ...]  # all of them, the newest last: listed here to avoid importing Alembic
    gone: type[CdcTrackerError] = Stop  # raised once if the file was removed or replaced while it was open
    # Entered for a migration: keeps workers from starting, and raises if one runs.
    unused: Callable[[Database], AbstractContextManager[None]] = lambda _: nullcontext()


class Database:
    """`reading()` and `writing()` return a connection, and raise only errors that cdc_tracker.errors defines.

    Each keeps one connection (a checkout from a pool costs three times as much as a small read); threads take turns. A
    connection is discarded after an error.
    """

    def __init__(self, url: str, kind: Kind, *, reading: bool = False) -> None:
        self.kind = kind
        self.url = _parse(url, kind)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine = (sqlite.reading_engine if reading else sqlite.engine)(self.url, LOCK_SECONDS)
        else:
            self.engine = postgresql.engine(self.url, kind.noun, LOCK_SECONDS)
        options: dict[str, Any] = {"reading": True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reader = _Held(self.engine.execution_options(**options))
        self._writer = _Held(self.engine)
        self._file: tuple[int, int] | None = None  # identity of the open file

    @classmethod
    def open(cls, url: str, kind: Kind) -> Database:
        """Connects to the store, and creates or migrates it if necessary. Several processes may do so at once."""
        database = cls(url, kind)
        try:
            database._create()
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def open_to_read(cls, url: str, kind: Kind) -> Database:
        """As open(), but writes nothing if the store exists and is up to date: it can be read on a full disk."""
        database = cls(url, kind, reading=True)
        try:
            if not database.is_sqlite or database.path.exists():
                with database.reading() as connection:
                    if database._version(connection) == kind.revisions[-1]:
                        database._file = identity(database.path) if database.is_sqlite else None
                        return database
        except BaseException:
            database.close()
            raise
        database.close()
        return cls.open(url, kind)

    def _create(self) -> None:
        with self.translated():
            if not self.is_sqlite:
                self._migrate()
                return
            with sqlite.created(self.path):
                self._migrate()
                self._file = identity(self.path)

    @property
    def path(self) -> Path:
        """SQLite's file."""
        return Path(self.url.database or "")

    @property
    def place(self) -> str:
        """The store's location for people: without user, password or parameters, which can be secret."""
        if self.is_sqlite:
            return str(self.path)
        hosts = self.url.query.get("host", "")
        host = self.url.host or (hosts if isinstance(hosts, str) else ",".join(hosts)) or "localhost"
        return f"{self.url.database} on {host}"

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction, committed at the end of the block. SQLite locks for writing from the start."""
        self._check_file()
        with self.translated(), self._writer.taken() as connection, connection.begin():
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection in autocommit: each statement sees what was committed when it started."""
        self._check_file()
        with self.translated(), self._reader.taken() as connection:
            yield connection

    def _check_file(self) -> None:
        """Raises `kind.gone`, once, if the file was removed or replaced; a new file is then in use.

        SQLite itself would continue to write to the removed file, whose data end with the process.
        """
        if self._file is None or identity(self.path) == self._file:
            return
        self._file = None
        self.close()
        self._create()
        raise self.kind.gone(
            f"{self.kind.noun[0].upper()}{self.kind.noun[1:]} ({self.place}) was removed or replaced while it was in use.",
            hint="Its contents are lost, unless the old file is put back while no worker runs.",
        )

    def own_connection(self) -> Any:
        """The driver's connection in autocommit, outside the pool: for LISTEN and session locks. The caller closes it."""
        pooled = self.engine.raw_connection()
        driver: Any = pooled.driver_connection
        pooled.detach()
        driver.autocommit = True
        return driver

    def ask(self, connection: Any, query: str, seconds: float) -> str:
        """The first value that a query returns on such a connection, "" for none. Raises `kind.unavailable` after the timeout."""
        with self.translated():
            session = connection.pgconn
            session.send_query(query.encode())
            deadline = time.monotonic() + seconds
            while session.is_busy():
                if not readable([session.socket], deadline - time.monotonic()):
                    raise self.kind.unavailable(f"{self.kind.noun} ({self.place}) did not answer within {seconds:.0f} s.")
                session.consume_input()
            found, error = b"", b""
            while (result := session.get_result()) is not None:
                found = result.get_value(0, 0) or b"" if result.ntuples else b""
                error = result.error_message
            if error:
                raise self.kind.unavailable(f"{self.kind.noun} ({self.place}) cannot be used: {error.decode(errors='replace')}")
            return found.decode()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translates the driver's and the system's errors: `kind.unavailable` for transient ones, else Stop."""
        try:
            yield
        except Exception as error:
            # The driver's own errors come from a connection used without SQLAlchemy, such as that of LISTEN.
            if isinstance(error, DBAPIError | PoolTimeout | OSError | self.engine.dialect.loaded_dbapi.Error):
                raise self._translate(error) from error
            raise

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
        self.engine.dispose()

    def _translate(self, error: Exception) -> CdcTrackerError:
        store, driver = f"{self.kind.noun} ({self.place})", self.engine.dialect.loaded_dbapi
        return fault(error, store, self.kind.unavailable, None if self.is_sqlite else driver)

    def _migrate(self) -> None:
        revisions = self.kind.revisions
        with self.reading() as connection:
            if self._version(connection) == revisions[-1]:
                return
        with ExitStack() as stack, self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(advisory_key(self.kind.version_table))))
            found = self._version(connection)
            if found is not None and found not in revisions:
                raise Stop(
                    f"{self.kind.noun} ({self.place}) was made by a newer cdc-tracker: its version is {found}, "
                    f"this program knows {revisions[-1]} and older.",
                    hint="Run the newer cdc-tracker. A store cannot be migrated back.",
                )
            if found == revisions[-1]:
                return
            if found is not None:  # an older worker must not meet migrated tables
                stack.enter_context(self.kind.unused(self))
            self._upgrade(connection)

    def _version(self, connection: Connection) -> str | None:
        if not inspect(connection).has_table(self.kind.version_table):
            return None
        row: Row[Any] | None = connection.execute(
            select(column("version_num")).select_from(table(self.kind.version_table))
        ).first()
        return str(row[0]) if row else None

    def _upgrade(self, connection: Connection) -> None:
        from alembic import command  # noqa: PLC0415 — 10 MB and 0.1 s, needed at the first start only
        from alembic.config import Config  # noqa: PLC0415

        config = Config(attributes={"connection": connection, "version_table": self.kind.version_table})
        config.set_main_option("script_location", str(self.kind.migrations).replace("%", "%%"))
        command.upgrade(config, "head")


class _Held:
    """A connection that is kept open, for one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = threading.RLock()
        self._connection: Connection | None = None

    @contextmanager
    def taken(self) -> Iterator[Connection]:
        with self._turn:
            if self._connection is None:
                self._connection = self._engine.connect()
            try:
                yield self._connection
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        with self._turn:
            if self._connection is not None:
                connection, self._connection = self._connection, None
                with suppress(DBAPIError):
                    connection.invalidate()
                connection.close()


def readable(descriptors: Sequence[int], seconds: float) -> list[int]:
    """The descriptors that are ready to read; waits for the first until the timeout. Unlike select it takes those above 1023."""
    polled = poll()
    for descriptor in descriptors:
        polled.register(descriptor, POLLIN)
    return [descriptor for descriptor, _ in polled.poll(max(0.0, seconds) * 1000)]


def advisory_key(name: str) -> int:
    """The key of PostgreSQL's advisory lock of this name."""
    digest = hashlib.blake2b(f"cdc-tracker:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _parse(url: str, kind: Kind) -> URL:
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        url = f"postgresql+psycopg{separator}{rest}"
    hint = "Give sqlite:////var/lib/cdc-tracker/file.sqlite or postgresql://user@host:5432/database."
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(f"The URL of {kind.noun} cannot be read.", hint=hint) from None  # the cause may quote the password
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise ConfigError(f"The URL of {kind.noun} begins with {parsed.drivername}://, which is not supported.", hint=hint)
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError(f"The URL of {kind.noun} names no file.", hint=hint)
    return parsed


def text_parameter(name: str) -> Any:
    """A text parameter where PostgreSQL cannot infer the type."""
    return bindparam(name, type_=Text())
