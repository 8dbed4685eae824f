"""Stores the outcomes of events with a checkpoint or a job's progress, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from cdc_tracker.state import dead_letters, ledger, sent_ids
from cdc_tracker.state.records import Counts, DeadLetter


def record_outcomes(
    connection: Connection,
    source: str,
    destination: str,
    counts: Counts,
    parked: Sequence[DeadLetter],
    settled: Sequence[int],
    sent: Sequence[bytes],
) -> None:
    """Count, park dead letters, remove the `settled` ones and add the `sent` ids."""
    dead_letters.settle(connection, source, destination, settled)
    dead_letters.park(connection, source, destination, parked)
    ledger.add(connection, source, destination, counts)
    sent_ids.add(connection, source, destination, sent)
