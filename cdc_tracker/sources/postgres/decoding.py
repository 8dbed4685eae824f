"""What every plugin's decoder needs of a segment: its frames, the place of each change, and excerpts for dead letters."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeAlias

from cdc_tracker.model import Change, Lsn, OpenTransaction, Position, Relation, Segment, Transaction

Wanted: TypeAlias = Callable[[Relation], tuple[tuple[str, ...], tuple[str, ...]] | None]
"""(columns wanted of new rows, of old rows) of a relation; None if none of its changes is wanted."""

HEADER = struct.Struct(">IQ")
"""Of a frame in a segment: the payload's length, the frame's start LSN."""


def walk(frames: bytes) -> Iterator[tuple[Lsn, int, int]]:
    """(start LSN, payload's start, payload's end) of each frame of a segment."""
    at, end = 0, len(frames)
    while at < end:
        size, lsn = HEADER.unpack_from(frames, at)
        at += 12
        yield lsn, at, at + size
        at += size


class IncompleteRow(Exception):
    """A wanted cell was left out, or has no text. The decoder then reads the row with functions for incomplete rows."""


class Decoder(Protocol):
    """Segments of one plugin's frames → Changes with the columns wanted."""

    def changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        """The segment's changes past `after`, in order. Raises ValueError if a frame is not the plugin's."""


def past(start: OpenTransaction, lsn: Lsn, changes: int = 1) -> OpenTransaction:
    """The transaction's place after `changes` more changes at `lsn`."""
    index = start.index + changes if lsn == start.lsn else changes - 1
    return OpenTransaction(start.transaction, start.ordinal + changes, lsn, index)


NOWHERE = OpenTransaction(Transaction(0, 0, 0), 0, 0, 0)
"""The place of a segment that begins with a transaction."""


def opened(start: OpenTransaction | None) -> tuple[Transaction, int, int, int]:
    """(transaction, next ordinal, last LSN, its index) at a segment's start."""
    start = start or NOWHERE
    return start.transaction, start.ordinal, start.lsn, start.index


class Step(NamedTuple):
    """A frame with changes: the position before it, its LSN and payload, and the relations that it needs."""

    place: OpenTransaction
    lsn: Lsn
    payload: bytes
    relations: list[bytes]
    changes: int = 1


Steps: TypeAlias = Callable[[Segment], Iterator[Step]]


def end_of(steps: Steps, segment: Segment) -> OpenTransaction:
    """The segment's end, as a place within its last transaction."""
    place = segment.open or NOWHERE
    for step in steps(segment):
        place = past(step.place, step.lsn, step.changes)
    return place


def excerpts(steps: Steps, segment: Segment, positions: set[Position]) -> dict[Position, Segment]:
    """For each position, a segment of that change's frame alone, as a dead letter stores it."""
    found = {}
    for step in steps(segment):
        transaction, ordinal = step.place.transaction, step.place.ordinal
        changes = [Position(transaction.commit_lsn, ordinal + offset) for offset in range(step.changes)]
        found.update({each: _single(segment.plugin, step, changes) for each in changes if each in positions})
    return found


def _single(plugin: str, step: Step, changes: list[Position]) -> Segment:
    return Segment(
        plugin=plugin,
        frames=HEADER.pack(len(step.payload), step.lsn) + step.payload,
        count=1,
        changes=len(changes),
        first=changes[0],
        last=changes[-1],
        first_time=step.place.transaction.committed_at,
        last_time=step.place.transaction.committed_at,
        relations=tuple(step.relations),
        open=step.place,
    )
