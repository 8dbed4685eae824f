"""The messages' kinds and what stands in them, cell by cell."""

from __future__ import annotations

import struct
from codecs import BOM_UTF8

from cdc_tracker.model import UNCHANGED, Column, Missing, Relation, Text, Transaction
from cdc_tracker.sources.postgres.segments import OUR_PREFIXES

POSTGRES_EPOCH = 946_684_800_000_000  # 2000-01-01 in microseconds since the Unix epoch

BEGIN, COMMIT, ORIGIN, RELATION, TYPE = b"BCORY"
INSERT, UPDATE, DELETE, TRUNCATE, MESSAGE = b"IUDTM"
KEY, OLD, NULL, UNCHANGED_MARK, TEXT = b"KOnut"
LEFT_OUT = ord("x")  # our own kind of cell: capture found the row too large

ROWS = frozenset((INSERT, UPDATE, DELETE))
BEGIN_BODY = struct.Struct(">xQQI")
COMMIT_BODY = struct.Struct(">xxQQ")
UINT = struct.Struct(">I")
SHORT = struct.Struct(">H")
CELL = struct.Struct(">BI")
MISSING: dict[int, Text] = {NULL: None, UNCHANGED_MARK: UNCHANGED, LEFT_OUT: Missing.TOO_LARGE}
OURS = tuple(prefix + b"\0" for prefix in OUR_PREFIXES)
PAD = bytes(CELL.size)  # a cell's header is read whole, also where the last cell of a segment is one byte


class Gap(Exception):
    """A cell that is wanted was left out."""


def transaction_of(payload: bytes, at: int) -> Transaction:
    commit_lsn, time, xid = BEGIN_BODY.unpack_from(payload, at)
    return Transaction(xid, commit_lsn, time + POSTGRES_EPOCH)


def truncated(payload: bytes, at: int) -> list[bytes]:
    """Relation oids, as four bytes each, of a truncate."""
    (count,) = UINT.unpack_from(payload, at + 1)
    return [payload[place : place + 4] for place in range(at + 6, at + 6 + 4 * count, 4)]


def parse_relation(payload: bytes) -> Relation:
    """A relation message. `pg_catalog` is sent as an empty schema."""
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
    """Of a SQL_ASCII database it may be no UTF-8. No mapping can name it then, and it must not hide the other columns."""
    return name.decode(errors="backslashreplace")


def content_of(sized: bytes) -> Text:
    """Of a logical message. It comes as UTF-8, was made so by capture, or nobody knows what it is."""
    (size,) = UINT.unpack_from(sized)
    if len(sized) - 4 < size:
        return Missing.TOO_LARGE
    return text_of(sized[4:].removeprefix(BOM_UTF8))


def text_of(value: bytes) -> Text:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return Missing.UNREADABLE


def cells_of(relation: Relation, frames: bytes, at: int) -> tuple[list[Text], int]:
    """All cells of a tuple whose first cell is at `at`, and its end; the count stands in the two bytes before it."""
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
                raise Gap
            cells.append(MISSING[kind])
    return cells, at
