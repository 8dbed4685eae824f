"""Frames → segments. Knows of a frame only what positions need, so that capturing stays cheap."""

from __future__ import annotations

import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias

from cdc_tracker.errors import Stop
from cdc_tracker.model import Change, Lsn, OpenTransaction, Position, Relation, Segment, Transaction, format_lsn
from cdc_tracker.refusals import NEW_EPOCH, Refusal

Frame: TypeAlias = memoryview
"""A CopyData message of kind `w`: kind (1), start LSN (8), end LSN (8), server time (8), payload from byte 25."""

Wanted: TypeAlias = Callable[[Relation], tuple[tuple[str, ...], tuple[str, ...]] | None]
"""The columns wanted of new and of old rows of a relation; None: none of its changes."""

PAYLOAD = 25
MESSAGE_PREFIX = b"cdc_tracker"  # of the logical messages that are events
WATERMARK = b"cdc_tracker.watermark"  # of those that mark where a table's reading began and ended
OUR_PREFIXES = (MESSAGE_PREFIX, WATERMARK)
MAX_FRAMES = 2000
MAX_BYTES = 1 << 20

_HEADER = struct.Struct(">IQ")
_START = struct.Struct(">xQ")


def _other_history(expected: Transaction, found: str) -> Stop:
    return Refusal.OTHER_HISTORY.error(
        f"the journal's last transaction is {_named(expected)}, and {found}: it was taken back to an earlier state, by a copy of "
        "its disk for example, and has written since",
        hint="events of changes after that state were delivered although the database has lost them; what it has written "
        f"instead, up to where the journal ends, was not read. {NEW_EPOCH}",
    )


def _named(transaction: Transaction) -> str:
    return f"{transaction.xid}, committed at {format_lsn(transaction.commit_lsn)} ({transaction.timestamp})"


def walk(frames: bytes) -> Iterator[tuple[Lsn, int, int]]:
    """(start LSN, payload's start, payload's end) of each frame of a segment."""
    at, end = 0, len(frames)
    while at < end:
        size, lsn = _HEADER.unpack_from(frames, at)
        at += 12
        yield lsn, at, at + size
        at += size


class Decoder(Protocol):
    """Segments of one plugin's frames → Changes with the columns wanted."""

    def changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        """The segment's changes past `after`, in order. Raises ValueError where a frame is not the plugin's."""


class SegmentBuilder(ABC):
    """Gathers frames and closes them into a Segment. A plugin's subclass says what a frame is, by `add`.

    `seen` is the position up to which everything the server sent has been added here or needed no storing. Frames at or before
    `after` (what the journal already has) are left out.

    `left_off` says how far the journal is within the transaction that `after` lies in. That transaction goes on with the first
    change whose (lsn, index) is past that, under the next ordinal: what is captured may be another set of tables than before, so
    that ordinals counted now say nothing of those counted then. Without it (the journal was lost) ordinals are all there is.
    """

    plugin: str

    expected: Transaction | None = None
    """The journal's last one, where the server has to send it again, and before any later one. Else it has another history."""

    def __init__(self, after: Position, left_off: OpenTransaction | None = None, *, max_row: int = sys.maxsize) -> None:
        """`max_row`: bytes of a change's frame. Of a longer one the largest values are left out, and the decoder says so."""
        self.seen = after
        self.count = 0
        self.size = 0
        self._after = after
        self._left_off = left_off
        self._max_row = max_row
        self._parts: list[bytes | memoryview] = []
        self._relations: list[bytes] = []
        self._changes = 0
        self._transaction: Transaction | None = None
        self._begin: bytes | None = None  # kept back until the transaction turns out to have a change
        self._ordinal = 0  # of the next change
        self._lsn, self._index = 0, 0  # of the last change
        self._skip = False
        self._reset()

    def _reset(self) -> None:
        self._parts, self._relations = [], []
        self.count = self.size = self._changes = 0
        self._first: Position | None = None
        self._first_time = self._last_time = 0
        self._open: OpenTransaction | None = None

    @property
    def in_transaction(self) -> bool:
        return self._transaction is not None

    @property
    def commit_lsn(self) -> Lsn:
        """Of the transaction that is being received; 0 between two."""
        return self._transaction.commit_lsn if self._transaction else 0

    @property
    def full(self) -> bool:
        return self.count >= MAX_FRAMES or self.size >= MAX_BYTES

    @abstractmethod
    def add(self, frame: Frame) -> None:
        """Take one frame. The memory it points to must stay valid until `close`."""

    @abstractmethod
    def _shortened(self, payload: Frame) -> bytes:
        """The payload of a change without the largest of its values, so that it has no more than `max_row` bytes."""

    def _largest(self, cells: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
        """Of the cells (bytes, place) of a payload of `size` bytes those that have to go: always the same ones."""
        found = []
        for cell in sorted(cells, reverse=True):
            if size <= self._max_row:
                break
            found.append(cell)
            size -= cell[0]
        return found

    def idle_until(self, wal_end: Lsn) -> None:
        """A keepalive's WAL end. Counts only between transactions: within one, the server may report past what it has sent."""
        if self._transaction is None and self.expected is not None and wal_end > self.expected.commit_lsn:
            raise _other_history(self.expected, f"the server, which has sent everything up to {format_lsn(wal_end)}, has it not")
        if self._transaction is None and not self.count and wal_end > self.seen.commit_lsn:
            self.seen = Position(wal_end, -1)

    def close(self) -> Segment | None:
        """The segment of all frames added since the last close; None where there are none."""
        if not self.count or self._first is None:
            return None
        segment = Segment(
            plugin=self.plugin,
            frames=b"".join(self._parts),
            count=self.count,
            changes=self._changes,
            first=self._first,
            last=self.seen,
            first_time=self._first_time,
            last_time=self._last_time,
            relations=tuple(self._relations),
            open=self._open,
        )
        self._reset()
        return segment

    def _begin_transaction(self, transaction: Transaction, payload: bytes) -> None:
        if self.expected is not None:
            self._compare(self.expected, transaction)
        self._transaction = transaction
        self._begin = payload
        self._ordinal = self._lsn = self._index = 0
        self._skip = transaction.commit_lsn <= self._after.commit_lsn

    def _compare(self, expected: Transaction, found: Transaction) -> None:
        if found == expected:
            self.expected = None
        elif found.commit_lsn >= expected.commit_lsn:
            raise _other_history(expected, f"the server sends {_named(found)} instead")

    def _end_transaction(self, end_lsn: Lsn) -> None:
        """The commit itself is not stored: `seen`, and with it the segment's `last`, says that the transaction is complete."""
        self._transaction = self._begin = None
        if end_lsn > self.seen.commit_lsn:
            self.seen = Position(end_lsn, -1)

    def _change(self, frame: Frame, changes: int = 1, *, place: int = 0) -> bool:
        """Count the frame's changes; store it, unless the journal has it. True where it was stored.

        Changes that come of one statement and are stored together are in the journal together or not at all, whichever tables are
        captured: those of one frame, and those of several, among which this one has the `place`.
        """
        transaction = self._transaction
        if transaction is None:
            raise ValueError("a row change outside a transaction")  # the protocol rules it out
        (lsn,) = _START.unpack_from(frame)
        if self._skip:
            self._skip = self._journaled(transaction, lsn, changes, place)
            if self._skip:
                self._begin = None
                return False
        before, ordinal = (self._lsn, self._index), self._ordinal
        self._index = (self._index + changes) if lsn == self._lsn else changes - 1
        self._lsn = lsn
        self._ordinal = ordinal + changes
        position = Position(transaction.commit_lsn, self._ordinal - 1)
        if self._first is None:
            self._first = Position(transaction.commit_lsn, ordinal)
            self._first_time = self._last_time = transaction.committed_at
            if self._begin is None:
                self._open = OpenTransaction(transaction, ordinal, *before)
        if self._begin is not None:
            self._push(frame[1:9], self._begin)
            self._begin = None
        payload = frame[PAYLOAD:]
        self._push(frame[1:9], payload if len(payload) <= self._max_row else self._shortened(payload))
        self._changes += changes
        if transaction.committed_at > self._last_time:  # commits are not quite in the order of their times
            self._last_time = transaction.committed_at
        elif transaction.committed_at < self._first_time:
            self._first_time = transaction.committed_at
        self.seen = position
        return True

    def _journaled(self, transaction: Transaction, lsn: Lsn, changes: int, place: int) -> bool:
        """Whether the journal has these changes. Where it has not, the transaction goes on from where the journal left off."""
        left = self._left_off
        index = (self._index + changes) if lsn == self._lsn else changes - 1
        if left is None or left.transaction.commit_lsn != transaction.commit_lsn:
            journaled = Position(transaction.commit_lsn, self._ordinal + changes - 1) <= self._after
        else:
            first = index - changes + 1 - place  # a message's LSN is that of what comes next: it may be another change's, too
            journaled = lsn < left.lsn or (lsn == left.lsn and first <= left.index)
            if not journaled:
                self._ordinal, self._lsn, self._index = left.ordinal, left.lsn, left.index
                self._begin = None  # the journal has it, also where nothing of it is sent again
        if journaled:
            self._ordinal, self._lsn, self._index = self._ordinal + changes, lsn, index
        return journaled

    def _push(self, lsn: bytes | memoryview, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._parts += (size.to_bytes(4, "big"), lsn, payload)
        self.size += size + 12
        self.count += 1


def past(start: OpenTransaction, lsn: Lsn, changes: int = 1) -> OpenTransaction:
    """Where the transaction stands after so many changes at this LSN."""
    index = start.index + changes if lsn == start.lsn else changes - 1
    return OpenTransaction(start.transaction, start.ordinal + changes, lsn, index)


NOWHERE = OpenTransaction(Transaction(0, 0, 0), 0, 0, 0)
"""Where a segment stands that begins with a transaction."""


def opened(start: OpenTransaction | None) -> tuple[Transaction, int, int, int]:
    """(transaction, next ordinal, last lsn, its index) at a segment's start."""
    start = start or NOWHERE
    return start.transaction, start.ordinal, start.lsn, start.index


def single(segment: Segment, lsn: Lsn, payload: bytes, start: OpenTransaction, changes: int, relations: list[bytes]) -> Segment:
    """A segment of one frame of `segment`: what a dead letter keeps."""
    transaction = start.transaction
    return Segment(
        plugin=segment.plugin,
        frames=_HEADER.pack(len(payload), lsn) + payload,
        count=1,
        changes=changes,
        first=Position(transaction.commit_lsn, start.ordinal),
        last=Position(transaction.commit_lsn, start.ordinal + changes - 1),
        first_time=transaction.committed_at,
        last_time=transaction.committed_at,
        relations=tuple(relations),
        open=start,
    )
