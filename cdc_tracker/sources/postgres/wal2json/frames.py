"""wal2json's frames, and the description of a table that a segment carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from cdc_tracker.model import Column, Missing, Relation, Transaction, parse_lsn
from cdc_tracker.times import to_micros

Raw: TypeAlias = bytes | memoryview
ACTION = len(b'{"action":"')
BEGIN, COMMIT, MESSAGE, TRUNCATE = b"BCMT"


class Description(msgspec.Struct, frozen=True):
    """A table that wal2json names `schema.table`, as the catalog has it. Root and columns of a partition are its root's."""

    schema: str
    table: str
    root_schema: str
    root_table: str
    identity: str
    columns: tuple[tuple[str, int, bool], ...]  # name, type oid, part of the key
    never_null: tuple[str, ...] = ()  # NOT NULL numbers: a null of theirs is NaN or an infinity

    @property
    def truncates(self) -> bool:
        """Whether a publication of this table, or of its root, would include its truncates."""
        return self.identity != "n" and (self.schema, self.table) == (self.root_schema, self.root_table)

    def relation(self) -> Relation:
        """The root as a Relation."""
        return Relation(self.root_schema, self.root_table, tuple(Column(*column) for column in self.columns), self.identity)


class Cell(msgspec.Struct, frozen=True, gc=False):
    """One column of a row; `value` as JSON has it."""

    name: str
    typeoid: int
    value: Any


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One JSON object of wal2json. `columns` is the new row, `identity` the old one."""

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
    content: str | dict[str, str] = ""


FRAME = msgspec.json.Decoder(Frame, float_hook=str)  # a number with a fraction stays as the server wrote it


class _OddCell(msgspec.Struct, frozen=True, gc=False):
    name: str
    typeoid: int
    value: msgspec.Raw


class _OddFrame(Frame, frozen=True, gc=False, omit_defaults=True):
    columns: list[_OddCell] = []  # type: ignore[assignment]  # the same cells, with their values unparsed
    identity: list[_OddCell] = []  # type: ignore[assignment]


_ODD_FRAME = msgspec.json.Decoder(_OddFrame)
MINUS_ZERO = b'"value":-0}'  # of a float: as an int it would lose its sign


def odd(payload: bytes) -> Frame:
    """A frame that FRAME cannot decode or decodes wrongly: -0, a very long integer, a message that is not UTF-8.

    Raises ValueError for any other malformed frame.
    """
    try:
        frame = _ODD_FRAME.decode(payload)
    except ValueError:
        if payload[ACTION] != MESSAGE or _is_utf8(payload):
            raise
        frame = _ODD_FRAME.decode(payload.decode("latin-1").encode())
        return msgspec.structs.replace(frame, content=gap(Missing.UNREADABLE))
    columns, identity = ([_written(cell) for cell in cells] for cells in (frame.columns, frame.identity))
    return msgspec.structs.replace(frame, columns=columns, identity=identity)


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def gap(missing: Missing) -> dict[str, str]:
    """The value of a cell, or content of a message, that is missing: an object, which wal2json never writes."""
    return {"missing": missing.name}


def shortened(payload: Raw, largest: Callable[[Iterable[tuple[int, int]], int], list[tuple[int, int]]]) -> bytes:
    """The frame without the values that `largest` chooses from (bytes, place) pairs, or without the message's content."""
    frame = _ODD_FRAME.decode(payload)
    if frame.action == "M":
        return msgspec.json.encode(msgspec.structs.replace(frame, content=gap(Missing.TOO_LARGE)))
    cells = [*frame.columns, *frame.identity]
    left_out = {place for _, place in largest([(len(cell.value), at) for at, cell in enumerate(cells)], len(payload))}
    kept = [msgspec.structs.replace(cell, value=_TOO_LARGE) if at in left_out else cell for at, cell in enumerate(cells)]
    count = len(frame.columns)
    return msgspec.json.encode(msgspec.structs.replace(frame, columns=kept[:count], identity=kept[count:]))


_TOO_LARGE = msgspec.Raw(msgspec.json.encode(gap(Missing.TOO_LARGE)))


def _written(cell: _OddCell) -> Cell:
    text = bytes(cell.value)
    return Cell(cell.name, cell.typeoid, text.decode() if text[:1] in b"-0123456789" else msgspec.json.decode(text))


def transaction_of(frame: Frame) -> Transaction:
    """The transaction of a begin frame. Raises ValueError for a commit time without a zone."""
    moment = datetime.fromisoformat(frame.timestamp or "")
    if moment.tzinfo is None:
        raise ValueError(f"a commit time without its zone: {frame.timestamp}")
    return Transaction(frame.xid or 0, parse_lsn(frame.lsn), to_micros(moment))
