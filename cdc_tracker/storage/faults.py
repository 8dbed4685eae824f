"""Errors of a store's driver and of the system as errors of cdc-tracker."""

from __future__ import annotations

import errno
from typing import Any

from sqlalchemy.exc import DBAPIError

from cdc_tracker.errors import CdcTrackerError, Retry, Stop

_FULL = "Free some space: the worker then continues by itself, and nothing that was confirmed is lost."
_BUSY = "Another program locks the file: a backup, a sqlite3 shell or a second worker. The worker retries."
_READ_ONLY = "Make the file, its folder and its file system writable for the user that cdc-tracker runs as."
_DAMAGED = "The file is damaged. Restore it from a backup, or move it away."
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
_POSTGRES_HINTS = {
    "53100": _FULL,
    "25006": "The server is read-only: it is a standby, or default_transaction_read_only is set.",
    "28": "Look at the user and password in the URL, and at pg_hba.conf.",
    "3D": "Create the database, or correct its name in the URL.",
    "42501": "Grant the user CREATE on the schema and ownership of the tables cdc_tracker_*.",
}


def fault(error: Exception, store: str, unavailable: type[Retry], driver: Any) -> CdcTrackerError:
    """Returns `unavailable` for a transient error, else a Stop.

    `store`: its noun and place, for messages. `driver`: the module of PostgreSQL's driver; None for SQLite.
    """
    origin = (error.orig if isinstance(error, DBAPIError) else None) or error
    message = f"{store} cannot be used: {str(origin).strip() or type(origin).__name__}"
    message = message[0].upper() + message[1:]
    if isinstance(error, OSError):
        return unavailable(message, hint=_FULL if error.errno == errno.ENOSPC else _READ_ONLY)
    if driver is None:
        code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
        if code in _SQLITE_HINTS:
            return unavailable(message, hint=_SQLITE_HINTS[code])
        return Stop(message, hint=_DAMAGED if code in _SQLITE_DAMAGED else "")
    state = getattr(origin, "sqlstate", None) or ""
    hint = _POSTGRES_HINTS.get(state) or _POSTGRES_HINTS.get(state[:2], "")
    if isinstance(origin, driver.ProgrammingError | driver.DataError | driver.IntegrityError):
        return Stop(message, hint=hint)
    return unavailable(message, hint=hint or "Is the database server running and reachable?")
