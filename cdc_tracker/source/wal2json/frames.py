"""What a frame holds, and the description of a table that a segment carries."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from cdc_tracker.model import EPOCH, Column, Relation, Transaction, parse_lsn

ACTION = len(b'{"action":"')
BEGIN, COMMIT, MESSAGE, TRUNCATE = b"BCMT"


class Description(msgspec.Struct, frozen=True):
    """What the catalog says of a table that wal2json named `schema.table`: the relation is its root where it is a partition."""

    schema: str
    table: str
    root_schema: str
    root_table: str
    identity: str
    columns: tuple[tuple[str, int, bool], ...]  # name, type oid, part of the key

    @property
    def truncates(self) -> bool:
        """A publication of this table, or of its root, has its truncates."""
        return self.identity != "n" and (self.schema, self.table) == (self.root_schema, self.root_table)

    def relation(self) -> Relation:
        return Relation(self.root_schema, self.root_table, tuple(Column(*column) for column in self.columns), self.identity)


class Cell(msgspec.Struct, frozen=True, gc=False):
    name: str
    typeoid: int
    value: Any


class Frame(msgspec.Struct, frozen=True, gc=False):
    action: str
    xid: int | None = None
    timestamp: str | None = None
    lsn: str = ""
    nextlsn: str = ""
    schema: str = ""
    table: str = ""
    columns: list[Cell] = []
    identity: list[Cell] = []
    prefix: str = ""
    content: str = ""


FRAME = msgspec.json.Decoder(Frame, float_hook=str)  # a number with a fraction stays the text that the server wrote


class _OddCell(msgspec.Struct, frozen=True, gc=False):
    name: str
    typeoid: int
    value: msgspec.Raw


class _OddFrame(Frame, frozen=True, gc=False):
    columns: list[_OddCell] = []  # type: ignore[assignment]  # the same cells, with their values as they were written
    identity: list[_OddCell] = []  # type: ignore[assignment]


_ODD_FRAME = msgspec.json.Decoder(_OddFrame)
MINUS_ZERO = b'"value":-0}'  # of a float: as an int it would lose its sign


def odd(payload: bytes) -> Frame:
    """A frame that the plain decoder takes not at all or wrongly: -0, a very long integer, a message that is not UTF-8."""
    if payload[ACTION] == MESSAGE:
        payload = payload.decode(errors="replace").encode()
    frame = _ODD_FRAME.decode(payload)
    columns, identity = ([_written(cell) for cell in cells] for cells in (frame.columns, frame.identity))
    return msgspec.structs.replace(frame, columns=columns, identity=identity)


def _written(cell: _OddCell) -> Cell:
    text = bytes(cell.value)
    return Cell(cell.name, cell.typeoid, text.decode() if text[:1] in b"-0123456789" else msgspec.json.decode(text))


def transaction_of(frame: Frame) -> Transaction:
    moment = datetime.fromisoformat(frame.timestamp or "")
    if moment.tzinfo is None:
        raise ValueError(f"a commit time without its zone: {frame.timestamp}")
    microseconds = (moment - EPOCH) // _MICROSECOND
    return Transaction(frame.xid or 0, parse_lsn(frame.lsn), microseconds)


_MICROSECOND = datetime.resolution
