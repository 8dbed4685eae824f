"""pgoutput's protocol version 1: frames → segments for capture, segments → Changes for delivery. Pure.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import struct
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from cdc_tracker.model import (
    UNCHANGED,
    UNLOGGED,
    Change,
    Column,
    Lsn,
    Missing,
    OpenTransaction,
    Position,
    Relation,
    Row,
    Segment,
    Text,
    Transaction,
)
from cdc_tracker.source.segments import NOWHERE, OUR_PREFIXES, PAYLOAD, Frame, SegmentBuilder, Wanted, opened, past, single, walk

POSTGRES_EPOCH = 946_684_800_000_000  # 2000-01-01 in microseconds since the Unix epoch

BEGIN, COMMIT, ORIGIN, RELATION, TYPE = b"BCORY"
INSERT, UPDATE, DELETE, TRUNCATE, MESSAGE = b"IUDTM"
KEY, OLD, NULL, UNCHANGED_MARK, TEXT = b"KOnut"
LEFT_OUT = ord("x")  # our own kind of cell: capture found the row too large

_ROWS = frozenset((INSERT, UPDATE, DELETE))
_BEGIN = struct.Struct(">xQQI")
_COMMIT = struct.Struct(">xxQQ")
_UINT = struct.Struct(">I")
_SHORT = struct.Struct(">H")
_CELL = struct.Struct(">BI")
_MISSING: dict[int, Text] = {NULL: None, UNCHANGED_MARK: UNCHANGED, LEFT_OUT: Missing.TOO_LARGE}
_OURS = tuple(prefix + b"\0" for prefix in OUR_PREFIXES)
_PAD = bytes(_CELL.size)  # a cell's header is read whole, also where the last cell of a segment is one byte


def options(publications: str) -> dict[str, str]:
    """START_REPLICATION's options. `publications` is a comma-separated list of quoted names."""
    return {"proto_version": "1", "publication_names": publications, "messages": "true"}


class Builder(SegmentBuilder):
    """Carries each relation that a segment's frames need, as it was described before them."""

    plugin = "pgoutput"

    def __init__(
        self,
        after: Position,
        left_off: OpenTransaction | None = None,
        *,
        max_row: int = sys.maxsize,
        to_utf8: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """`to_utf8` converts a logical message's content, which comes as the server stores it. None: the server has UTF8, or
        does not know either."""
        super().__init__(after, left_off, max_row=max_row)
        self._to_utf8 = to_utf8
        self._described: dict[bytes, bytes] = {}

    def _reset(self) -> None:
        super()._reset()
        self._carried: set[bytes] = set()

    def add(self, frame: Frame) -> None:
        kind = frame[PAYLOAD]
        if kind in _ROWS:
            if self._change(frame):
                relation = bytes(frame[PAYLOAD + 1 : PAYLOAD + 5])
                if relation not in self._carried:
                    self._carry(relation)
        elif kind == BEGIN:
            payload = bytes(frame[PAYLOAD:])
            self._begin_transaction(_transaction(payload, 0), payload)
        elif kind == COMMIT:
            self._end_transaction(_COMMIT.unpack_from(frame, PAYLOAD)[1])
        else:
            self._add_rare(kind, frame)

    def _add_rare(self, kind: int, frame: Frame) -> None:
        if kind == MESSAGE and not (frame[PAYLOAD + 1] & 1 and bytes(frame[PAYLOAD + 10 : PAYLOAD + 50]).startswith(_OURS)):
            return
        payload = bytes(frame[PAYLOAD:])
        if kind == RELATION:
            relation = payload[1:5]
            known = self._described.get(relation)
            self._described[relation] = payload
            if relation in self._carried and payload != known:  # changed within this segment: it goes among the frames
                self._push(frame[1:9], payload)
        elif kind == TRUNCATE:
            relations = _truncated(payload, 0)
            if self._change(frame, len(relations)):
                for relation in relations:
                    self._carry(relation)
        elif kind == MESSAGE:
            self._change(memoryview(bytes(frame[:PAYLOAD]) + self._in_utf8(payload)) if self._to_utf8 else frame)

    def _in_utf8(self, payload: bytes) -> bytes:
        at = payload.index(b"\0", 10) + 5
        content = payload[at:]
        if self._to_utf8 is None or content.isascii() or content.startswith(BOM_UTF8):
            return payload
        content = self._to_utf8(content)
        return payload[: at - 4] + _UINT.pack(len(content)) + content

    def _shortened(self, payload: Frame) -> bytes:
        """A row without the largest of its values, a message without its content."""
        if payload[0] == MESSAGE:  # its length stays, which tells
            return bytes(payload[: bytes(payload[:200]).index(b"\0", 10) + 5])
        cells, at = [], 5
        while at < len(payload):
            (count,) = _SHORT.unpack_from(payload, at + 1)
            at += 3
            for _ in range(count):
                size = 4 + _UINT.unpack_from(payload, at + 1)[0] if payload[at] == TEXT else 0
                cells.append((size, at))
                at += 1 + size
        left_out = self._largest(cells, len(payload))
        parts: list[Frame | bytes] = []
        done = 0
        for size, at in sorted(left_out, key=itemgetter(1)):
            parts += (payload[done:at], bytes([LEFT_OUT]))
            done = at + 1 + size
        return b"".join([*parts, payload[done:]])

    def _carry(self, relation: bytes) -> None:
        if relation not in self._carried:
            self._carried.add(relation)
            self._relations.append(self._described[relation])


class _Gap(Exception):
    """A cell that is wanted was left out."""


class _Table(NamedTuple):
    """A relation as it was described, with the functions made for the columns wanted of it.

    They raise UnicodeDecodeError or _Gap for a row that is not complete; those of an incomplete relation do not.
    """

    relation: Relation
    wanted: tuple[tuple[str, ...], tuple[str, ...]] | None
    inserted: Callable[[bytes, int, int], Row]
    new: Callable[[bytes, int, int], Row | None]  # None: where a cell is UNCHANGED
    old: Callable[[bytes, int], tuple[Row | None, int]]
    old_indexes: tuple[int | None, ...]
    described: bytes


class Decoder:
    """Segments of pgoutput frames → Changes with the columns wanted. Keeps what it made for each relation description."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._known: dict[tuple[bytes, bool], _Table] = {}

    def changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        """The segment's changes past `after`, in order. Raises ValueError where a frame is not pgoutput's."""
        try:
            frames = segment.frames + _PAD
            tables = {payload[1:5]: self._table(payload) for payload in segment.relations}
            transaction, ordinal, last, index = opened(segment.open)
            commit_lsn = transaction.commit_lsn
            skipping = segment.first <= after
            new: Row | None
            old: Row | None
            for lsn, at, end in walk(segment.frames):
                kind = frames[at]
                if kind in _ROWS:
                    index = index + 1 if lsn == last else 0
                    last = lsn
                    table = tables[frames[at + 1 : at + 5]]
                    position = Position(commit_lsn, ordinal)
                    ordinal += 1
                    if table.wanted is None or (skipping and position <= after):
                        continue
                    try:
                        if kind == INSERT:
                            op, new, old = "c", table.inserted(frames, at + 8, end), None
                        else:
                            op, new, old = self._rows(table, kind, frames, at, end)
                    except (UnicodeDecodeError, _Gap):
                        table = self._table(table.described, incomplete=True)
                        op, new, old = self._rows(table, kind, frames, at, end)
                    yield Change(op, table.relation, new, old, position, lsn, index, transaction)
                elif kind == BEGIN:
                    transaction = _transaction(frames, at)
                    commit_lsn, ordinal, last, index = transaction.commit_lsn, 0, 0, 0
                elif kind == RELATION:
                    payload = frames[at:end]
                    tables[payload[1:5]] = self._table(payload)
                else:
                    for change in self._rare(
                        kind, frames[at:end], tables, lsn, ordinal, index + 1 if lsn == last else 0, transaction
                    ):
                        ordinal, last, index = change.position.ordinal + 1, lsn, change.index
                        if change.position > after and (change.relation is None or self._wants(tables, change.relation)):
                            yield change
        except (LookupError, OverflowError, struct.error) as error:
            raise ValueError(f"damaged pgoutput frames at {segment.first}: {error!r}") from error

    def _wants(self, tables: dict[bytes, _Table], relation: Relation) -> bool:
        return any(table.relation is relation and table.wanted is not None for table in tables.values())

    def _rare(
        self, kind: int, payload: bytes, tables: dict[bytes, _Table], lsn: int, ordinal: int, index: int, transaction: Transaction
    ) -> Iterator[Change]:
        if kind == TRUNCATE:
            for offset, relation in enumerate(_truncated(payload, 0)):
                position = Position(transaction.commit_lsn, ordinal + offset)
                yield Change("t", tables[relation].relation, None, None, position, lsn, index + offset, transaction)
        elif kind == MESSAGE:
            prefix, _, rest = payload[10:].partition(b"\0")
            content = _content(rest)
            position = Position(transaction.commit_lsn, ordinal)
            yield Change("m", None, None, None, position, lsn, index, transaction, prefix.decode(), content)
        else:
            raise ValueError(f"unknown pgoutput message {chr(kind)!r}")

    def _rows(self, table: _Table, kind: int, frames: bytes, at: int, end: int) -> tuple[str, Row | None, Row | None]:
        """(op, new, old)."""
        if kind == INSERT:
            return "c", table.inserted(frames, at + 8, end), None
        mark = frames[at + 5]
        old: Row | None = None
        old_at = at + 8
        if mark in (KEY, OLD):
            old, at_new = table.old(frames, old_at)
            if mark == KEY:
                old = _mask(table, old)
        else:
            at_new = at + 5
        if kind == DELETE:
            if old is None:
                raise ValueError("a delete without its old row")
            return "d", None, old
        new = table.new(frames, at_new + 3, end)
        if new is None:
            new = self._whole(table, frames, at_new + 3, old_at if mark in (KEY, OLD) else None)
        return "u", new, _key_of_new(table, frames, at_new + 3) if old is None else old

    def _whole(self, table: _Table, frames: bytes, at: int, old_at: int | None) -> Row:
        """A new row with UNCHANGED cells: those that the old row holds are filled from it."""
        cells, _ = _cells(table.relation, frames, at)
        before = _cells(table.relation, frames, old_at)[0] if old_at is not None else []
        full = table.relation.identity == "f"
        places = {column.name: place for place, column in enumerate(table.relation.columns)}
        wanted = table.wanted[0] if table.wanted else ()

        def cell(name: str) -> Text:
            place = places.get(name)
            if place is None:
                return None
            if cells[place] is UNCHANGED and before and (full or table.relation.columns[place].key):
                return before[place]
            return cells[place]

        return tuple(cell(name) for name in wanted)

    def _table(self, payload: bytes, *, incomplete: bool = False) -> _Table:
        table = self._known.get((payload, incomplete))
        if table is None:
            relation = replace(parse_relation(payload), incomplete=incomplete)
            wanted = self._wanted(relation)
            places = {column.name: place for place, column in enumerate(relation.columns)}
            new, old = wanted or ((), ())
            places_new, places_old = ([places.get(name) for name in names] for names in (new, old))
            make = _read if incomplete else _compile
            table = _Table(relation, wanted, *make(relation, places_new, places_old), tuple(places_old), payload)
            self._known[payload, incomplete] = table
        return table


def _transaction(payload: bytes, at: int) -> Transaction:
    commit_lsn, time, xid = _BEGIN.unpack_from(payload, at)
    return Transaction(xid, commit_lsn, time + POSTGRES_EPOCH)


def _truncated(payload: bytes, at: int) -> list[bytes]:
    """Relation oids, as four bytes each, of a truncate."""
    (count,) = _UINT.unpack_from(payload, at + 1)
    return [payload[place : place + 4] for place in range(at + 6, at + 6 + 4 * count, 4)]


def parse_relation(payload: bytes) -> Relation:
    """A relation message. `pg_catalog` is sent as an empty schema."""
    schema, name, rest = payload[5:].split(b"\0", 2)
    (count,) = _SHORT.unpack_from(rest, 1)
    columns, at = [], 3
    for _ in range(count):
        end = rest.index(b"\0", at + 1)
        (type_oid,) = _UINT.unpack_from(rest, end + 1)
        columns.append(Column(_name(rest[at + 1 : end]), type_oid, bool(rest[at] & 1)))
        at = end + 9
    return Relation(_name(schema) or "pg_catalog", _name(name), tuple(columns), chr(rest[0]))


def _name(name: bytes) -> str:
    """Of a SQL_ASCII database it may be no UTF-8. No mapping can name it then, and it must not hide the other columns."""
    return name.decode(errors="backslashreplace")


def _content(sized: bytes) -> Text:
    """Of a logical message. It comes as UTF-8, was made so by capture, or nobody knows what it is."""
    (size,) = _UINT.unpack_from(sized)
    if len(sized) - 4 < size:
        return Missing.TOO_LARGE
    return _text(sized[4:].removeprefix(BOM_UTF8))


def _text(value: bytes) -> Text:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return Missing.UNREADABLE


def _cells(relation: Relation, frames: bytes, at: int) -> tuple[list[Text], int]:
    """All cells of a tuple whose first cell is at `at`, and its end; the count stands in the two bytes before it."""
    (count,) = _SHORT.unpack_from(frames, at - 2)
    cells: list[Text] = []
    for _ in range(count):
        kind, size = _CELL.unpack_from(frames, at)
        if kind == TEXT:
            at += 5 + size
            text = frames[at - size : at]
            cells.append(_text(text) if relation.incomplete else text.decode())
        else:
            at += 1
            if kind not in _MISSING:
                raise ValueError(f"unknown kind of cell {chr(kind)!r}")
            if kind == LEFT_OUT and not relation.incomplete:
                raise _Gap
            cells.append(_MISSING[kind])
    return cells, at


_Functions: TypeAlias = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
"""`_Table`'s: inserted, new, old."""


def _compile(relation: Relation, new: list[int | None], old: list[int | None]) -> _Functions:
    return _compile_new(new, "raise gap"), _compile_new(new, "return None"), _compile_old(len(relation.columns), old)


def _read(relation: Relation, new: list[int | None], old: list[int | None]) -> _Functions:
    """As `_compile`, for rows that are not complete."""

    def read_new(frames: bytes, at: int, end: int) -> Row | None:
        cells, _ = _cells(relation, frames, at)
        row = tuple(None if place is None else cells[place] for place in new)
        return None if UNCHANGED in row else row

    def inserted(frames: bytes, at: int, end: int) -> Row:
        row = read_new(frames, at, end)
        if row is None:
            raise ValueError("an insert with a cell that is neither text nor NULL")
        return row

    def read_old(frames: bytes, at: int) -> tuple[Row | None, int]:
        cells, end = _cells(relation, frames, at)
        return tuple(UNLOGGED if place is None else cells[place] for place in old), end

    return inserted, read_new, read_old


def _mask(table: _Table, old: Row | None) -> Row:
    """A key tuple has NULL in the columns outside the key: those were not logged."""
    columns = table.relation.columns
    return tuple(
        cell if place is not None and columns[place].key else UNLOGGED
        for cell, place in zip(old or (), table.old_indexes, strict=True)
    )


def _key_of_new(table: _Table, frames: bytes, at: int) -> Row:
    """An update without an old tuple did not change the key: the key's columns are those of the new row.

    Under FULL there always is one, so that this row is of a leaf that logs less than its root, whose key is not known here.
    """
    columns = table.relation.columns
    if table.relation.identity == "f" or not any(place is not None and columns[place].key for place in table.old_indexes):
        return (UNLOGGED,) * len(table.old_indexes)
    cells, _ = _cells(table.relation, frames, at)
    return tuple(cells[place] if place is not None and columns[place].key else UNLOGGED for place in table.old_indexes)


def _compile_new(wanted: list[int | None], absent: str) -> Callable[..., Any]:
    """A function (frames, first cell, frame's end) → the wanted cells; `absent` is what it does where one is not there.

    It stops after the last wanted one. A row of less than 256 bytes, all of them ASCII, is decoded as one text: a cell's length
    is then its last byte alone, and a cell a slice of that text.
    """
    count = max((place for place in wanted if place is not None), default=-1) + 1
    returns = f"return ({_found(wanted, 'None')})"
    short = [f"    {line}" for line in [*_short_cell_lines(count, wanted, absent), f"  {returns}"]]
    lines = ["  t = b[p:e] if e - p < 256 else b''", "  if t and t.isascii():", "      s = t.decode(); p = 0", *short]
    return _define("b, p, e", [*lines, *_cell_lines(count, wanted, absent)], returns)


def _compile_old(count: int, wanted: list[int | None]) -> Callable[[bytes, int], tuple[Row | None, int]]:
    """A function (frames, first cell) → (the wanted cells, the tuple's end)."""
    return _define("b, p", _cell_lines(count, wanted, None), f"return ({_found(wanted, 'UNLOGGED')}), p")


def _found(wanted: list[int | None], absent: str) -> str:
    return "".join(f"{absent}, " if place is None else f"c{place}, " for place in wanted)


def _cell_lines(count: int, wanted: list[int | None], absent: str | None) -> list[str]:
    lines = []
    for place in range(count):
        if place in wanted:
            missing = [f"  else: {absent}"] if absent else [f"  else: c{place} = unchanged(k); p += 1"]
            lines += [
                "  k, n = cell(b, p)",
                f"  if k == {TEXT}: q = p + 5; p = q + n; c{place} = b[q:p].decode()",
                f"  elif k == {NULL}: c{place} = None; p += 1",
                *missing,
            ]
        else:
            lines += ["  k, n = cell(b, p)", f"  p += 5 + n if k == {TEXT} else 1"]
    return lines


def _short_cell_lines(count: int, wanted: list[int | None], absent: str) -> list[str]:
    lines = []
    for place in range(count):
        if place in wanted:
            lines += [
                "  k = t[p]",
                f"  if k == {TEXT}: q = p + 5; p = q + t[p + 4]; c{place} = s[q:p]",
                f"  elif k == {NULL}: c{place} = None; p += 1",
                f"  else: {absent}",
            ]
        else:
            lines.append(f"  p += 5 + t[p + 4] if t[p] == {TEXT} else 1")
    return lines


def _unchanged(kind: int) -> Text:
    if kind == LEFT_OUT:
        raise _Gap
    return UNCHANGED


def _define(parameters: str, lines: list[str], returns: str) -> Callable[..., Any]:
    source = "\n".join([f"def split({parameters}):", *lines, f"  {returns}"])
    scope: dict[str, Any] = {"cell": _CELL.unpack_from, "unchanged": _unchanged, "gap": _Gap, "UNLOGGED": UNLOGGED}
    exec(source, scope)  # noqa: S102 - the source is made of column places alone, no name or value goes into it
    split: Callable[..., Any] = scope["split"]
    return split


def _steps(segment: Segment, tables: dict[bytes, bytes]) -> Iterator[tuple[OpenTransaction, Lsn, bytes, int]]:
    """Each frame with changes: where the transaction stands before it, its LSN, payload and changes. Keeps `tables` as of it."""
    start = segment.open or NOWHERE
    for lsn, at, end in walk(segment.frames):
        payload = segment.frames[at:end]
        if payload[0] == BEGIN:
            start = OpenTransaction(_transaction(payload, 0), 0, 0, 0)
        elif payload[0] == RELATION:
            tables[payload[1:5]] = payload
        else:
            span = len(_truncated(payload, 0)) if payload[0] == TRUNCATE else 1
            yield start, lsn, payload, span
            start = past(start, lsn, span)


def left_off(segment: Segment) -> OpenTransaction:
    """How far the segment is within the transaction that it ends in."""
    stands = segment.open or NOWHERE
    for start, lsn, _, span in _steps(segment, {}):
        stands = past(start, lsn, span)
    return stands


def excerpt(segment: Segment, positions: set[Position]) -> dict[Position, Segment]:
    """The segment of each single change at `positions`: what a dead letter keeps."""
    tables = {payload[1:5]: payload for payload in segment.relations}
    found: dict[Position, Segment] = {}
    for start, lsn, payload, span in _steps(segment, tables):
        kind = payload[0]
        named = _truncated(payload, 0) if kind == TRUNCATE else [] if kind == MESSAGE else [payload[1:5]]
        for position in [Position(start.transaction.commit_lsn, start.ordinal + offset) for offset in range(span)]:
            if position in positions:
                found[position] = single(segment, lsn, payload, start, span, [tables[oid] for oid in named])
    return found
