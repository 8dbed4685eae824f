"""Frames → segments: changes are counted, and descriptions of their tables are carried along."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import msgspec

from cdc_tracker.model import OpenTransaction, Position, parse_lsn
from cdc_tracker.sources.postgres.segments import OUR_PREFIXES, PAYLOAD, SegmentBuilder
from cdc_tracker.sources.postgres.segments import Frame as Message
from cdc_tracker.sources.postgres.wal2json.frames import (
    ACTION,
    BEGIN,
    COMMIT,
    FRAME,
    MESSAGE,
    TRUNCATE,
    Description,
    shortened,
    transaction_of,
)

_ROWS = frozenset(b"IUD")
_TABLE = re.compile(rb'"schema":("(?:[^"\\]|\\.)*"),"table":("(?:[^"\\]|\\.)*")')


class _Described(NamedTuple):
    payload: bytes
    truncates: bool


Describe: TypeAlias = Callable[[str, str], Description | None]
"""(schema, table) → its description; None if neither the table nor its root is to be captured."""


def options() -> dict[str, str]:
    """Options of START_REPLICATION. Without `add-tables`, whose fixed list would miss partitions attached later."""
    return {
        "format-version": "2",
        "include-lsn": "true",
        "include-xids": "true",
        "include-timestamp": "true",
        "include-types": "false",
        "include-type-oids": "true",
        "add-msg-prefixes": b",".join(OUR_PREFIXES).decode(),
    }


class Builder(SegmentBuilder):
    """Leaves out, before counting, the changes that pgoutput would not send.

    These are rows of tables that `describe` does not know; truncates of a single partition, as the root has its own; and
    truncates of a table without a replica identity, which would be published with inserts only. Updates and deletes of such a
    table wal2json itself leaves out.
    """

    plugin = "wal2json"

    def __init__(
        self, after: Position, describe: Describe, left_off: OpenTransaction | None = None, *, max_row: int = sys.maxsize
    ) -> None:
        super().__init__(after, left_off, max_row=max_row)
        self._describe = describe
        self._truncates: list[bytes] = []  # one frame for each table of the statement so far
        self._described: dict[bytes, _Described | None] = {}  # by schema and table as written in a frame

    def forget(self) -> None:
        """Makes each table's next row ask the catalog again: partitions are added and dropped."""
        self._described.clear()

    def _reset(self) -> None:
        super()._reset()
        self._carried: set[bytes] = set()

    def add(self, frame: Message) -> None:
        """Adds one frame; see SegmentBuilder. Raises ValueError for a frame that is not wal2json's."""
        if self._truncates and frame[1:9] != self._truncates[0][1:9]:
            self._end_truncates()
        action = frame[PAYLOAD + ACTION]
        if action in _ROWS:
            self._row(frame)
        elif action == BEGIN:
            payload = bytes(frame[PAYLOAD:])
            self._begin_transaction(transaction_of(FRAME.decode(payload)), payload)
        elif action == COMMIT:
            self._end_transaction(parse_lsn(str(FRAME.decode(frame[PAYLOAD:]).nextlsn)))
        elif action == MESSAGE:
            if self._transaction is not None:
                self._change(frame)
        elif action == TRUNCATE:
            self._truncates.append(bytes(frame))
        else:
            raise ValueError(f"unknown wal2json action: {bytes(frame[PAYLOAD : PAYLOAD + 60])!r}")

    def _end_truncates(self) -> None:
        """Adds the truncates of one statement to one segment: their frames do not differ from those of rows that share an LSN."""
        frames, self._truncates = self._truncates, []
        place = 0
        for frame in frames:
            place += self._row(memoryview(frame), place)

    def _shortened(self, payload: Message) -> bytes:
        return shortened(payload, self._largest)

    def _row(self, frame: Message, place: int | None = None) -> bool:
        """Returns whether the frame was counted. `place`: a truncate's number among those of its statement."""
        named = _TABLE.search(frame, PAYLOAD)
        if named is None:
            raise ValueError(f"a wal2json frame without a table: {bytes(frame[PAYLOAD : PAYLOAD + 60])!r}")
        name = named[0]
        described = self._described[name] if name in self._described else self._ask(name, named[1], named[2])
        if described is None or (place is not None and not described.truncates):
            return False
        if self._change(frame, place=place or 0) and described.payload not in self._carried:
            self._carried.add(described.payload)
            self._relations.append(described.payload)
        return True

    def _ask(self, name: bytes, schema: bytes, table: bytes) -> _Described | None:
        found = self._describe(msgspec.json.decode(schema, type=str), msgspec.json.decode(table, type=str))
        described = None if found is None else _Described(msgspec.json.encode(found), found.truncates)
        self._described[name] = described
        return described
