"""The journal: the durable, ordered store of segments, which deliveries, rewinds and replays read."""

from cdc_tracker.journal.base import Horizon, Waiting, segments_between
from cdc_tracker.journal.segment import decode, encode
from cdc_tracker.journal.sql.store import Journal

__all__ = ["Horizon", "Journal", "Waiting", "decode", "encode", "segments_between"]
