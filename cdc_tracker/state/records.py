"""The values that the state store returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from cdc_tracker.model import Lsn, Position, Rejection

HOUR = 3_600_000_000  # in microseconds

Counts: TypeAlias = Mapping[tuple[int, str, str], int]
"""(hour of the commit in hours since the Unix epoch, mapping key, outcome) → how many.

Outcomes: matched, delivered, assumed, rejected, suppressed, replayed, repeated. An event that is sent again after a rewind counts
only as replayed. One whose id the destination already had from another change counts as suppressed and as repeated.
"""

LetterState = Literal["parked", "queued", "discarded"]


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What setup recorded of a source, and the LSN that was confirmed to its server."""

    name: str
    system_id: str
    database: str
    slot: str
    plugin: str
    namespace: str  # a UUID: event ids are made in it
    epoch: int
    created_lsn: Lsn
    confirmed_lsn: Lsn
    timeline: int
    journaled_lsn: Lsn = 0  # the journal had changes up to here: one that ends before it is incomplete


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`high`: the furthest it has been. `rewind_to`: the target of a pending rewind. `updated_at`: microseconds.

    `only_missing`: up to `high`, events that the sent-ledger has are withheld. It ends when the position reaches `high`.
    """

    position: Position
    high: Position
    rewind_to: Position | None
    updated_at: int
    only_missing: bool = False

    @property
    def needs(self) -> Position:
        """The journal keeps what is after this position: a pending rewind will read it."""
        return min(self.position, self.rewind_to or self.position)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A parked rejection, with the segment that its change can be decoded from again.

    There is one for each (source, destination, mapping, position). A `parked` one waits to be retried or discarded, a `queued`
    one to be sent again. `counted`: the ledger has it under matched; false if only a replay rejected it.
    """

    id: int
    source: str
    destination: str
    mapping: str
    position: Position
    reason: str
    field: str
    value_type: str
    detail: str
    event_id: str
    segment: bytes  # empty in listings
    state: LetterState = "parked"
    attempts: int = 0
    created_at: int = 0
    committed_at: int = 0
    counted: bool = True

    @classmethod
    def of(cls, source: str, destination: str, rejection: Rejection, segment: bytes, *, counted: bool = True) -> DeadLetter:
        """A new one, for Checkpoints.commit or Jobs.commit."""
        same = msgspec.structs.asdict(rejection)
        return cls(id=0, source=source, destination=destination, segment=segment, counted=counted, **same)

    @property
    def hour(self) -> int:
        """The ledger's hour in which it counts."""
        return self.committed_at // HOUR


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Counts of events of one destination, mapping and hour."""

    destination: str
    mapping: str
    hour: int  # hours since the Unix epoch
    matched: int
    delivered: int
    assumed: int
    rejected: int
    suppressed: int
    replayed: int
    repeated: int = 0  # of the suppressed: those that the destination had already

    @property
    def pending(self) -> int:
        """Neither delivered nor parked nor suppressed yet; includes dead letters that are queued to be sent again."""
        return self.matched - self.delivered - self.assumed - self.rejected - self.suppressed


class MappingRecord(NamedTuple):
    """A mapping in force at a destination. `loaded_at`: when it was first loaded, microseconds since the Unix epoch.

    `after`: changes up to this position were dealt with before; START, if perhaps by an earlier mapping with this key.
    `matched`: whether a change has matched it since, live or in a job.
    """

    destination: str
    mapping: str
    loaded_at: int
    after: Position
    matched: bool


class InHand(NamedTuple):
    """What a delivery sends again after a kill. `mappings`: file name → text, in force then. `letters`: ids of dead letters."""

    mappings: dict[str, str]
    letters: list[int]


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of one destination by outcome: the ledger's sums, and how often each outcome has happened, which never decreases."""

    now: Mapping[str, int]
    ever: Mapping[str, int]
