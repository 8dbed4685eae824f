"""Frames → segments. It parses only what positions need of a frame, so that capturing stays cheap."""

from __future__ import annotations

import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TypeAlias

from cdc_tracker.errors import Stop
from cdc_tracker.model import Lsn, OpenTransaction, Position, Segment, Transaction, format_lsn
from cdc_tracker.refusals import NEW_EPOCH, Refusal

Frame: TypeAlias = memoryview
"""A CopyData message of kind `w`: kind (1), start LSN (8), end LSN (8), server time (8), payload from byte 25."""

PAYLOAD = 25
MESSAGE_PREFIX = b"cdc_tracker"  # prefix of logical messages that are events
WATERMARK = b"cdc_tracker.watermark"  # prefix of those that mark where the reading of a chunk began and ended
OUR_PREFIXES = (MESSAGE_PREFIX, WATERMARK)
MAX_FRAMES = 2000
MAX_BYTES = 1 << 20

_START = struct.Struct(">xQ")


def _other_history(expected: Transaction, found: str) -> Stop:
    return Refusal.OTHER_HISTORY.error(
        f"the journal's last transaction is {_named(expected)}, but {found}: the server was restored to an earlier state, for "
        "example from a copy of its disk, and has written since",
        hint="events of changes after that state were delivered although the database has lost them; what it has written "
        f"instead, up to the journal's end, was not read. {NEW_EPOCH}",
    )


def _named(transaction: Transaction) -> str:
    return f"{transaction.xid}, committed at {format_lsn(transaction.commit_lsn)} ({transaction.timestamp})"


class SegmentBuilder(ABC):
    """Collects frames and closes them into a Segment. A plugin's subclass parses the frames, in `add`.

    `seen` is the position up to which everything that the server sent was added or needed no storing. Changes at or before
    `after`, the journal's end, are left out.

    `left_off` says how far the journal is within the transaction that contains `after`. Of that transaction, the first change
    stored is the first one past `left_off` by (lsn, index); it takes the next ordinal. Ordinals cannot be compared instead: the
    tables captured may have changed since. Without `left_off` (the journal was lost) ordinals are compared.
    """

    plugin: str

    expected: Transaction | None = None
    """The journal's last transaction, if the server must send it again before any later one. Else its history is another."""

    def __init__(self, after: Position, left_off: OpenTransaction | None = None, *, max_row: int = sys.maxsize) -> None:
        """`max_row`: the most bytes of a change's frame. A longer one loses its largest values, which the decoder reports."""
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
        self._begin: bytes | None = None  # stored with the transaction's first change
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
        """Whether a transaction has begun and not ended."""
        return self._transaction is not None

    @property
    def commit_lsn(self) -> Lsn:
        """The commit LSN of the transaction being received; 0 between transactions."""
        return self._transaction.commit_lsn if self._transaction else 0

    @property
    def full(self) -> bool:
        """Whether the segment should be closed now."""
        return self.count >= MAX_FRAMES or self.size >= MAX_BYTES

    @abstractmethod
    def add(self, frame: Frame) -> None:
        """Adds one frame. The memory that it refers to must stay valid until `close`."""

    @abstractmethod
    def _shortened(self, payload: Frame) -> bytes:
        """The payload of a change without its largest values, at most `max_row` bytes long."""

    def _largest(self, cells: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
        """The cells, of (bytes, place), to leave out of a payload of `size` bytes; always the same for the same payload."""
        found = []
        for cell in sorted(cells, reverse=True):
            if size <= self._max_row:
                break
            found.append(cell)
            size -= cell[0]
        return found

    def idle_until(self, wal_end: Lsn) -> None:
        """Takes a keepalive's WAL end into `seen`, between transactions only: within one, it may be past what was sent.

        Raises SourceRestored if the server has passed the `expected` transaction without sending it.
        """
        if self._transaction is None and self.expected is not None and wal_end > self.expected.commit_lsn:
            raise _other_history(self.expected, f"the server has sent everything up to {format_lsn(wal_end)} without it")
        if self._transaction is None and not self.count and wal_end > self.seen.commit_lsn:
            self.seen = Position(wal_end, -1)

    def close(self) -> Segment | None:
        """The segment of all frames added since the last `close`; None if there are none."""
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
        """The commit is not stored: `seen`, which becomes the segment's `last`, says that the transaction is complete."""
        self._transaction = self._begin = None
        if end_lsn > self.seen.commit_lsn:
            self.seen = Position(end_lsn, -1)

    def _change(self, frame: Frame, changes: int = 1, *, place: int = 0) -> bool:
        """Counts the frame's changes and stores the frame unless the journal has it. Returns whether it was stored.

        Changes of one statement that are stored together are all in the journal or none is, whichever tables are captured: those
        of one frame, and those of several frames, among which this one has the number `place`.
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
        """Whether the journal has these changes. If not, counting continues from where the journal left off."""
        left = self._left_off
        index = (self._index + changes) if lsn == self._lsn else changes - 1
        if left is None or left.transaction.commit_lsn != transaction.commit_lsn:
            journaled = Position(transaction.commit_lsn, self._ordinal + changes - 1) <= self._after
        else:
            first = index - changes + 1 - place  # a message's LSN is that of the next record, which may be another change
            journaled = lsn < left.lsn or (lsn == left.lsn and first <= left.index)
            if not journaled:
                self._ordinal, self._lsn, self._index = left.ordinal, left.lsn, left.index
                self._begin = None  # the journal has it, even if nothing of it is sent again
        if journaled:
            self._ordinal, self._lsn, self._index = self._ordinal + changes, lsn, index
        return journaled

    def _push(self, lsn: bytes | memoryview, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._parts += (size.to_bytes(4, "big"), lsn, payload)
        self.size += size + 12
        self.count += 1
