"""Segments → Changes with the columns wanted."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import msgspec

from cdc_tracker.model import Change, Column, Lsn, Missing, OpenTransaction, Position, Relation, Row, Segment, Transaction
from cdc_tracker.sources.postgres.decoding import NOWHERE, IncompleteRow, Step, Wanted, end_of, excerpts, opened, past, walk
from cdc_tracker.sources.postgres.wal2json.frames import FRAME, MINUS_ZERO, Cell, Description, Frame, odd, transaction_of
from cdc_tracker.sources.postgres.wal2json.rows import RowReader, compile_row

FIXED_LENGTH = frozenset((16, 18, 20, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 2950))  # never TOASTed


class Decoder:
    """Segments of wal2json frames → Changes with the columns wanted."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._readers: dict[bytes, RowReader] = {}
        self._incomplete: dict[int, RowReader] = {}  # by the id of their relation
        self._shapes: dict[tuple[bytes, tuple[tuple[str, int], ...]], RowReader] = {}

    def changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        """The segment's changes past `after`, in order. Raises ValueError if a frame is not wal2json's."""
        try:
            yield from self._changes(segment, after)
        except (LookupError, OverflowError, struct.error) as error:
            raise ValueError(f"damaged wal2json frames at {segment.first}: {error!r}") from error

    def _changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        tables: dict[tuple[str, str], RowReader] = {}
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
        tables: dict[tuple[str, str], RowReader],
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
            new, old = table.rows(frame, row)
        except IncompleteRow:
            table = self._for_incomplete(self._fitting(table, frame.columns, action == "U") if action in "IU" else table)
            new, old = table.rows(frame, None)
        return Change(_OPS[action], table.relation, new, old, position, lsn, index, transaction)

    def _for_incomplete(self, table: RowReader) -> RowReader:
        """The reader of the same relation for rows that are not complete."""
        key = id(table.relation)
        if key not in self._incomplete:
            self._incomplete[key] = self._reader(replace(table.relation, incomplete=True), table.described)
        return self._incomplete[key]

    def _table(self, payload: bytes) -> RowReader:
        table = self._readers.get(payload)
        if table is None:
            described = msgspec.json.decode(payload, type=Description)
            table = self._readers[payload] = self._reader(described.relation(), described)
        return table

    def _reader(self, relation: Relation, described: Description) -> RowReader:
        wanted = self._wanted(relation)
        places = {column.name: place for place, column in enumerate(relation.columns)}
        new = tuple((places.get(name), name) for name in (wanted or ((), ()))[0])
        absent = frozenset((wanted or ((), ()))[1]).difference(places)
        return RowReader(relation, wanted, new, compile_row(relation, new, described.never_null), described, absent)

    def _fitting(self, table: RowReader, cells: list[Cell], update: bool) -> RowReader:
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

    def _as_deleted(self, table: RowReader, cells: list[Cell]) -> RowReader:
        """The reader with those columns wanted that the deleted row shows and the catalog no longer has."""
        shown = tuple((cell.name, cell.typeoid) for cell in cells if cell.name in table.absent)
        if not shown:
            return table
        return self._shape(table, (*((column.name, column.type_oid) for column in table.relation.columns), *shown))

    def _shape(self, table: RowReader, shown: tuple[tuple[str, int], ...]) -> RowReader:
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


def _steps(segment: Segment) -> Iterator[Step]:
    described = {}
    for payload in segment.relations:
        table = msgspec.json.decode(payload, type=Description)
        described[table.schema, table.table] = payload
    place = segment.open or NOWHERE
    for lsn, at, end in walk(segment.frames):
        payload = segment.frames[at:end]
        frame = odd(payload)
        if frame.action == "B":
            place = OpenTransaction(transaction_of(frame), 0, 0, 0)
        else:
            yield Step(place, lsn, payload, [] if frame.action == "M" else [described[frame.schema, frame.table]])
            place = past(place, lsn)


left_off = partial(end_of, _steps)
excerpt = partial(excerpts, _steps)
