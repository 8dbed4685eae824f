"""The two kinds of database: connecting, transactions, tables and columns, and inserting many rows at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from cdc_tracker.errors import ConfigError
from cdc_tracker.model import canonical

_CONNECT = {  # for a server that hangs rather than refuses; a URL may say otherwise
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "application_name": "cdc-tracker",
}
_POSTGRESQL_BEGIN = text("""
    SELECT set_config('TimeZone', 'UTC', true), set_config('lock_timeout', '10s', true),
           set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), true)
""")
_POSTGRESQL_COLUMNS = text("""
    SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = to_regclass(:table) AND a.attnum > 0 AND NOT a.attisdropped
""")


class Database:
    """One connection to it, made when needed. Raises SQLAlchemy's errors: the destination translates them."""

    def __init__(self, url: str, schema: str | None, base: Path) -> None:
        self.schema = schema
        self._url = _address(url, base)
        self.is_postgresql = self._url.get_backend_name() == "postgresql"
        self._engine = _postgresql(self._url) if self.is_postgresql else _sqlite(self._url)

    @staticmethod
    def check(url: str, schema: str | None) -> None:
        """Raises ValueError where the settings do not hold; without the URL, which may hold a password."""
        try:
            address = make_url(url)
        except (SQLAlchemyError, ValueError):
            raise ValueError("`url` is not a database URL such as postgresql://user@host/database") from None
        kind = address.drivername.partition("+")[0]
        if kind not in ("postgresql", "postgres", "sqlite"):
            raise ValueError(f"`url`: {kind} is not supported; postgresql://… and sqlite:///FILE are")
        if kind == "sqlite" and (address.database or ":memory:") == ":memory:":
            raise ValueError("`url`: sqlite needs a file: sqlite:///FILE")
        if kind == "sqlite" and schema:
            raise ValueError("`schema` is for PostgreSQL only")

    def __str__(self) -> str:
        """For a person; without credentials."""
        url = self._url
        return f"{url.host or 'local'}/{url.database or ''}" if self.is_postgresql else f"sqlite:{url.database}"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Durable when it ends, also where the server's default is `synchronous_commit = off`."""
        with self._engine.begin() as connection:
            if self.is_postgresql:
                connection.execute(_POSTGRESQL_BEGIN)
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def qualified(self, table: str) -> str:
        return f"{self.quoted(self.schema)}.{self.quoted(table)}" if self.schema else self.quoted(table)

    def columns(self, connection: Connection, table: str) -> dict[str, str]:
        """Column names and the database's names of their types; empty where there is no such table."""
        if self.is_postgresql:
            rows = connection.execute(_POSTGRESQL_COLUMNS, {"table": self.qualified(table)})
        else:
            rows = connection.execute(text("SELECT name, type FROM pragma_table_info(:table)"), {"table": table})
        return {str(name): str(kind).lower() for name, kind in rows}

    def make_schema(self, connection: Connection) -> None:
        query = text("SELECT 1 FROM pg_namespace WHERE nspname = :schema")
        if self.schema and not connection.execute(query, {"schema": self.schema}).first():
            self._lock_tables(connection)
            if not connection.execute(query, {"schema": self.schema}).first():
                connection.execute(text(f"CREATE SCHEMA {self.quoted(self.schema)}"))

    def make_table(self, connection: Connection, table: str, columns: Mapping[str, str], key: str) -> None:
        """Unless it is there: CREATE … IF NOT EXISTS wants privileges even then."""
        if self.columns(connection, table):
            return
        self._lock_tables(connection)
        if not self.columns(connection, table):
            parts = [f"{self.quoted(name)} {kind}" for name, kind in columns.items()]
            parts.append(f"PRIMARY KEY ({self.quoted(key)})")
            connection.execute(text(f"CREATE TABLE {self.qualified(table)} ({', '.join(parts)})"))

    def add_column(self, connection: Connection, table: str, column: str, kind: str) -> None:
        clause = "ADD COLUMN IF NOT EXISTS" if self.is_postgresql else "ADD COLUMN"
        connection.execute(text(f"ALTER TABLE {self.qualified(table)} {clause} {self.quoted(column)} {kind}"))

    def _lock_tables(self, connection: Connection) -> None:
        """Until the transaction ends, keeps another destination from making the same table at the same moment."""
        if self.is_postgresql:
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('cdc_tracker.destinations.sql'))"))

    def insert(
        self, connection: Connection, table: str, kinds: Mapping[str, str], rows: Sequence[Mapping[str, Any]], key: str
    ) -> None:
        """Insert rows, leaving out those whose key is there. `kinds`: each column and its type; a row lacks what is NULL."""
        if not rows:
            return
        names = ", ".join(self.quoted(name) for name in kinds)
        if self.is_postgresql:
            # One statement and one parameter for the whole batch: three times as fast as arrays, and nearly no work on our side.
            columns = ", ".join(f"{self.quoted(name)} {kind}" for name, kind in kinds.items())
            source = f"SELECT {names} FROM json_to_recordset(CAST(:rows AS json)) AS r({columns})"
            parameters: Any = {"rows": canonical(rows)}
        else:
            labels = {name: f"p{i}" for i, name in enumerate(kinds)}
            source = f"VALUES ({', '.join(f':{label}' for label in labels.values())})"
            parameters = [{label: row.get(name) for name, label in labels.items()} for row in rows]
        statement = f"INSERT INTO {self.qualified(table)} ({names}) {source} ON CONFLICT ({self.quoted(key)}) DO NOTHING"
        connection.execute(text(statement), parameters)

    def missing_privileges(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        if not self.is_postgresql:
            return []  # its transaction began with a lock for writing: what cannot be written has failed already
        missing = []
        for table in tables:
            if self.columns(connection, table):
                query = text("SELECT has_table_privilege(:table, p) FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) p")
                if not all(connection.execute(query, {"table": self.qualified(table)}).scalars()):
                    missing.append(f"SELECT, INSERT and UPDATE in {table}")
            elif not self._may_create(connection):
                missing.append(f"create {table}")
        return missing

    def _may_create(self, connection: Connection) -> bool:
        query = """SELECT CASE WHEN to_regnamespace(quote_ident(s)) IS NULL
                   THEN has_database_privilege(current_database(), 'CREATE') ELSE has_schema_privilege(s, 'CREATE') END
                   FROM (SELECT coalesce(:schema, current_schema(), 'public') AS s) n"""
        return bool(connection.execute(text(query), {"schema": self.schema}).scalar())


def _address(url: str, base: Path) -> URL:
    address = make_url(url)
    if address.drivername.startswith("sqlite"):
        return address.set(drivername="sqlite", database=str(base / (address.database or "")))
    return address.set(drivername="postgresql+psycopg")


def _postgresql(url: URL) -> Engine:
    given = {name: value for name, value in _CONNECT.items() if name not in url.query}
    # No prepared statements: there is one statement a batch, and they do not go through every connection pooler.
    return create_engine(
        url, connect_args={**given, "prepare_threshold": None}, pool_size=1, max_overflow=0, hide_parameters=True
    )


def _sqlite(url: URL) -> Engine:
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

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
