"""The journal: the durable, ordered store of segments. What rewind reads."""

from cdc_tracker.journal.segment import decode, encode
from cdc_tracker.journal.settings import JournalSettings, Retention
from cdc_tracker.journal.sql.store import Horizon, Journal, Trimmed, Waiting
from cdc_tracker.journal.sql.wake import Waiter

__all__ = ["Horizon", "Journal", "JournalSettings", "Retention", "Trimmed", "Waiter", "Waiting", "decode", "encode"]
