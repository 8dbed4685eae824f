"""What a database error means for the batch."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.errors import CdcTrackerError, DestinationUnavailable


def translated(error: SQLAlchemyError, database: Database) -> CdcTrackerError:
    """The error as one of ours. Its text has the driver's message, but neither the statement nor any value from it."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return DestinationUnavailable(f"{database}: {error}") if cause is None else database.fault(cause)
