"""Segments → Changes with the columns wanted."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from cdc_tracker.generated import Names, define
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
from cdc_tracker.sources.postgres.segments import NOWHERE, IncompleteRow, Wanted, opened, past, single, walk
from cdc_tracker.sources.postgres.wal2json.frames import FRAME, MINUS_ZERO, Cell, Description, Frame, odd, transaction_of

BYTEA = 17
FIXED_LENGTH = frozenset((16, 18, 20, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 2950))  # never TOASTed


class _RowReader(NamedTuple):
    """A relation, and a function that reads the columns wanted of its rows.

    It raises IncompleteRow for a row that is not complete; that of an incomplete relation does not.
    """

    relation: Relation
    wanted: tuple[tuple[str, ...], tuple[str, ...]] | None
    new: tuple[tuple[int | None, str], ...]  # (place in the relation, name) of each column wanted
    row: Callable[[list[Cell]], Row | None]  # the columns wanted of a complete row; None if the row has other columns
    described: Description
    absent: frozenset[str]  # columns wanted of old rows that the relation lacks


class Decoder:
    """Segments of wal2json frames → Changes with the columns wanted."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._readers: dict[bytes, _RowReader] = {}
        self._incomplete: dict[int, _RowReader] = {}  # by the id of their relation
        self._shapes: dict[tuple[bytes, tuple[tuple[str, int], ...]], _RowReader] = {}

    def changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        """The segment's changes past `after`, in order. Raises ValueError if a frame is not wal2json's."""
        try:
            yield from self._changes(segment, after)
        except (LookupError, OverflowError, struct.error) as error:
            raise ValueError(f"damaged wal2json frames at {segment.first}: {error!r}") from error

    def _changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        tables: dict[tuple[str, str], _RowReader] = {}
        for payload in segment.relations:
            table = self._table(payload)
            tables[table.described.schema, table.described.table] = table
        transaction, ordinal, last, index = opened(segment.open)
        frames = memoryview(segment.frames)
        skipping = segment.first <= after
        minus_zero = MINUS_ZERO in segment.frames
        for lsn, at, end in walk(segment.frames):
            try:
                frame = FRAME.decode(frames[at:end])
            except ValueError:
                frame = odd(segment.frames[at:end])
            if minus_zero and segment.frames.find(MINUS_ZERO, at, end) >= 0:
                frame = odd(segment.frames[at:end])
            if frame.action == "B":
                transaction, ordinal, last, index = transaction_of(frame), 0, 0, 0
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
        frame: Frame,
        tables: dict[tuple[str, str], _RowReader],
        position: Position,
        lsn: Lsn,
        index: int,
        transaction: Transaction,
    ) -> Change | None:
        action = frame.action
        if action == "M":
            content = frame.content if isinstance(frame.content, str) else Missing[frame.content["missing"]]
            return Change("m", None, None, None, position, lsn, index, transaction, frame.prefix, content)
        key = (frame.schema, frame.table)
        table = tables[key]
        row: Row | None = None
        try:
            if action in "IU":
                row = table.row(frame.columns)
                if row is None:
                    table = tables[key] = self._fitting(table, frame.columns, action == "U")
            elif action == "D" and table.absent:
                table = self._as_deleted(table, frame.identity)
            if table.wanted is None:
                return None
            if action == "I" and row is not None:
                return Change("c", table.relation, row, None, position, lsn, index, transaction)
            new, old = _rows(table, frame, row)
        except IncompleteRow:
            table = self._for_incomplete(self._fitting(table, frame.columns, action == "U") if action in "IU" else table)
            new, old = _rows(table, frame, None)
        return Change(_OPS[action], table.relation, new, old, position, lsn, index, transaction)

    def _for_incomplete(self, table: _RowReader) -> _RowReader:
        """The reader of the same relation for rows that are not complete."""
        key = id(table.relation)
        if key not in self._incomplete:
            self._incomplete[key] = self._reader(replace(table.relation, incomplete=True), table.described)
        return self._incomplete[key]

    def _table(self, payload: bytes) -> _RowReader:
        table = self._readers.get(payload)
        if table is None:
            described = msgspec.json.decode(payload, type=Description)
            table = self._readers[payload] = self._reader(described.relation(), described)
        return table

    def _reader(self, relation: Relation, described: Description) -> _RowReader:
        wanted = self._wanted(relation)
        places = {column.name: place for place, column in enumerate(relation.columns)}
        new = tuple((places.get(name), name) for name in (wanted or ((), ()))[0])
        absent = frozenset((wanted or ((), ()))[1]).difference(places)
        return _RowReader(relation, wanted, new, _compile_row(relation, new, described.never_null), described, absent)

    def _fitting(self, table: _RowReader, cells: list[Cell], update: bool) -> _RowReader:
        """The reader for the columns that the row shows: DDL may have run between the row and the catalog's description."""
        columns = table.relation.columns
        if len(cells) == len(columns):
            for place, name in table.new:
                if place is None or cells[place].name != name or cells[place].typeoid != columns[place].type_oid:
                    break
            else:
                return table
        shown = tuple((cell.name, cell.typeoid) for cell in cells)
        if not update:  # only updates leave columns out: unchanged TOAST
            return self._shape(table, shown)
        return table if _fits(columns, shown) else self._shape(table, _with_left_out(columns, shown))

    def _as_deleted(self, table: _RowReader, cells: list[Cell]) -> _RowReader:
        """The reader with those columns wanted that the deleted row shows and the catalog no longer has."""
        shown = tuple((cell.name, cell.typeoid) for cell in cells if cell.name in table.absent)
        if not shown:
            return table
        return self._shape(table, (*((column.name, column.type_oid) for column in table.relation.columns), *shown))

    def _shape(self, table: _RowReader, shown: tuple[tuple[str, int], ...]) -> _RowReader:
        key = (msgspec.json.encode(table.described), shown)
        reader = self._shapes.get(key)
        if reader is None:
            keys = {name for name, _, part in table.described.columns if part}
            columns = tuple(Column(name, oid, table.described.identity == "f" or name in keys) for name, oid in shown)
            base = table.relation
            relation = base if columns == base.columns else Relation(base.schema, base.name, columns, base.identity)
            reader = self._shapes[key] = table if relation is base else self._reader(relation, table.described)
        return reader


def _with_left_out(columns: tuple[Column, ...], shown: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """The columns of an updated row: those that it shows and, next to their neighbours, those that it may have left out."""
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
    """Whether the row's columns are the relation's, except for some that may be unchanged TOAST."""
    at = 0
    for column in columns:
        if at < len(shown) and shown[at] == (column.name, column.type_oid):
            at += 1
        elif column.type_oid in FIXED_LENGTH:
            return False
    return at == len(shown)


_OPS = {"I": "c", "U": "u", "D": "d", "T": "t"}


def _rows(table: _RowReader, frame: Frame, row: Row | None) -> tuple[Row | None, Row | None]:
    """(new, old). `row`: the new row, if it was read already."""
    action = frame.action
    if action == "I":
        return _new(table, frame.columns) if row is None else row, None
    if action == "U":
        return _whole(table, frame) if row is None else row, _old(table, frame.identity)
    if action == "D":
        return None, _old(table, frame.identity)
    if action == "T":
        return None, None
    raise ValueError(f"unknown wal2json action {action!r}")


def _present(cell: Cell) -> str | None:
    """A cell's value as PostgreSQL's text output."""
    value = cell.value
    if value.__class__ is str:
        return "\\x" + value if cell.typeoid == BYTEA else value
    if value is None:
        return None
    if value.__class__ is bool:
        return "t" if value else "f"
    if value.__class__ is dict:
        raise IncompleteRow
    return str(value)


def _text(table: _RowReader, cell: Cell) -> Text:
    """The same, or why the cell has no text. Raises IncompleteRow for that unless the relation is an incomplete one."""
    missing: Missing | None = None
    if cell.value is None and cell.name in table.described.never_null:
        missing = Missing.SPECIAL
    elif cell.value.__class__ is dict:
        missing = Missing[cell.value["missing"]]
    if missing is None:
        return _present(cell)
    if not table.relation.incomplete:
        raise IncompleteRow
    return missing


def _not_null(cell: Cell) -> str:
    """The text of a cell of a NOT NULL column; raises IncompleteRow for null, which is NaN or an infinity."""
    if cell.value is None:
        raise IncompleteRow
    return str(_present(cell))


def _new(table: _RowReader, cells: list[Cell]) -> Row:
    return tuple([None if place is None else _text(table, cells[place]) for place, _ in table.new])


def _compile_row(
    relation: Relation, new: tuple[tuple[int | None, str], ...], never_null: Collection[str]
) -> Callable[[list[Cell]], Row | None]:
    """A function for the usual row, which has all columns, with the expected names and types. It returns None for any other."""
    places = [place for place, _ in new if place is not None]
    if len(places) < len(new):
        return lambda _cells: None
    lines = ["def row(cells):", f"    if len(cells) != {len(relation.columns)}: return None"]
    constants: dict[str, Any] = {"text": _present, "not_null": _not_null}
    names = Names(("row", "cells", "cell", "value", *constants))
    variables = {place: names.unique(relation.columns[place].name) for place in dict.fromkeys(places)}
    for place, variable in variables.items():
        column, label = relation.columns[place], names.unique(f"name_of_{variable}")
        constants[label] = column.name
        value = "text(cell)" if column.type_oid == BYTEA else "value if value.__class__ is str or value is None else text(cell)"
        if column.name in never_null:
            value = "value if value.__class__ is str else not_null(cell)"
        lines += [
            f"    cell = cells[{place}]; value = cell.value",
            f"    if cell.name != {label} or cell.typeoid != {column.type_oid}: return None",
            f"    {variable} = {value}",
        ]
    lines.append(f"    return ({''.join(f'{variables[place]}, ' for place in places)})")
    return define("row", "\n".join(lines), constants, f"wal2json {relation.table}")


def _whole(table: _RowReader, frame: Frame) -> Row:
    """A new row. A column left out is unchanged TOAST: it is filled from the old row if that has it."""
    if len(frame.columns) == len(table.relation.columns):
        return _new(table, frame.columns)
    after = {cell.name: cell for cell in frame.columns}
    before = {cell.name: cell for cell in frame.identity}

    def cell(place: int | None, name: str) -> Text:
        if place is None:
            return None
        found = after.get(name) or before.get(name)
        return UNCHANGED if found is None else _text(table, found)

    return tuple(cell(place, name) for place, name in table.new)


def _old(table: _RowReader, cells: list[Cell]) -> Row:
    found = {cell.name: cell for cell in cells}
    wanted = table.wanted[1] if table.wanted else ()
    return tuple(_text(table, found[name]) if name in found else UNLOGGED for name in wanted)


def _steps(segment: Segment) -> Iterator[tuple[OpenTransaction, Lsn, bytes, Frame]]:
    """For each change: the place before it, its LSN, its payload as bytes and decoded."""
    start = segment.open or NOWHERE
    for lsn, at, end in walk(segment.frames):
        payload = segment.frames[at:end]
        frame = odd(payload)
        if frame.action == "B":
            start = OpenTransaction(transaction_of(frame), 0, 0, 0)
        else:
            yield start, lsn, payload, frame
            start = past(start, lsn)


def left_off(segment: Segment) -> OpenTransaction:
    """The segment's end, as a place within its last transaction."""
    place = segment.open or NOWHERE
    for start, lsn, _, _ in _steps(segment):
        place = past(start, lsn)
    return place


def excerpt(segment: Segment, positions: set[Position]) -> dict[Position, Segment]:
    """For each position, a segment of that change's frame alone, as a dead letter stores it."""
    described = {}
    for payload in segment.relations:
        table = msgspec.json.decode(payload, type=Description)
        described[table.schema, table.table] = payload
    found: dict[Position, Segment] = {}
    for start, lsn, payload, frame in _steps(segment):
        position = Position(start.transaction.commit_lsn, start.ordinal)
        if position in positions:
            relations = [] if frame.action == "M" else [described[frame.schema, frame.table]]
            found[position] = single(segment, lsn, payload, start, 1, relations)
    return found
