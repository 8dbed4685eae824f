"""The demo: a shop on a real PostgreSQL, real transactions, a worker that is killed, and an oracle that compares the outcome."""

from cdc_tracker.errors import CdcTrackerError


class DemoFailed(CdcTrackerError):
    """The demo cannot start, or cannot continue."""
