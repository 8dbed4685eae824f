"""Connections to the captured server. psycopg's errors leave here as ours: see faults.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_tracker.errors import ConfigError
from cdc_tracker.source.faults import When, translate
from cdc_tracker.source.values import SESSION_OPTIONS

_DEAD_AFTER = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "20000"}
"""A network that holds a connection without ending it is given up after some 20 seconds, well under wal_sender_timeout."""

STATEMENT_TIMEOUT = 5.0  # seconds: a control query that waits for a lock must not hold up the stream


def connect(
    url: str, *, replication: bool = False, application_name: str = "cdc-tracker", statement_timeout: float = STATEMENT_TIMEOUT
) -> psycopg.Connection[Any]:
    """A connection in autocommit, with the session settings that make texts the same everywhere. The caller closes it.

    Everything that the URL says is kept, its `options` included. Raises ConfigError, SourceError or SourceUnavailable.
    """
    given = _parsed(url)
    own_options = str(given.get("options") or os.environ.get("PGOPTIONS", ""))
    timeout = "" if replication else f"-c statement_timeout={round(statement_timeout * 1000)}"
    defaults = {"connect_timeout": "10", "application_name": application_name, **_DEAD_AFTER}
    wanted: dict[str, Any] = {**defaults, **given}
    wanted |= {"options": " ".join(filter(None, (timeout, own_options, SESSION_OPTIONS))), "client_encoding": "utf8"}
    if replication:
        wanted["replication"] = "database"
    try:
        return psycopg.connect(make_conninfo("", **wanted), autocommit=True)
    except psycopg.Error as error:
        raise translate(error, When.CONNECTING, secret=str(given.get("password") or "")) from None


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
