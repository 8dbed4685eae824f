"""Connections to the captured server. psycopg's errors are translated here: see faults.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_tracker.errors import ConfigError
from cdc_tracker.sources.postgres.faults import When, translate
from cdc_tracker.sources.postgres.values import SESSION

Connection: TypeAlias = psycopg.Connection[Any]

_DEAD_AFTER = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "20000"}
"""A dead connection is given up after about 20 seconds, well below wal_sender_timeout."""

_STEADY = {
    "lock_timeout": "0",  # statement_timeout bounds it
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "jit": "off",  # it takes seconds to compile catalog queries of a hundred tables, which run in milliseconds
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "standard_conforming_strings": "on",
    "row_security": "on",
}
"""Without these, a role's time-outs would end the stream in a large transaction, each time again."""
_LISTS = {"search_path"}
TRANSACTION_TIMEOUT_VERSION = 170000
WAL_SENDER_TIMEOUT = 60_000  # milliseconds, the server's default

STATEMENT_TIMEOUT = 5.0  # seconds: a control query that waits for a lock must not delay the stream


def connect(
    url: str,
    *,
    replication: bool = False,
    application_name: str = "cdc-tracker",
    statement_timeout: float = STATEMENT_TIMEOUT,
    connect_timeout: int = 10,
) -> Connection:
    """A connection in autocommit, with session settings under which texts are the same everywhere. The caller closes it.

    The URL's parameters apply, `options` included, except for the settings in SESSION and _STEADY. Times are seconds.

    Raises ConfigError, SourceError or SourceUnavailable.
    """
    given = _parsed(url)
    defaults = {"connect_timeout": str(connect_timeout), "application_name": application_name, **_DEAD_AFTER}
    wanted: dict[str, Any] = {**defaults, **given, "client_encoding": "utf8"}
    if replication:
        wanted["replication"] = "database"
    try:
        connection = psycopg.connect(make_conninfo("", **wanted), autocommit=True)
    except psycopg.Error as error:
        raise translate(error, When.CONNECTING, secret=str(given.get("password") or "")) from None
    try:
        _prepare(connection, "0" if replication else str(round(statement_timeout * 1000)))
        if replication:
            _raise_wal_sender_timeout(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: Connection, statement_timeout: str) -> None:
    """Overrides the settings of role, database and libpq's environment (PGDATESTYLE, PGTZ, PGOPTIONS).

    It uses SET, which takes precedence over all of them, on replication connections as well.
    """
    settings = SESSION | _STEADY | {"statement_timeout": statement_timeout}
    if connection.info.server_version >= TRANSACTION_TIMEOUT_VERSION:
        settings["transaction_timeout"] = "0"
    _run(connection, "; ".join(f"SET {name} TO {setting}" for name, setting in map(_setting, settings.items())))


def _setting(item: tuple[str, str]) -> tuple[str, str]:
    name, setting = item
    return name, setting if name in _LISTS else f"'{setting}'"


def _raise_wal_sender_timeout(connection: Connection) -> None:
    """Raises a wal_sender_timeout below the server's default, which would end the stream during a slow write of the journal."""
    found = _run(connection, "SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'").get_value(0, 0)
    if 0 < int(found or b"0") < WAL_SENDER_TIMEOUT:
        _run(connection, f"SET wal_sender_timeout TO {WAL_SENDER_TIMEOUT}")


def _run(connection: Connection, statements: str) -> psycopg.pq.abc.PGresult:
    """The result of the last statement, by the simple protocol, the only one that a walsender speaks."""
    with translated():
        result = connection.pgconn.exec_(statements.encode())
        if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    return result


def is_leaving(url: str) -> bool:
    """Whether the server rejects new connections, as one that is shutting down does."""
    return psycopg.pq.PGconn.ping(make_conninfo(url, connect_timeout="5").encode()) == psycopg.pq.Ping.REJECT


def on_database(url: str, name: str, *, without_password: bool = False) -> tuple[str, str]:
    """The conninfo string for another database of the server, and the password of the URL. Raises ConfigError."""
    given = _parsed(url) | {"dbname": name}
    password = str(given.get("password") or "")
    return make_conninfo("", **{key: each for key, each in given.items() if key != "password" or not without_password}), password


def _parsed(url: str) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        given = {}  # libpq's message would repeat the text that it could not parse, with its password
    ports = str(given.get("port") or "").split(",")
    if not given or not all(port.isdigit() for port in ports if port):
        raise ConfigError(
            "source.url is not a libpq URL or conninfo string",
            hint="write it as postgresql://user@host:5432/database; escape special characters in the password, as %40 for @",
        )
    return given


@contextmanager
def translated(when: When = When.ASKING) -> Iterator[None]:
    """Translates psycopg's errors; as a context manager or decorator around queries of the source."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, when) from error
