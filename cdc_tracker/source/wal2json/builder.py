"""Frames → segments: what is counted, and the descriptions that its tables need."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import msgspec

from cdc_tracker.model import Position, parse_lsn
from cdc_tracker.source.segments import OUR_PREFIXES, PAYLOAD, SegmentBuilder
from cdc_tracker.source.segments import Frame as Message
from cdc_tracker.source.wal2json.frames import ACTION, BEGIN, COMMIT, FRAME, MESSAGE, Description, transaction_of

_TABLE = re.compile(rb'"schema":("(?:[^"\\]|\\.)*"),"table":("(?:[^"\\]|\\.)*")')


class _Described(NamedTuple):
    payload: bytes
    published: frozenset[int]


Describe: TypeAlias = Callable[[str, str], Description | None]
"""(schema, table) → its description; None where the table, or its root, is not among those to capture."""


def options() -> dict[str, str]:
    """START_REPLICATION's options. Without `add-tables`: a fixed list would miss a partition attached later."""
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
    """Leaves out, before it is counted, what pgoutput would not send.

    That is the rows of tables that `describe` does not know, the truncate of a single partition (that of its root is one of the
    root's own), and all but inserts where nothing of an old row is logged: those tables are published with inserts only.
    """

    plugin = "wal2json"

    def __init__(self, after: Position, describe: Describe) -> None:
        super().__init__(after)
        self._describe = describe
        self._described: dict[tuple[bytes, bytes], _Described | None] = {}

    def forget(self) -> None:
        """Ask the catalog again at each table's next row: partitions come and go."""
        self._described.clear()

    def _reset(self) -> None:
        super()._reset()
        self._carried: set[bytes] = set()

    def add(self, frame: Message) -> None:
        payload = bytes(frame[PAYLOAD:])
        action = payload[ACTION]
        if action == BEGIN:
            self._begin_transaction(transaction_of(FRAME.decode(payload)), payload)
        elif action == COMMIT:
            self._end_transaction(parse_lsn(str(FRAME.decode(payload).nextlsn)))
        elif action == MESSAGE:
            if self._transaction is not None:
                self._change(frame)
        else:
            named = _TABLE.search(payload)
            if named is None:
                raise ValueError(f"a wal2json frame without a table: {payload[:60]!r}")
            described = self._description(named[1], named[2])
            if described is None or action not in described.published:
                return
            if self._change(frame) and described.payload not in self._carried:
                self._carried.add(described.payload)
                self._relations.append(described.payload)

    def _description(self, schema: bytes, table: bytes) -> _Described | None:
        key = (schema, table)
        if key not in self._described:
            found = self._describe(msgspec.json.decode(schema, type=str), msgspec.json.decode(table, type=str))
            self._described[key] = None if found is None else _Described(msgspec.json.encode(found), found.published())
        return self._described[key]
