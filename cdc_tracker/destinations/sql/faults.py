"""What a database error means for the batch."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable, Unexplained

_VALUE = ("22", "23", "54", "P0")  # data exception, integrity, program limit, a trigger's RAISE: an event is at fault
_REFUSED = {
    "28": "correct the credentials in `url`",
    "3D": "correct the database's name in `url`, or create it",
    "3F": "correct `schema`, or create it",
    "42501": "grant the user of `url` CREATE on the schema; or make the tables for it and grant SELECT, INSERT and UPDATE",
    "42": "the tables are not as cdc-tracker makes them: drop or rename what is in the way, or set another `table`",
    "25006": "the server is a standby or set read-only: point `url` at the primary",
}
_LOGIN = ("authentication failed", "no pg_hba.conf entry", "does not exist", "permission denied", "no password supplied")


def translated(error: SQLAlchemyError, database: Database) -> CdcTrackerError:
    """The error as one of ours. Its text has the driver's message, but neither the statement nor any value from it."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    if cause is None:
        return DestinationUnavailable(f"{database}: {error}")
    said = f"{database}: {' '.join(_message(cause).split())}"
    if isinstance(cause, sqlite3.Error):
        return _of_sqlite(cause, error, said)
    state = str(getattr(cause, "sqlstate", None) or "")
    for code in (state, state[:2]):
        if code in _REFUSED:
            return DestinationBlocked(said, hint=_REFUSED[code])
    if state[:2] in _VALUE or (not state and isinstance(error, DataError)):
        return Unexplained(said)
    if not state and any(sign in said for sign in _LOGIN):
        return DestinationBlocked(said, hint="correct the credentials or the database in `url`, or the server's pg_hba.conf")
    return DestinationUnavailable(said)


def _message(cause: BaseException) -> str:
    """PostgreSQL's primary message: the DETAIL that may follow it quotes the row."""
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    return str(primary or cause)


def _of_sqlite(cause: sqlite3.Error, error: SQLAlchemyError, said: str) -> CdcTrackerError:
    if isinstance(error, DataError | IntegrityError) or isinstance(cause, sqlite3.DataError | sqlite3.IntegrityError):
        return Unexplained(said)
    name = getattr(cause, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH", "SQLITE_NOTADB")):
        return DestinationBlocked(said, hint="make it a SQLite file that the worker's user may write to")
    hint = "free some space there: nothing is lost, and it goes on by itself" if name == "SQLITE_FULL" else ""
    return DestinationUnavailable(said, hint=hint)
