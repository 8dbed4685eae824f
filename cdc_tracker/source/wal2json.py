"""wal2json's format version 2: frames → segments for capture, segments → Changes for delivery. Pure.

A cell's text is made back from JSON, so that both plugins give equal Changes. wal2json cannot carry float NaN and infinity: they
are null. It names the leaf of a partitioned table and no key: the catalog's word for each table comes by `describe` and goes into
the segment.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

import msgspec

from cdc_tracker.model import (
    EPOCH,
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
    parse_lsn,
)
from cdc_tracker.source.segments import MESSAGE_PREFIX, PAYLOAD, Frame, SegmentBuilder, Wanted, opened, single, walk

BYTEA = 17
FIXED_LENGTH = frozenset((16, 18, 20, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 2950))  # never TOASTed

_ACTION = len(b'{"action":"')
_BEGIN, _COMMIT, _MESSAGE = b"BCM"
_TABLE = re.compile(rb'"schema":("(?:[^"\\]|\\.)*"),"table":("(?:[^"\\]|\\.)*")')


class Description(msgspec.Struct, frozen=True):
    """What the catalog says of a table that wal2json named `schema.table`: the relation is its root where it is a partition."""

    schema: str
    table: str
    root_schema: str
    root_table: str
    identity: str
    columns: tuple[tuple[str, int, bool], ...]  # name, type oid, part of the key

    def published(self) -> frozenset[int]:
        """The actions, as bytes, that a publication of this table, or of its root, has of it."""
        if self.identity == "n":
            return frozenset(b"I")
        return frozenset(b"IUDT" if (self.schema, self.table) == (self.root_schema, self.root_table) else b"IUD")

    def relation(self) -> Relation:
        return Relation(self.root_schema, self.root_table, tuple(Column(*column) for column in self.columns), self.identity)


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
        "add-msg-prefixes": MESSAGE_PREFIX.decode(),
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

    def add(self, frame: Frame) -> None:
        payload = bytes(frame[PAYLOAD:])
        action = payload[_ACTION]
        if action == _BEGIN:
            self._begin_transaction(_transaction(_FRAME.decode(payload)), payload)
        elif action == _COMMIT:
            self._end_transaction(parse_lsn(str(_FRAME.decode(payload).nextlsn)))
        elif action == _MESSAGE:
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


class _Cell(msgspec.Struct, frozen=True, gc=False):
    name: str
    typeoid: int
    value: Any


class _Frame(msgspec.Struct, frozen=True, gc=False):
    action: str
    xid: int | None = None
    timestamp: str | None = None
    lsn: str = ""
    nextlsn: str = ""
    schema: str = ""
    table: str = ""
    columns: list[_Cell] = []
    identity: list[_Cell] = []
    prefix: str = ""
    content: str = ""


_FRAME = msgspec.json.Decoder(_Frame, float_hook=str)  # a number with a fraction stays the text that the server wrote


class _OddCell(msgspec.Struct, frozen=True, gc=False):
    name: str
    typeoid: int
    value: msgspec.Raw


class _OddFrame(_Frame, frozen=True, gc=False):
    columns: list[_OddCell] = []  # type: ignore[assignment]  # the same cells, with their values as they were written
    identity: list[_OddCell] = []  # type: ignore[assignment]


_ODD_FRAME = msgspec.json.Decoder(_OddFrame)
_MINUS_ZERO = b'"value":-0}'  # of a float: as an int it would lose its sign


def _odd(payload: bytes) -> _Frame:
    """A frame that the plain decoder takes not at all or wrongly: -0, a very long integer, a message that is not UTF-8."""
    if payload[_ACTION] == _MESSAGE:
        payload = payload.decode(errors="replace").encode()
    frame = _ODD_FRAME.decode(payload)
    columns, identity = ([_written(cell) for cell in cells] for cells in (frame.columns, frame.identity))
    return msgspec.structs.replace(frame, columns=columns, identity=identity)


def _written(cell: _OddCell) -> _Cell:
    text = bytes(cell.value)
    return _Cell(cell.name, cell.typeoid, text.decode() if text[:1] in b"-0123456789" else msgspec.json.decode(text))


def _transaction(frame: _Frame) -> Transaction:
    moment = datetime.fromisoformat(frame.timestamp or "")
    if moment.tzinfo is None:
        raise ValueError(f"a commit time without its zone: {frame.timestamp}")
    microseconds = (moment - EPOCH) // _MICROSECOND
    return Transaction(frame.xid or 0, parse_lsn(frame.lsn), microseconds)


_MICROSECOND = datetime.resolution


class _Table(NamedTuple):
    relation: Relation
    wanted: tuple[tuple[str, ...], tuple[str, ...]] | None
    new: tuple[tuple[int | None, str], ...]  # (place in the relation, name) of each column wanted
    row: Callable[[list[_Cell]], Row | None]  # the columns wanted of a whole row; None where the row is not of this relation
    described: Description


class Decoder:
    """Segments of wal2json frames → Changes with the columns wanted."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._known: dict[bytes, _Table] = {}
        self._shapes: dict[tuple[bytes, tuple[tuple[str, int], ...]], _Table] = {}

    def changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        """The segment's changes past `after`, in order. Raises ValueError where a frame is not wal2json's."""
        try:
            yield from self._changes(segment, after)
        except (LookupError, OverflowError, struct.error) as error:
            raise ValueError(f"damaged wal2json frames at {segment.first}: {error!r}") from error

    def _changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        tables: dict[tuple[str, str], _Table] = {}
        for payload in segment.relations:
            table = self._table(payload)
            tables[table.described.schema, table.described.table] = table
        transaction, ordinal, last, index = opened(segment.open)
        frames = memoryview(segment.frames)
        skipping = segment.first <= after
        minus_zero = _MINUS_ZERO in segment.frames
        for lsn, at, end in walk(segment.frames):
            try:
                frame = _FRAME.decode(frames[at:end])
            except ValueError:
                frame = _odd(segment.frames[at:end])
            if minus_zero and segment.frames.find(_MINUS_ZERO, at, end) >= 0:
                frame = _odd(segment.frames[at:end])
            if frame.action == "B":
                transaction, ordinal, last, index = _transaction(frame), 0, 0, 0
                continue
            index = index + 1 if lsn == last else 0
            last = lsn
            position = Position(transaction.commit_lsn, ordinal)
            ordinal += 1
            if skipping and position <= after:
                continue
            change = self._change(frame, tables, position, lsn, index, transaction)
            if change is not None:
                yield change

    def _change(
        self,
        frame: _Frame,
        tables: dict[tuple[str, str], _Table],
        position: Position,
        lsn: Lsn,
        index: int,
        transaction: Transaction,
    ) -> Change | None:
        action = frame.action
        if action == "M":
            return Change("m", None, None, None, position, lsn, index, transaction, frame.prefix, frame.content)
        key = (frame.schema, frame.table)
        table = tables[key]
        row = table.row(frame.columns) if action in "IU" else None
        if row is None and action in "IU":
            table = self._fitting(table, frame.columns, action == "U")
            tables[key] = table
        if table.wanted is None:
            return None
        relation = table.relation
        if action == "I":
            return Change(
                "c", relation, _new(table, frame.columns) if row is None else row, None, position, lsn, index, transaction
            )
        if action == "U":
            old = _old(table, frame.identity)
            return Change("u", relation, _whole(table, frame) if row is None else row, old, position, lsn, index, transaction)
        if action == "D":
            return Change("d", relation, None, _old(table, frame.identity), position, lsn, index, transaction)
        if action == "T":
            return Change("t", relation, None, None, position, lsn, index, transaction)
        raise ValueError(f"unknown wal2json action {action!r}")

    def _table(self, payload: bytes) -> _Table:
        table = self._known.get(payload)
        if table is None:
            described = msgspec.json.decode(payload, type=Description)
            table = self._known[payload] = self._made(described.relation(), described)
        return table

    def _made(self, relation: Relation, described: Description) -> _Table:
        wanted = self._wanted(relation)
        places = {column.name: place for place, column in enumerate(relation.columns)}
        new = tuple((places.get(name), name) for name in (wanted or ((), ()))[0])
        return _Table(relation, wanted, new, _compile_row(relation, new), described)

    def _fitting(self, table: _Table, cells: list[_Cell], update: bool) -> _Table:
        """The table as the row shows it. The catalog's description is of another moment than the row: DDL lies between."""
        columns = table.relation.columns
        if len(cells) == len(columns):
            for place, name in table.new:
                if place is None or cells[place].name != name or cells[place].typeoid != columns[place].type_oid:
                    break
            else:
                return table
        shown = tuple((cell.name, cell.typeoid) for cell in cells)
        if not update:  # only an update leaves columns out: unchanged TOAST
            return self._shape(table, shown)
        return table if _fits(columns, shown) else self._shape(table, _with_left_out(columns, shown))

    def _shape(self, table: _Table, shown: tuple[tuple[str, int], ...]) -> _Table:
        key = (msgspec.json.encode(table.described), shown)
        made = self._shapes.get(key)
        if made is None:
            keys = {name for name, _, part in table.described.columns if part}
            columns = tuple(Column(name, oid, table.described.identity == "f" or name in keys) for name, oid in shown)
            base = table.relation
            relation = base if columns == base.columns else Relation(base.schema, base.name, columns, base.identity)
            made = self._shapes[key] = table if relation is base else self._made(relation, table.described)
        return made


def _with_left_out(columns: tuple[Column, ...], shown: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """The columns of an updated row: those it shows, and after their neighbours those that it may have left out."""
    names = {name for name, _ in shown}
    found, place = list(shown), 0
    for column in columns:
        if column.name in names:
            place = 1 + next(at for at, (name, _) in enumerate(found) if name == column.name)
        elif column.type_oid not in FIXED_LENGTH:
            found.insert(place, (column.name, column.type_oid))
            place += 1
    return tuple(found)


def _fits(columns: tuple[Column, ...], shown: tuple[tuple[str, int], ...]) -> bool:
    """The row's columns are the relation's, less some that may be unchanged TOAST."""
    at = 0
    for column in columns:
        if at < len(shown) and shown[at] == (column.name, column.type_oid):
            at += 1
        elif column.type_oid in FIXED_LENGTH:
            return False
    return at == len(shown)


def _text(cell: _Cell) -> Text:
    """A cell's value as PostgreSQL's text output."""
    value = cell.value
    if value.__class__ is str:
        return "\\x" + value if cell.typeoid == BYTEA else value
    if value is None:
        return None
    if value.__class__ is bool:
        return "t" if value else "f"
    return str(value)


def _new(table: _Table, cells: list[_Cell]) -> Row:
    return tuple([None if place is None else _text(cells[place]) for place, _ in table.new])


def _compile_row(relation: Relation, new: tuple[tuple[int | None, str], ...]) -> Callable[[list[_Cell]], Row | None]:
    """The usual case, once a row: all columns are there, and those wanted have the name and type that they should have."""
    places = [place for place, _ in new if place is not None]
    if len(places) < len(new):
        return lambda _cells: None
    lines = ["def row(cells):", f"  if len(cells) != {len(relation.columns)}: return None"]
    scope: dict[str, Any] = {"text": _text}
    for place in dict.fromkeys(places):
        column = relation.columns[place]
        scope[f"n{place}"] = column.name
        value = "text(c)" if column.type_oid == BYTEA else "v if v.__class__ is str or v is None else text(c)"
        lines += [
            f"  c = cells[{place}]; v = c.value",
            f"  if c.name != n{place} or c.typeoid != {column.type_oid}: return None",
            f"  a{place} = {value}",
        ]
    lines.append(f"  return ({''.join(f'a{place}, ' for place in places)})")
    exec("\n".join(lines), scope)  # noqa: S102 - made of numbers alone: names go in as values
    row: Callable[[list[_Cell]], Row | None] = scope["row"]
    return row


def _whole(table: _Table, frame: _Frame) -> Row:
    """A new row; what is left out is unchanged TOAST, filled from the old row where that holds it."""
    if len(frame.columns) == len(table.relation.columns):
        return _new(table, frame.columns)
    after = {cell.name: cell for cell in frame.columns}
    before = {cell.name: cell for cell in frame.identity}

    def cell(place: int | None, name: str) -> Text:
        if place is None:
            return None
        found = after.get(name) or before.get(name)
        return UNCHANGED if found is None else _text(found)

    return tuple(cell(place, name) for place, name in table.new)


def _old(table: _Table, cells: list[_Cell]) -> Row:
    found = {cell.name: cell for cell in cells}
    wanted = table.wanted[1] if table.wanted else ()
    return tuple(_text(found[name]) if name in found else UNLOGGED for name in wanted)


def excerpt(segment: Segment, positions: set[Position]) -> dict[Position, Segment]:
    """The segment of each single change at `positions`: what a dead letter keeps."""
    described = {}
    for payload in segment.relations:
        table = msgspec.json.decode(payload, type=Description)
        described[table.schema, table.table] = payload
    transaction, ordinal, last, index = opened(segment.open)
    found: dict[Position, Segment] = {}
    for lsn, at, end in walk(segment.frames):
        payload = segment.frames[at:end]
        frame = _odd(payload)
        if frame.action == "B":
            transaction, ordinal, last, index = _transaction(frame), 0, 0, 0
            continue
        position = Position(transaction.commit_lsn, ordinal)
        if position in positions:
            relations = [] if frame.action == "M" else [described[frame.schema, frame.table]]
            found[position] = single(segment, lsn, payload, OpenTransaction(transaction, ordinal, last, index), 1, relations)
        index = index + 1 if lsn == last else 0
        ordinal, last = ordinal + 1, lsn
    return found
