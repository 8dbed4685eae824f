"""The ids that a destination was sent, kept for `sent_ledger` so that a replay can leave them out."""

from __future__ import annotations

import time

from cdc_tracker.delivery.batcher import PendingBatch
from cdc_tracker.state import State, sent_id

TRIM = 3600.0  # seconds between two removals of old ids
YEAR = 365 * 86_400.0


class SentLedger:
    """That of one destination. The accounting adds to it."""

    def __init__(self, state: State, source: str, destination: str, keep: float | None) -> None:
        """`keep`: seconds that an id is kept; None: the destination has no sent-ledger."""
        self._state, self._source, self._destination, self._keep = state, source, destination, keep
        self._trimmed = 0.0

    def begin(self) -> None:
        """If it is turned off now, removes every id: a replay must not trust a ledger with a hole."""
        if self._keep is None and self._state.sent_ids.since(self._source, self._destination) is not None:
            self._trim(time.time() + YEAR)

    def trim(self) -> None:
        """Once an hour: removes the ids that need not be kept."""
        if self._keep is not None and time.monotonic() > self._trimmed + TRIM:
            self._trimmed = time.monotonic()
            self._trim(time.time() - self._keep)

    def _trim(self, before: float) -> None:
        self._state.sent_ids.trim(self._source, self._destination, int(before * 1_000_000))


def suppress_already_sent(batch: PendingBatch, state: State, source: str, destination: str) -> None:
    """Suppresses the events that the destination's sent-ledger has."""
    if batch.events:
        ids = {sent_id(event.message_id): event.message_id for event in batch.events}
        batch.suppress({ids[found] for found in state.sent_ids.find(source, destination, list(ids))}, "already_sent")
