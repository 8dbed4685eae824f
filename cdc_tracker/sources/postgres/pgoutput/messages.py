"""pgoutput's messages: their kinds, headers and cells."""

from __future__ import annotations

import struct
from codecs import BOM_UTF8

from cdc_tracker.model import UNCHANGED, Column, Missing, Relation, Text, Transaction
from cdc_tracker.sources.postgres.decoding import IncompleteRow
from cdc_tracker.sources.postgres.segments import OUR_PREFIXES

POSTGRES_EPOCH = 946_684_800_000_000  # 2000-01-01 in microseconds since the Unix epoch

BEGIN, COMMIT, RELATION = b"BCR"
INSERT, UPDATE, DELETE, TRUNCATE, MESSAGE = b"IUDTM"
KEY, OLD, NULL, UNCHANGED_MARK, TEXT = b"KOnut"
LEFT_OUT = ord("x")  # cdc-tracker's own kind of cell: left out by capture, as the row was too large

ROWS = frozenset((INSERT, UPDATE, DELETE))
BEGIN_BODY = struct.Struct(">xQQI")
COMMIT_BODY = struct.Struct(">xxQQ")
UINT = struct.Struct(">I")
SHORT = struct.Struct(">H")
CELL = struct.Struct(">BI")
MISSING: dict[int, Text] = {NULL: None, UNCHANGED_MARK: UNCHANGED, LEFT_OUT: Missing.TOO_LARGE}
OURS = tuple(prefix + b"\0" for prefix in OUR_PREFIXES)
PAD = bytes(CELL.size)  # appended, because a cell's header is read whole even if the last cell of a segment is one byte


def transaction_of(payload: bytes, at: int) -> Transaction:
    """The transaction of a begin message."""
    commit_lsn, time, xid = BEGIN_BODY.unpack_from(payload, at)
    return Transaction(xid, commit_lsn, time + POSTGRES_EPOCH)


def truncated(payload: bytes) -> list[bytes]:
    """The relation oids of a truncate message, four bytes each."""
    (count,) = UINT.unpack_from(payload, 1)
    return [payload[place : place + 4] for place in range(6, 6 + 4 * count, 4)]


def parse_relation(payload: bytes) -> Relation:
    """The Relation of a relation message. pgoutput sends `pg_catalog` as an empty schema."""
    schema, name, rest = payload[5:].split(b"\0", 2)
    (count,) = SHORT.unpack_from(rest, 1)
    columns, at = [], 3
    for _ in range(count):
        end = rest.index(b"\0", at + 1)
        (type_oid,) = UINT.unpack_from(rest, end + 1)
        columns.append(Column(_name(rest[at + 1 : end]), type_oid, bool(rest[at] & 1)))
        at = end + 9
    return Relation(_name(schema) or "pg_catalog", _name(name), tuple(columns), chr(rest[0]))


def _name(name: bytes) -> str:
    """A name as text. One that is not UTF-8 (SQL_ASCII) no mapping can name, but the other columns stay readable."""
    return name.decode(errors="backslashreplace")


def content_of(sized: bytes) -> Text:
    """The content of a logical message. It is UTF-8, or capture converted it, or its encoding is unknown (Missing.UNREADABLE)."""
    (size,) = UINT.unpack_from(sized)
    if len(sized) - 4 < size:
        return Missing.TOO_LARGE
    return text_of(sized[4:].removeprefix(BOM_UTF8))


def text_of(value: bytes) -> Text:
    """UTF-8 as text; Missing.UNREADABLE for anything else."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return Missing.UNREADABLE


def cells_of(relation: Relation, frames: bytes, at: int) -> tuple[list[Text], int]:
    """(all cells of a tuple, its end). `at`: the first cell, with the count of cells in the two bytes before it.

    Raises IncompleteRow or UnicodeDecodeError for a cell without text, unless the relation is an incomplete one.
    """
    (count,) = SHORT.unpack_from(frames, at - 2)
    cells: list[Text] = []
    for _ in range(count):
        kind, size = CELL.unpack_from(frames, at)
        if kind == TEXT:
            at += 5 + size
            text = frames[at - size : at]
            cells.append(text_of(text) if relation.incomplete else text.decode())
        else:
            at += 1
            if kind not in MISSING:
                raise ValueError(f"unknown kind of cell {chr(kind)!r}")
            if kind == LEFT_OUT and not relation.incomplete:
                raise IncompleteRow
            cells.append(MISSING[kind])
    return cells, at
