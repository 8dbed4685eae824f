"""Connections to the captured server, and the one boundary where psycopg's errors become ours. No password passes it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_tracker.errors import CdcTrackerError, ConfigError, SlotBusy, SlotLost, SlotMissing, SourceError, SourceUnavailable
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
        raise translate(error, secret=str(given.get("password") or "")) from None


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
def translated() -> Iterator[None]:
    """Around, or as a decorator of, whatever queries the source: psycopg's errors come out as ours."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


def translate(error: psycopg.Error, *, secret: str = "") -> CdcTrackerError:
    """psycopg's error as one of ours, which says whether trying again may help."""
    text = _plain(str(error), secret) or type(error).__name__
    if error.sqlstate is None:
        return _not_connected(text)
    for code, word, kind, hint in _BY_STATE:
        if error.sqlstate == code and word in text:
            return kind(text, hint=hint)
    if error.sqlstate[:2] in _PASSING:
        return SourceUnavailable(text, hint="it is tried again until the server answers")
    return SourceError(text, hint="run `cdc-tracker check`")


_URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s@]*@|(password=)\S+")


def _plain(text: str, secret: str) -> str:
    text = re.sub(r"(?m)^connection failed: ", "", text).replace("FATAL:  ", "").replace("ERROR:  ", "")
    text = " ".join(line.strip() for line in text.splitlines() if line.strip())
    text = _URL_PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)
    return text.replace(secret, "***") if secret else text


def _not_connected(text: str) -> CdcTrackerError:
    """libpq gives no SQLSTATE when connecting fails: its text is all there is."""
    for pattern, hint in _BY_TEXT:
        if re.search(pattern, text):
            return SourceError(text, hint=hint)
    return SourceUnavailable(text, hint="is the server up, and reachable from here? It is tried again until it answers")


_HBA = (
    "add a line for this role, database and address to pg_hba.conf, such as `hostssl shop cdc_tracker 10.0.0.0/8 scram-sha-256`, "
    "then `SELECT pg_reload_conf()`"
)
_CREDENTIALS = "check user and password in source.url, or give the password by PGPASSWORD or ~/.pgpass"
_GRANTS = "sql/role.sql has the grants that cdc-tracker needs; what an owner has to run, `cdc-tracker setup --print-sql` prints"
_TLS = "check sslmode, sslrootcert and the host name in source.url, and `ssl` on the server"
_DATABASE = "mend the database's name in source.url"
_BY_TEXT = (
    (r"no pg_hba\.conf entry|pg_hba\.conf rejects", _HBA),
    (r"authentication failed|no password supplied", _CREDENTIALS),
    (r'database "[^"]*" does not exist', _DATABASE),
    (
        r'role "[^"]*" does not exist|is not permitted to log in',
        f"create it with sql/role.sql, or mend the user in source.url. {_GRANTS}",
    ),
    (r"replication role to start walsender|permission denied to start WAL sender", f"ALTER ROLE … REPLICATION. {_GRANTS}"),
    (r"certificate|SSL|sslmode|sslrootcert", _TLS),
    (r"permission denied for database", f"GRANT CONNECT ON DATABASE … TO …. {_GRANTS}"),
    (r"invalid connection option|invalid [a-z_]+ value|invalid integer value|invalid port", "mend source.url"),
)
LOST_HINT = (
    "the changes between what was read and a new slot are gone from the server. `cdc-tracker repair` makes a new slot, says from "
    "when to when nothing was read, and which tables can fill that; then raise max_slot_wal_keep_size, so that it does not "
    "happen again"
)
_BY_STATE: tuple[tuple[str, str, type[CdcTrackerError], str], ...] = (
    # SQLSTATE, a word that the server does not translate where one SQLSTATE means several things, what it is for us
    ("28P01", "", SourceError, _CREDENTIALS),
    ("28000", "", SourceError, _HBA),
    ("3D000", "", SourceError, _DATABASE),
    ("42501", "", SourceError, _GRANTS),
    ("42704", "slot", SlotMissing, "start cdc-tracker again: it says what happened to the slot and how to mend it"),
    ("42704", "", SourceError, "run `cdc-tracker setup`: it makes what is missing and leaves the rest alone"),
    (
        "53400",
        "",
        SourceError,
        "raise max_replication_slots (restart), or drop a slot that nobody reads: see pg_replication_slots",
    ),
    ("55000", "wal_level", SourceError, "ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL"),
    ("55000", "slot", SlotLost, LOST_HINT),
    ("55006", "slot", SlotBusy, "stop the other reader, or start this one with `cdc-tracker run --standby` to wait for its turn"),
    ("57014", "", SourceUnavailable, "the server did not answer in time: is it overloaded, or is a lock held?"),
    ("58P01", "WAL segment", SlotLost, LOST_HINT),
    ("58P01", "", SourceError, "install the plugin's package on the server (postgresql-NN-wal2json), or set `plugin: pgoutput`"),
)
_PASSING = ("08", "25", "40", "53", "55", "57", "58", "XX")
"""SQLSTATE classes: connection, transaction, rollback, resources, object in use, operator, system, internal."""
