"""A SQL store of ours: opened, migrated, with the driver's errors turned into ours at this one boundary. State and journal."""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from select import POLLIN, poll
from typing import Any

from sqlalchemy import Connection, Engine, Row, Text, bindparam, column, create_engine, event, func, inspect, select, table
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cdc_tracker.errors import CdcTrackerError, ConfigError, Retry, Stop
from cdc_tracker.storage import sqlite

LOCK_SECONDS = 30

_FULL = "Free some space: it goes on by itself then, and nothing that was confirmed is lost."
_BUSY = "Another program holds the file for long: a backup, a sqlite3 shell or a second worker. It is tried again."
_READ_ONLY = "Make the file, its folder and its file system writable for the user that cdc-tracker runs as."
_SQLITE_HINTS = {
    5: _BUSY,
    6: _BUSY,
    8: _READ_ONLY,
    10: "Look at the disk and the kernel's log.",
    13: _FULL,
    14: _READ_ONLY,
    15: _BUSY,
}
_SQLITE_DAMAGED = {11, 26}
_ENDLESS = ["idle_session_timeout", "idle_in_transaction_session_timeout", "statement_timeout", "transaction_timeout"]
_POSTGRES_HINTS = {
    "53100": _FULL,
    "25006": "The server is read-only: it is a standby, or default_transaction_read_only is set.",
    "28": "Look at the user and password in the URL, and at pg_hba.conf.",
    "3D": "Create the database, or mend its name in the URL.",
    "42501": "Grant the user CREATE on the schema and ownership of the tables cdc_tracker_*.",
}


@dataclass(frozen=True)
class Kind:
    """What tells one store from the other."""

    noun: str  # "the journal"
    unavailable: type[Retry]
    version_table: str
    migrations: Path  # the folder of its Alembic scripts
    revisions: tuple[str, ...]  # every one, the newest last: known without importing Alembic
    gone: type[CdcTrackerError] = Stop  # raised once where the file was removed or replaced while it was open
    unused: Callable[[Database], AbstractContextManager[None]] = lambda _: (
        nullcontext()
    )  # nobody works with it; raises where somebody does


class Database:
    """`reading()` and `writing()` give a connection; every fault of the database leaves them as an error of ours.

    One connection is held for each (taking one from a pool and giving it back costs three times as much as a small read);
    threads take turns. A connection that met an error is thrown away.
    """

    def __init__(self, url: str, kind: Kind, *, reading: bool = False) -> None:
        self.kind = kind
        self.url = _parse(url, kind)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine = (sqlite.reading_engine if reading else sqlite.engine)(self.url, LOCK_SECONDS)
        else:
            self.engine = _postgres_engine(self.url, kind)
        options: dict[str, Any] = {"reading": True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reader = _Held(self.engine.execution_options(**options))
        self._writer = _Held(self.engine)
        self._file: tuple[int, int] | None = None  # which file the connections hold

    @classmethod
    def open(cls, url: str, kind: Kind) -> Database:
        """Connected, created where it was missing, and migrated. Safe in several processes at once."""
        database = cls(url, kind)
        try:
            database._create()
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def open_to_read(cls, url: str, kind: Kind) -> Database:
        """As open(), but nothing is written where the store is there and up to date: a full disk keeps nobody from reading."""
        database = cls(url, kind, reading=True)
        try:
            if not database.is_sqlite or database.path.exists():
                with database.reading() as connection:
                    if database._version(connection) == kind.revisions[-1]:
                        database._file = sqlite.identity(database.path) if database.is_sqlite else None
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
                self._file = sqlite.identity(self.path)

    @property
    def path(self) -> Path:
        """SQLite's file."""
        return Path(self.url.database or "")

    @property
    def place(self) -> str:
        """Where the store is, for a person: no user, password or parameters, any of which may be secret."""
        if self.is_sqlite:
            return str(self.path)
        hosts = self.url.query.get("host", "")
        host = self.url.host or (hosts if isinstance(hosts, str) else ",".join(hosts)) or "localhost"
        return f"{self.url.database} on {host}"

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, committed at the end. In SQLite it holds the write lock from the start."""
        self._check_file()
        with self.translated(), self._writer.taken() as connection, connection.begin():
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection without a transaction: each statement sees what is committed when it starts."""
        self._check_file()
        with self.translated(), self._reader.taken() as connection:
            yield connection

    def _check_file(self) -> None:
        """SQLite goes on in a file that was removed or replaced, unseen by others and gone with the process: not with us.

        Raises `kind.gone`, once: a new file is then in use.
        """
        if self._file is None or sqlite.identity(self.path) == self._file:
            return
        self._file = None
        self.close()
        self._create()
        raise self.kind.gone(
            f"{self.kind.noun[0].upper()}{self.kind.noun[1:]} ({self.place}) was removed or replaced while it was in use.",
            hint="What it held is gone with the old file, unless that is put back while nothing runs.",
        )

    def own_connection(self) -> Any:
        """The driver's connection in autocommit, outside the pool: for LISTEN and locks of a session. The caller closes it."""
        pooled = self.engine.raw_connection()
        driver: Any = pooled.driver_connection
        pooled.detach()
        driver.autocommit = True
        return driver

    def ask(self, connection: Any, query: str, seconds: float) -> str:
        """The first value that a query gives on such a connection, "" for none. Raises `kind.unavailable` after that time."""
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
        try:
            yield
        except (DBAPIError, PoolTimeout, OSError) as error:
            raise self._ours(error) from error
        except Exception as error:
            # What the driver raises on a connection used without SQLAlchemy: LISTEN waits on one.
            if isinstance(error, self.engine.dialect.loaded_dbapi.Error):
                raise self._ours(error) from error
            raise

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
        self.engine.dispose()

    def _ours(self, error: Exception) -> CdcTrackerError:
        origin = (error.orig if isinstance(error, DBAPIError) else None) or error
        text = str(origin).strip() or type(origin).__name__
        message = f"{self.kind.noun} ({self.place}) cannot be used: {text}"
        message = message[0].upper() + message[1:]
        if isinstance(error, OSError):
            return self.kind.unavailable(message, hint=_FULL if error.errno == errno.ENOSPC else _READ_ONLY)
        if self.is_sqlite:
            return self._from_sqlite(message, getattr(origin, "sqlite_errorcode", 0) & 0xFF)
        state = getattr(origin, "sqlstate", None) or ""
        hint = _POSTGRES_HINTS.get(state) or _POSTGRES_HINTS.get(state[:2], "")
        driver = self.engine.dialect.loaded_dbapi
        if isinstance(origin, driver.ProgrammingError | driver.DataError | driver.IntegrityError):
            return Stop(message, hint=hint)
        return self.kind.unavailable(message, hint=hint or "Is the database server running and reachable?")

    def _from_sqlite(self, message: str, code: int) -> CdcTrackerError:
        if code in _SQLITE_DAMAGED:
            return Stop(message, hint=f"The file {self.path} is damaged. Restore it from a backup, or move it away.")
        if code in _SQLITE_HINTS:
            return self.kind.unavailable(message, hint=_SQLITE_HINTS[code])
        return Stop(message)

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
                    hint="Run the newer cdc-tracker. There is no way back to an older version.",
                )
            if found == revisions[-1]:
                return
            if found is not None:  # an older worker would go on with tables that are not as it knows them
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
        from alembic import command  # noqa: PLC0415 — 10 MB and 0.1 s that only the first start should pay
        from alembic.config import Config  # noqa: PLC0415

        config = Config(attributes={"connection": connection, "version_table": self.kind.version_table})
        config.set_main_option("script_location", str(self.kind.migrations).replace("%", "%%"))
        command.upgrade(config, "head")


class _Held:
    """A connection that is kept, for one thread at a time."""

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
    """Those that can be read from, waiting so long for the first. Unlike select, also of numbers above 1023."""
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


def _postgres_engine(url: URL, kind: Kind) -> Engine:
    defaults = {
        "application_name": f"cdc-tracker {kind.noun.removeprefix('the ')}",
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,  # milliseconds: a dead network would else hold us for a quarter of an hour
        "client_encoding": "UTF8",  # PGCLIENTENCODING may say otherwise
    }
    arguments = {key: value for key, value in defaults.items() if key not in url.query}
    engine = create_engine(url, hide_parameters=True, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        # A server may have synchronous_commit off; what we confirm to the source must survive a crash of this one.
        connection.autocommit = True
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        # A role or database may have them for its applications. Ours end no session that holds a lock, and no migration.
        connection.execute("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(%s)", [_ENDLESS])
        connection.autocommit = False

    return engine


def text_parameter(name: str) -> Any:
    """A parameter whose type PostgreSQL cannot infer from where it stands."""
    return bindparam(name, type_=Text())
