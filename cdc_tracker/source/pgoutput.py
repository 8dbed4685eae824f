"""pgoutput's protocol version 1: frames → segments for capture, segments → Changes for delivery. Pure.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cdc_tracker.model import (
    UNCHANGED,
    UNLOGGED,
    Change,
    Column,
    Lsn,
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

_ROWS = frozenset((INSERT, UPDATE, DELETE))
_BEGIN = struct.Struct(">xQQI")
_COMMIT = struct.Struct(">xxQQ")
_UINT = struct.Struct(">I")
_SHORT = struct.Struct(">H")
_CELL = struct.Struct(">BI")
_MISSING: dict[int, Text] = {NULL: None, UNCHANGED_MARK: UNCHANGED}
_OURS = tuple(prefix + b"\0" for prefix in OUR_PREFIXES)
_PAD = bytes(_CELL.size)  # a cell's header is read whole, also where the last cell of a segment is one byte


def options(publications: str) -> dict[str, str]:
    """START_REPLICATION's options. `publications` is a comma-separated list of quoted names."""
    return {"proto_version": "1", "publication_names": publications, "messages": "true"}


class Builder(SegmentBuilder):
    """Carries each relation that a segment's frames need, as it was described before them."""

    plugin = "pgoutput"

    def __init__(self, after: Position, left_off: OpenTransaction | None = None) -> None:
        super().__init__(after, left_off)
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
        payload = bytes(frame[PAYLOAD:])
        if kind == RELATION:
            relation = payload[1:5]
            known = self._described.get(relation)
            self._described[relation] = payload
            if relation in self._carried and payload != known:  # changed within this segment: it goes among the frames
                self._push(frame[1:9], payload)
        elif kind == TRUNCATE:
            relations = _truncated(payload, 0)
            if self._change(frame, len(relations), whole=True):
                for relation in relations:
                    self._carry(relation)
        elif kind == MESSAGE and payload[1] & 1 and payload.startswith(_OURS, 10):
            self._change(frame)

    def _carry(self, relation: bytes) -> None:
        if relation not in self._carried:
            self._carried.add(relation)
            self._relations.append(self._described[relation])


class _Table(NamedTuple):
    """A relation as it was described, with the functions made for the columns wanted of it."""

    relation: Relation
    wanted: tuple[tuple[str, ...], tuple[str, ...]] | None
    new: Callable[[bytes, int, int], Row | None]
    old: Callable[[bytes, int], tuple[Row | None, int]]
    old_indexes: tuple[int | None, ...]


class Decoder:
    """Segments of pgoutput frames → Changes with the columns wanted. Keeps what it made for each relation description."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._known: dict[bytes, _Table] = {}

    def changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        """The segment's changes past `after`, in order. Raises ValueError where a frame is not pgoutput's."""
        try:
            frames = segment.frames + _PAD
            tables = {payload[1:5]: self._table(payload) for payload in segment.relations}
            transaction, ordinal, last, index = opened(segment.open)
            commit_lsn = transaction.commit_lsn
            skipping = segment.first <= after
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
                    if kind == INSERT:
                        new = table.new(frames, at + 8, end)
                        if new is None:
                            raise ValueError("an insert with a cell that is neither text nor NULL")
                        yield Change("c", table.relation, new, None, position, lsn, index, transaction)
                    else:
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
            content = rest[4:].decode(errors="replace")
            position = Position(transaction.commit_lsn, ordinal)
            yield Change("m", None, None, None, position, lsn, index, transaction, prefix.decode(), content)
        else:
            raise ValueError(f"unknown pgoutput message {chr(kind)!r}")

    def _rows(self, table: _Table, kind: int, frames: bytes, at: int, end: int) -> tuple[str, Row | None, Row]:
        """(op, new, old) of an update or delete."""
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
        cells = _cells(frames, at)
        before = _cells(frames, old_at) if old_at is not None else []
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

    def _table(self, payload: bytes) -> _Table:
        table = self._known.get(payload)
        if table is None:
            relation = parse_relation(payload)
            wanted = self._wanted(relation)
            places = {column.name: place for place, column in enumerate(relation.columns)}
            new, old = wanted or ((), ())
            old_indexes = tuple(places.get(name) for name in old)
            table = _Table(
                relation,
                wanted,
                _compile_new([places.get(name) for name in new]),
                _compile_old(len(relation.columns), list(old_indexes)),
                old_indexes,
            )
            self._known[payload] = table
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
        columns.append(Column(rest[at + 1 : end].decode(), type_oid, bool(rest[at] & 1)))
        at = end + 9
    return Relation(schema.decode() or "pg_catalog", name.decode(), tuple(columns), chr(rest[0]))


def _cells(frames: bytes, at: int) -> list[Text]:
    """All cells of a tuple whose first cell is at `at`; the count stands in the two bytes before it."""
    (count,) = _SHORT.unpack_from(frames, at - 2)
    cells: list[Text] = []
    for _ in range(count):
        kind, size = _CELL.unpack_from(frames, at)
        if kind == TEXT:
            at += 5 + size
            cells.append(frames[at - size : at].decode())
        else:
            at += 1
            if kind not in _MISSING:
                raise ValueError(f"unknown kind of cell {chr(kind)!r}")
            cells.append(_MISSING[kind])
    return cells


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
    cells = _cells(frames, at)
    return tuple(cells[place] if place is not None and columns[place].key else UNLOGGED for place in table.old_indexes)


def _compile_new(wanted: list[int | None]) -> Callable[[bytes, int, int], Row | None]:
    """A function (frames, first cell, frame's end) → the wanted cells; None where one is UNCHANGED.

    It stops after the last wanted one. A row of less than 256 bytes, all of them ASCII, is decoded as one text: a cell's length
    is then its last byte alone, and a cell a slice of that text.
    """
    count = max((place for place in wanted if place is not None), default=-1) + 1
    returns = f"return ({_found(wanted, 'None')})"
    short = [f"    {line}" for line in [*_short_cell_lines(count, wanted), f"  {returns}"]]
    lines = ["  t = b[p:e] if e - p < 256 else b''", "  if t and t.isascii():", "      s = t.decode(); p = 0", *short]
    return _define("b, p, e", [*lines, *_cell_lines(count, wanted, "return None")], returns)


def _compile_old(count: int, wanted: list[int | None]) -> Callable[[bytes, int], tuple[Row | None, int]]:
    """A function (frames, first cell) → (the wanted cells, the tuple's end)."""
    return _define("b, p", _cell_lines(count, wanted, None), f"return ({_found(wanted, 'UNLOGGED')}), p")


def _found(wanted: list[int | None], absent: str) -> str:
    return "".join(f"{absent}, " if place is None else f"c{place}, " for place in wanted)


def _cell_lines(count: int, wanted: list[int | None], unchanged: str | None) -> list[str]:
    lines = []
    for place in range(count):
        if place in wanted:
            missing = [f"  else: {unchanged}"] if unchanged else [f"  else: c{place} = UNCHANGED; p += 1"]
            lines += [
                "  k, n = cell(b, p)",
                f"  if k == {TEXT}: q = p + 5; p = q + n; c{place} = b[q:p].decode()",
                f"  elif k == {NULL}: c{place} = None; p += 1",
                *missing,
            ]
        else:
            lines += ["  k, n = cell(b, p)", f"  p += 5 + n if k == {TEXT} else 1"]
    return lines


def _short_cell_lines(count: int, wanted: list[int | None]) -> list[str]:
    lines = []
    for place in range(count):
        if place in wanted:
            lines += [
                "  k = t[p]",
                f"  if k == {TEXT}: q = p + 5; p = q + t[p + 4]; c{place} = s[q:p]",
                f"  elif k == {NULL}: c{place} = None; p += 1",
                "  else: return None",
            ]
        else:
            lines.append(f"  p += 5 + t[p + 4] if t[p] == {TEXT} else 1")
    return lines


def _define(parameters: str, lines: list[str], returns: str) -> Callable[..., Any]:
    source = "\n".join([f"def split({parameters}):", *lines, f"  {returns}"])
    scope: dict[str, Any] = {"cell": _CELL.unpack_from, "UNCHANGED": UNCHANGED, "UNLOGGED": UNLOGGED}
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
