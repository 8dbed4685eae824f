"""Segments → Changes with the columns wanted."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from cdc_tracker.model import UNCHANGED, UNLOGGED, Change, OpenTransaction, Position, Relation, Row, Segment, Text, Transaction
from cdc_tracker.sources.postgres.decoding import NOWHERE, IncompleteRow, Step, Wanted, end_of, excerpts, opened, past, walk
from cdc_tracker.sources.postgres.pgoutput.messages import (
    BEGIN,
    DELETE,
    INSERT,
    KEY,
    MESSAGE,
    OLD,
    PAD,
    RELATION,
    ROWS,
    TRUNCATE,
    cells_of,
    content_of,
    parse_relation,
    transaction_of,
    truncated,
)
from cdc_tracker.sources.postgres.pgoutput.rows import compiled, readers


class _RowReader(NamedTuple):
    """A relation message, and functions that read the columns wanted of its rows.

    They raise UnicodeDecodeError or IncompleteRow for a row that is not complete; those of an incomplete relation do not raise.
    """

    relation: Relation
    wanted: tuple[tuple[str, ...], tuple[str, ...]] | None
    inserted: Callable[[bytes, int, int], Row]
    new: Callable[[bytes, int, int], Row | None]  # None if a cell is UNCHANGED
    old: Callable[[bytes, int], tuple[Row | None, int]]
    old_indexes: tuple[int | None, ...]
    described: bytes


class Decoder:
    """Segments of pgoutput frames → Changes with the columns wanted. Keeps a reader for each relation message."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._readers: dict[tuple[bytes, bool], _RowReader] = {}

    def changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        """The segment's changes past `after`, in order. Raises ValueError if a frame is not pgoutput's."""
        try:
            frames = segment.frames + PAD
            tables = {payload[1:5]: self._table(payload) for payload in segment.relations}
            transaction, ordinal, last, index = opened(segment.open)
            commit_lsn = transaction.commit_lsn
            skipping = segment.first <= after
            new: Row | None
            old: Row | None
            for lsn, at, end in walk(segment.frames):
                kind = frames[at]
                if kind in ROWS:
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
                    except (UnicodeDecodeError, IncompleteRow):
                        table = self._table(table.described, incomplete=True)
                        op, new, old = self._rows(table, kind, frames, at, end)
                    yield Change(op, table.relation, new, old, position, lsn, index, transaction)
                elif kind == BEGIN:
                    transaction = transaction_of(frames, at)
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

    def _wants(self, tables: dict[bytes, _RowReader], relation: Relation) -> bool:
        return any(table.relation is relation and table.wanted is not None for table in tables.values())

    def _rare(
        self,
        kind: int,
        payload: bytes,
        tables: dict[bytes, _RowReader],
        lsn: int,
        ordinal: int,
        index: int,
        transaction: Transaction,
    ) -> Iterator[Change]:
        if kind == TRUNCATE:
            for offset, relation in enumerate(truncated(payload)):
                position = Position(transaction.commit_lsn, ordinal + offset)
                yield Change("t", tables[relation].relation, None, None, position, lsn, index + offset, transaction)
        elif kind == MESSAGE:
            prefix, _, rest = payload[10:].partition(b"\0")
            content = content_of(rest)
            position = Position(transaction.commit_lsn, ordinal)
            yield Change("m", None, None, None, position, lsn, index, transaction, prefix.decode(), content)
        else:
            raise ValueError(f"unknown pgoutput message {chr(kind)!r}")

    def _rows(self, table: _RowReader, kind: int, frames: bytes, at: int, end: int) -> tuple[str, Row | None, Row | None]:
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

    def _whole(self, table: _RowReader, frames: bytes, at: int, old_at: int | None) -> Row:
        """A new row with UNCHANGED cells, which are filled from the old row if that has them."""
        cells, _ = cells_of(table.relation, frames, at)
        before = cells_of(table.relation, frames, old_at)[0] if old_at is not None else []
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

    def _table(self, payload: bytes, *, incomplete: bool = False) -> _RowReader:
        table = self._readers.get((payload, incomplete))
        if table is None:
            relation = replace(parse_relation(payload), incomplete=incomplete)
            wanted = self._wanted(relation)
            places = {column.name: place for place, column in enumerate(relation.columns)}
            new, old = wanted or ((), ())
            places_new, places_old = ([places.get(name) for name in names] for names in (new, old))
            make = readers if incomplete else compiled
            table = _RowReader(relation, wanted, *make(relation, places_new, places_old), tuple(places_old), payload)
            self._readers[payload, incomplete] = table
        return table


def _mask(table: _RowReader, old: Row | None) -> Row:
    """The old row of a key tuple, which has NULL for columns outside the key: they become UNLOGGED."""
    columns = table.relation.columns
    return tuple(
        cell if place is not None and columns[place].key else UNLOGGED
        for cell, place in zip(old or (), table.old_indexes, strict=True)
    )


def _key_of_new(table: _RowReader, frames: bytes, at: int) -> Row:
    """The old row of an update without an old tuple: the key is unchanged, so its columns are those of the new row.

    Under REPLICA IDENTITY FULL there is always an old tuple: without one the row is of a partition that logs less than its root,
    and its key is not known here.
    """
    columns = table.relation.columns
    if table.relation.identity == "f" or not any(place is not None and columns[place].key for place in table.old_indexes):
        return (UNLOGGED,) * len(table.old_indexes)
    cells, _ = cells_of(table.relation, frames, at)
    return tuple(cells[place] if place is not None and columns[place].key else UNLOGGED for place in table.old_indexes)


def _steps(segment: Segment) -> Iterator[Step]:
    tables = {payload[1:5]: payload for payload in segment.relations}
    place = segment.open or NOWHERE
    for lsn, at, end in walk(segment.frames):
        payload = segment.frames[at:end]
        kind = payload[0]
        if kind == BEGIN:
            place = OpenTransaction(transaction_of(payload, 0), 0, 0, 0)
        elif kind == RELATION:
            tables[payload[1:5]] = payload
        else:
            oids = truncated(payload) if kind == TRUNCATE else [] if kind == MESSAGE else [payload[1:5]]
            changes = len(oids) if kind == TRUNCATE else 1
            yield Step(place, lsn, payload, [tables[oid] for oid in oids], changes)
            place = past(place, lsn, changes)


left_off = partial(end_of, _steps)
excerpt = partial(excerpts, _steps)
