"""PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
from sqlalchemy import URL, Connection, Engine, create_engine, text

from cdc_tracker.destinations.sql.database import Database, Row
from cdc_tracker.errors import BatchRejected, CdcTrackerError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import canonical

_CONNECT = {  # for a server that hangs rather than refuses; a URL may say otherwise
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "application_name": "cdc-tracker",
}
_BEGIN = text("""
    SELECT set_config('TimeZone', 'UTC', true), set_config('lock_timeout', '10s', true),
           set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), true)
""")
_COLUMNS = text("""
    SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = to_regclass(:table) AND a.attnum > 0 AND NOT a.attisdropped
""")
_VALUE = ("22", "23", "54", "P0")  # data exception, integrity, program limit, a trigger's RAISE: an event is at fault
_MOST_HOURS = 15  # of a time zone's offset
_NO_TABLE = "42P01"
_REFUSED = {
    "28": "correct the credentials in `url`",
    "3D": "correct the database's name in `url`, or create it",
    "3F": "correct `schema`, or create it",
    "42501": "grant the user of `url` CREATE on the schema; or make the tables for it and grant SELECT, INSERT and UPDATE",
    "42": "the tables are not as cdc-tracker makes them: drop or rename those in the way, or set another `table`",
    "25006": "the server is a standby or set read-only: point `url` at the primary",
}
_LOGIN = ("authentication failed", "no pg_hba.conf entry", "does not exist", "permission denied", "no password supplied")


class PostgreSql(Database):
    """Transactions are durable even if the server's default is `synchronous_commit = off`."""

    time_type = "timestamptz"
    json_type = "jsonb"
    typed: ClassVar[Mapping[str, str]] = {"text": "text", "number": "numeric", "boolean": "bool", "time": "timestamptz"}
    row_bytes = 7_900  # a page of 8 KB, but for its header and the bitmap of what is NULL
    own_columns = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})

    def __init__(self, url: URL, schema: str | None) -> None:
        self.schema = schema
        super().__init__(url.set(drivername="postgresql+psycopg"))

    def connect(self, url: URL) -> Engine:
        given = {name: value for name, value in _CONNECT.items() if name not in url.query}
        # No prepared statements: there is one statement a batch, and they do not go through every connection pooler.
        return create_engine(
            url, connect_args={**given, "prepare_threshold": None}, pool_size=1, max_overflow=0, hide_parameters=True
        )

    def begin(self, connection: Connection) -> None:
        connection.execute(_BEGIN)

    def columns(self, connection: Connection, table: str) -> dict[str, str]:
        return {str(name): str(kind) for name, kind in connection.execute(_COLUMNS, {"table": self.qualified(table)})}

    def make_schema(self, connection: Connection) -> None:
        query = text("SELECT 1 FROM pg_namespace WHERE nspname = :schema")
        if self.schema and not connection.execute(query, {"schema": self.schema}).first():
            with self.tables_locked(connection):
                if not connection.execute(query, {"schema": self.schema}).first():
                    connection.execute(text(f"CREATE SCHEMA {self.quoted(self.schema)}"))

    @contextmanager
    def tables_locked(self, connection: Connection) -> Iterator[None]:
        """Holds the lock until the transaction ends."""
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('cdc_tracker.destinations.sql'))"))
        yield

    def json(self, value: msgspec.Raw) -> object:
        return value

    def bind(self, kind: str, value: Any) -> object:
        """As text, which PostgreSQL reads, where it is within what the type holds."""
        if kind == "number" and not _numeric(value):
            return None
        if kind == "time" and value[-6] in "+-" and int(value[-5:-3]) > _MOST_HOURS:
            return None
        return value if isinstance(value, str) else canonical(value)

    def source(self, kinds: Mapping[str, str], rows: Sequence[Row]) -> tuple[str, Any]:
        """One parameter for the whole batch: three times as fast as arrays, and little work in Python."""
        names = ", ".join(self.quoted(name) for name in kinds)
        columns = ", ".join(f"{self.quoted(name)} {kind}" for name, kind in kinds.items())
        return f"SELECT {names} FROM json_to_recordset(CAST(:rows AS json)) AS r({columns})", {"rows": canonical(rows)}

    def may_write(self, connection: Connection, table: str, columns: Mapping[str, str]) -> bool:
        query = text("SELECT has_table_privilege(:table, p) FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) p")
        return all(connection.execute(query, {"table": self.qualified(table)}).scalars())

    def may_create(self, connection: Connection, table: str) -> bool:
        query = """SELECT CASE WHEN to_regnamespace(quote_ident(s)) IS NULL
                   THEN has_database_privilege(current_database(), 'CREATE') ELSE has_schema_privilege(s, 'CREATE') END
                   FROM (SELECT coalesce(:schema, current_schema(), 'public') AS s) n"""
        return bool(connection.execute(text(query), {"schema": self.schema}).scalar())

    def fault(self, cause: BaseException) -> CdcTrackerError:
        # The primary message only: the DETAIL that may follow it quotes the row.
        said = self.said(getattr(getattr(cause, "diag", None), "message_primary", None) or cause)
        state = str(getattr(cause, "sqlstate", None) or "")
        if state == _NO_TABLE:
            return DestinationUnavailable(said, hint="it is made again")
        for code in (state, state[:2]):
            if code in _REFUSED:
                return DestinationBlocked(said, hint=_REFUSED[code])
        if state[:2] in _VALUE or (not state and type(cause).__name__ == "DataError"):
            return BatchRejected(said)
        if not state and any(sign in said for sign in _LOGIN):
            return DestinationBlocked(said, hint="correct the credentials or the database in `url`, or the server's pg_hba.conf")
        return DestinationUnavailable(said)


def _numeric(value: int | Decimal) -> bool:
    """At most 131,072 digits before the point, and 16,383 behind it."""
    if isinstance(value, int):
        return True  # Python reads fewer
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and value.adjusted() < 131_072 and exponent >= -16_383
