"""Gaps: changes that committed and were never read, by destination, with their positions and times."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from cdc_tracker.journal import Horizon
from cdc_tracker.model import START, Lsn, Position, format_lsn
from cdc_tracker.sources.postgres.verify import CommitTimes
from cdc_tracker.state import CAPTURE, HOUR, CaptureReport, DeliveryReport, SourceRecord, State
from cdc_tracker.times import SECOND, for_display, from_micros

MARGIN = 60 * SECOND  # a row's own time is set before its transaction commits


class Missing(NamedTuple):
    """A destination has everything up to `since`, or finds it in the journal; the slot gives everything from `upto` on.

    What is missing committed between `since_time` (0: unknown) and `upto_time`, both in microseconds since the Unix epoch.
    """

    destination: str
    since: Position
    since_time: int
    upto: Lsn
    upto_time: int

    def __str__(self) -> str:
        since = for_display(self.since_time) if self.since_time else "at an unknown time"
        return (
            f"{self.destination}: nothing was read that committed between {self.since} ({since}) and {format_lsn(self.upto)} "
            f"({for_display(self.upto_time)})."
        )


def missing(
    state: State, record: SourceRecord, destinations: Collection[str], horizon: Horizon | None, slot: Lsn, now_us: int
) -> list[Missing]:
    """The gap of every destination that has one, if only the journal and a slot that begins at `slot` are left to read."""
    found = []
    end = horizon.last if horizon else START
    checkpoints = state.checkpoints.all(record.name)
    for name in sorted(checkpoints.keys() & set(destinations)):
        checkpoint = checkpoints[name]
        have = reached(record, end, checkpoint.position)
        if have.commit_lsn < slot:
            in_journal = horizon is not None and checkpoint.position <= end
            since_time = horizon.last_time if horizon and in_journal else dealt_until(state, record.name, name)
            found.append(Missing(name, have, since_time, slot, now_us))
    return found


def reached(record: SourceRecord, journal_end: Position, checkpoint: Position) -> Position:
    """The position up to which a destination has everything, or finds it in the journal.

    A complete journal ends with the last change that was read; while idle, the slot is confirmed past it.
    """
    have = max(checkpoint, journal_end)
    return max(have, Position(record.confirmed_lsn, -1)) if have.commit_lsn >= record.journaled_lsn else have


def times_of(state: State, source: str) -> CommitTimes:
    """Commit times of the last change that every destination has dealt with, and of the last one that was journaled."""
    lowest = min(state.checkpoints.all(source).items(), key=lambda item: item[1].position, default=None)
    journaled = state.reports.last(source, CAPTURE, CaptureReport).journaled_until
    return CommitTimes(dealt_until(state, source, lowest[0]) if lowest else 0, journaled)


def dealt_until(state: State, source: str, destination: str) -> int:
    """A time at or before the commit of the last change that the destination has dealt with; 0 if unknown.

    Exact if the role's last report is about the stored checkpoint; else the ledger's hour.
    """
    checkpoint = state.checkpoints.get(source, destination)
    report = state.reports.last(source, f"deliver:{destination}", DeliveryReport)
    if checkpoint is not None and report.delivered_until and report.position == str(checkpoint.position):
        return report.delivered_until
    return max((row.hour for row in state.ledger.rows(source, destination)), default=0) * HOUR


def window(gap: Missing) -> tuple[int | None, int]:
    """The event times to read for a gap, in whole seconds: a little more, never less."""
    since = (gap.since_time - MARGIN) // SECOND * SECOND if gap.since_time else None
    return since, -(-gap.upto_time // SECOND) * SECOND


def iso(time_us: int) -> str:
    """`2026-01-31T12:00:00Z`."""
    return f"{from_micros(time_us):%Y-%m-%dT%H:%M:%SZ}"
