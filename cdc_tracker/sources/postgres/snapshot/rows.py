"""Rows of COPY's text format: lines → a segment, segments → Changes. Pure.

A segment of the plugin `snapshot` contains the lines as received, without the newline; its relation says which columns they have.
Row `n` of the chunk with the low watermark `low` has the position `(low, n)`, the LSN `low` and the index `n`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from cdc_tracker.generated import define
from cdc_tracker.model import Change, Column, Lsn, OpenTransaction, Position, Relation, Row, Segment, Text, Transaction
from cdc_tracker.sources.postgres.decoding import HEADER, NOWHERE, Step, Wanted, excerpts, opened, past, walk

PLUGIN = "snapshot"
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}


class Description(msgspec.Struct, frozen=True):
    """The lines' table, and their columns in order."""

    schema: str
    table: str
    identity: str
    columns: tuple[tuple[str, int, bool], ...]  # name, type oid, part of the replica identity

    @classmethod
    def of(cls, relation: Relation) -> Description:
        """The description of a relation, all of whose columns the lines have."""
        return cls(relation.schema, relation.name, relation.identity, relation.columns)

    def relation(self) -> Relation:
        """The relation of the changes made of these lines."""
        return Relation(self.schema, self.table, tuple(Column(*column) for column in self.columns), self.identity)


def segment_of(lines: Sequence[bytes | memoryview], relation: bytes, low: Lsn, read_at: int) -> Segment:
    """The segment of a chunk. `relation` is a Description as JSON; `read_at` is in microseconds since the Unix epoch."""
    pack = HEADER.pack
    return Segment(
        plugin=PLUGIN,
        frames=b"".join([part for line in lines for part in (pack(len(line), low), line)]),
        count=len(lines),
        changes=len(lines),
        first=Position(low, 0),
        last=Position(low, len(lines) - 1),
        first_time=read_at,
        last_time=read_at,
        relations=(relation,),
        open=OpenTransaction(Transaction(0, low, read_at), 0, low, -1),
    )


class _RowReader(NamedTuple):
    """A relation, and the function that reads the columns wanted of its rows."""

    relation: Relation
    row: Callable[[bytes], Row] | None  # None: its rows are not wanted


class Decoder:
    """Segments of snapshot rows → Changes of op `r` with the columns wanted. Keeps a reader for each relation description."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._readers: dict[bytes, _RowReader] = {}

    def changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        """The segment's rows past `after`, in order. Raises ValueError if a line does not have the relation's columns."""
        try:
            yield from self._changes(segment, after)
        except (LookupError, struct.error) as error:
            raise ValueError(f"damaged rows at {segment.first}: {error!r}") from error

    def _changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        [payload] = segment.relations
        reader = self._readers.get(payload) or self._reader(payload)
        relation, row = reader
        if row is None:
            return
        transaction, ordinal, _, index = opened(segment.open)
        low = transaction.commit_lsn
        frames, unpack, new = segment.frames, HEADER.unpack_from, tuple.__new__
        at, end = 0, len(frames)
        skipping = segment.first <= after
        while at < end:
            size, lsn = unpack(frames, at)
            start, at = at + 12, at + 12 + size
            if at > end:
                raise ValueError(f"a row of {segment.first} is cut off")
            index += 1
            position = new(Position, (low, ordinal))
            ordinal += 1
            if skipping and position <= after:
                continue
            yield Change("r", relation, row(frames[start:at]), None, position, lsn, index, transaction)

    def _reader(self, payload: bytes) -> _RowReader:
        relation = msgspec.json.decode(payload, type=Description).relation()
        wanted = self._wanted(relation)
        reader = _RowReader(relation, None if wanted is None else _compile_row(relation, wanted[0]))
        self._readers[payload] = reader
        return reader


def _compile_row(relation: Relation, wanted: tuple[str, ...]) -> Callable[[bytes], Row]:
    """A function from a line to the cells wanted. Only a line with a backslash has a NULL or an escape."""
    places = {column.name: place for place, column in enumerate(relation.columns)}
    found = [places.get(name) for name in wanted]
    plain = "".join("None, " if place is None else f"cells[{place}], " for place in found)
    other = "".join(
        "None, " if place is None else f"x if BACKSLASH not in (x := cells[{place}]) else unescaped(x), " for place in found
    )
    lines = [
        "def row(line):",
        "    text = line.decode(); cells = text.split('\t')",
        f"    if len(cells) != {len(relation.columns)}: raise ValueError('a row does not have the columns of its relation')",
        f"    return ({plain}) if BACKSLASH not in text else ({other})",
    ]
    return define("row", "\n".join(lines), {"unescaped": unescaped, "BACKSLASH": "\\"}, f"snapshot {relation.table}")


def unescaped(cell: str) -> Text:
    """The text of a cell in COPY's text format, None for NULL."""
    return None if cell == "\\N" else _ESCAPED.sub(lambda found: _ESCAPES[found[1]], cell)


def cells(line: bytes | memoryview) -> list[Text]:
    """All cells of a line."""
    return [unescaped(cell) for cell in bytes(line).decode().split("\t")]


def _steps(segment: Segment) -> Iterator[Step]:
    place = segment.open or NOWHERE
    for lsn, at, end in walk(segment.frames):
        yield Step(place, lsn, segment.frames[at:end], list(segment.relations))
        place = past(place, lsn)


excerpt = partial(excerpts, _steps)
