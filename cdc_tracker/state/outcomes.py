"""The outcomes of events, stored in one transaction with a checkpoint or a job's progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from cdc_tracker.state import dead_letters, ledger, sent_ids
from cdc_tracker.state.records import Counts, DeadLetter


class Outcomes(NamedTuple):
    """What became of events. `settled`: ids of dead letters that are removed. `sent`: ids for the sent-ledger, see sent_id."""

    counts: Counts
    parked: Sequence[DeadLetter] = ()
    settled: Sequence[int] = ()
    sent: Sequence[bytes] = ()

    def store(self, connection: Connection, source: str, destination: str) -> None:
        """Counts, parks, removes the settled and adds the sent ids, in the caller's transaction."""
        dead_letters.settle(connection, source, destination, self.settled)
        dead_letters.park(connection, source, destination, self.parked)
        ledger.add(connection, source, destination, self.counts)
        sent_ids.add(connection, source, destination, self.sent)
