"""What a database error means for the batch."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.errors import CdcTrackerError, DestinationUnavailable


def translated(error: SQLAlchemyError, database: Database) -> CdcTrackerError:
    """The error as a CdcTrackerError with the driver's message, but without the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return DestinationUnavailable(f"{database}: {error}") if cause is None else database.fault(cause)
