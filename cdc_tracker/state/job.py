"""A job as a value: what was asked for, and how far it is. Specs, progress and counts are stored as JSON.

A job may be created, run and shown by different versions. Unknown fields are ignored; a spec or progress that does not fit is
kept as it is, and the job fails when it is to run. `version` is 1 if it is absent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import msgspec

from cdc_tracker.model import Lsn, Position

JobKind = Literal["replay", "backfill"]
JobState = Literal["queued", "running", "paused", "done", "failed", "cancelled"]


class ReplaySpec(msgspec.Struct, kw_only=True, frozen=True):
    """The journal after `after`, up to and including `upto`. `max_rate`: events a second.

    `events`: mapping keys, None: all. `mappings`: file name → text, so that the job's results do not change while it runs.
    """

    after: Position = msgspec.field(name="from")
    upto: Position = msgspec.field(name="to")
    events: list[str] | None
    mappings: dict[str, str]
    only_missing: bool = False
    max_rate: float | None = None
    version: int = 1


class BackfillSpec(msgspec.Struct, kw_only=True, frozen=True):
    """One event of the present rows of a table. `max_rate`: events a second. `chunk`: rows read at once at most.

    `from_us`, `to_us`: only events of that time, in microseconds since the Unix epoch. `where`: SQL. `order`: of the key.
    """

    event: str
    table: str
    where: str | None
    order: Literal["asc", "desc"]
    from_us: int | None = msgspec.field(name="from")
    to_us: int | None = msgspec.field(name="to")
    mappings: dict[str, str]
    only_missing: bool
    max_rate: float | None
    chunk: int
    version: int = 1


class ReplayProgress(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`position`: everything up to it is dealt with; None: nothing yet. `sending`: what comes next may have been sent."""

    position: Position | None = None
    sending: bool = False
    version: int = 1


class BackfillProgress(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Beside the job's segment, which is the chunk being sent. `sending`: as for a replay."""

    after: tuple[str, ...] | None = None  # the key after which the current or the next chunk begins
    low: Lsn = 0  # the chunk's watermarks
    high: Lsn = 0
    last_key: tuple[str, ...] | None = None
    end: bool = False  # the chunk is the last one
    at: int = -1  # its last row that is dealt with
    rows: int = 0  # read so far
    running: tuple[int, ...] = ()
    key: tuple[str, ...] = ()  # the columns of `after`
    sending: bool = False
    version: int = 1


class Unreadable(msgspec.Struct, frozen=True):
    """A stored spec or progress that this version cannot read."""

    reason: str
    text: str


class JobCounts(msgspec.Struct, kw_only=True, frozen=True):
    """`sent`: delivered or assumed. `withheld`: matched, but suppressed. `total`: an estimate of `read`, 0 if unknown."""

    read: int = 0
    matched: int = 0
    sent: int = 0
    rejected: int = 0
    withheld: int = 0
    total: int = 0

    def plus(self, *, matched: int, sent: int, rejected: int, withheld: int) -> JobCounts:
        """The counts with these added."""
        return msgspec.structs.replace(
            self,
            matched=self.matched + matched,
            sent=self.sent + sent,
            rejected=self.rejected + rejected,
            withheld=self.withheld + withheld,
        )


Spec: TypeAlias = ReplaySpec | BackfillSpec
Progress: TypeAlias = ReplayProgress | BackfillProgress


@dataclass(frozen=True, slots=True)
class Job:
    """History that one destination is sent beside its stream: from the journal (replay) or from a table (backfill).

    A `failed` one waits to be resumed or cancelled. Times are microseconds since the Unix epoch, 0 if not reached.
    """

    id: int
    source: str
    destination: str
    kind: JobKind
    state: JobState
    spec: Spec | Unreadable  # what was asked for; never changes
    progress: Progress | Unreadable
    counts: JobCounts
    segment: bytes  # the part being sent; empty if there is none, and in listings
    needs: Position | None  # the journal keeps what is after it until the job is finished
    trouble: str = ""  # why it waits, is paused or failed
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    updated_at: int = 0

    @property
    def may_have_sent(self) -> bool:
        """Whether its next batch may have been sent before a kill. That of a backfill is of its segment."""
        marked = not isinstance(self.progress, Unreadable) and self.progress.sending
        return (self.state == "running" or marked) and (self.kind == "replay" or bool(self.segment))

    def marked(self, *, sending: bool) -> Job:
        """The job with its progress marked: `sending` as long as what comes next may be on its way."""
        if isinstance(self.progress, Unreadable):
            return self
        return replace(self, progress=msgspec.structs.replace(self.progress, sending=sending))

    @property
    def finished(self) -> bool:
        """It never runs again. A failed one can be resumed."""
        return self.state in ("done", "cancelled")
