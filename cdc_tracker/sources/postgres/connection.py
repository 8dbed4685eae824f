"""Connections to the captured server. psycopg's errors leave here as ours: see faults.py."""

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
"""A network that holds a connection without ending it is given up after some 20 seconds, well under wal_sender_timeout."""

_STEADY = {
    "lock_timeout": "0",  # statement_timeout bounds it
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "jit": "off",  # it takes seconds to compile what asks the catalog of a hundred tables, and that runs in milliseconds
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "standard_conforming_strings": "on",
    "row_security": "on",
}
"""Without these a role's time-outs would end the stream in a large transaction, again each time."""
_LISTS = {"search_path"}
TRANSACTION_TIMEOUT_VERSION = 170000
WAL_SENDER_TIMEOUT = 60_000  # milliseconds, the server's default

STATEMENT_TIMEOUT = 5.0  # seconds: a control query that waits for a lock must not hold up the stream


def connect(
    url: str, *, replication: bool = False, application_name: str = "cdc-tracker", statement_timeout: float = STATEMENT_TIMEOUT
) -> psycopg.Connection[Any]:
    """A connection in autocommit, with the session settings that make texts the same everywhere. The caller closes it.

    What the URL says is kept, its `options` included, but for the settings named in SESSION and _STEADY.

    Raises ConfigError, SourceError or SourceUnavailable.
    """
    given = _parsed(url)
    defaults = {"connect_timeout": "10", "application_name": application_name, **_DEAD_AFTER}
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
            _outlast_wal_sender_timeout(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: psycopg.Connection[Any], statement_timeout: str) -> None:
    """What role, database and libpq's environment (PGDATESTYLE, PGTZ, PGOPTIONS) say is not meant for our sessions.

    By SET, which is stronger than all of them, on replication connections as well.
    """
    settings = SESSION | _STEADY | {"statement_timeout": statement_timeout}
    if connection.info.server_version >= TRANSACTION_TIMEOUT_VERSION:
        settings["transaction_timeout"] = "0"
    _run(connection, "; ".join(f"SET {name} TO {setting}" for name, setting in map(_assignment, settings.items())))


def _assignment(item: tuple[str, str]) -> tuple[str, str]:
    name, setting = item
    return name, setting if name in _LISTS else f"'{setting}'"


def _outlast_wal_sender_timeout(connection: psycopg.Connection[Any]) -> None:
    """A shorter one than the server's default ends the stream while we wait for the journal's disk. 0 is none."""
    found = _run(connection, "SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'").get_value(0, 0)
    if 0 < int(found or b"0") < WAL_SENDER_TIMEOUT:
        _run(connection, f"SET wal_sender_timeout TO {WAL_SENDER_TIMEOUT}")


def _run(connection: psycopg.Connection[Any], statements: str) -> psycopg.pq.abc.PGresult:
    """The result of the last one, by the simple protocol: a walsender knows no other."""
    with translated():
        result = connection.pgconn.exec_(statements.encode())
        if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    return result


def is_leaving(url: str) -> bool:
    """Whether the server answers that it takes no connections now: one that runs is then shutting down. By code, not by text."""
    return psycopg.pq.PGconn.ping(make_conninfo(url, connect_timeout="5").encode()) == psycopg.pq.Ping.REJECT


def _parsed(url: str) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        given = {}  # libpq's own message repeats the text that it could not parse, password and all
    ports = str(given.get("port") or "").split(",")
    if not given or not all(port.isdigit() for port in ports if port):
        raise ConfigError(
            "source.url is not a libpq URL or conninfo string",
            hint="write it as postgresql://user@host:5432/database; escape special characters in the password, as %40 for @",
        )
    return given


@contextmanager
def translated(when: When = When.ASKING) -> Iterator[None]:
    """Around, or as a decorator of, whatever queries the source: psycopg's errors come out as ours."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, when) from error
