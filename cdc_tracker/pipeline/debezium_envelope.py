"""A change in the shape that Debezium gives it: the envelope `before, after, source, op, ts_ms`, and its row's key. Pure.

As its JSON converter writes them without schemas. Times, decimals and bytes are written as in events, which is exact, and not by
Debezium's own settings for them. A value that was not logged is left out of `before`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cdc_tracker import envelope
from cdc_tracker.errors import Problem
from cdc_tracker.model import UNCHANGED, UNLOGGED, Change, Missing, Relation, Row, Text
from cdc_tracker.sources.postgres.values import codec

UNAVAILABLE = '"__debezium_unavailable_value"'  # what Debezium puts where an unchanged TOAST value was not logged


def every_column(relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a decoder is told to read of each row for the envelope."""
    names = tuple(column.name for column in relation.columns)
    return names, names


def as_envelope(change: Change, database: str) -> str:
    """JSON text, one line. The change's rows hold every column."""
    return envelope_writer(change.relation, database)(change)


def envelope_writer(relation: Relation | None, database: str) -> Callable[[Change], str]:
    """`as_envelope` for the changes of one relation; None: for messages."""
    prefix = envelope.source_prefix(database, relation)

    def end(change: Change) -> str:
        source, moment = envelope.source_block(prefix, change), change.transaction.committed_at // 1000
        return f'"source":{source},"op":"{change.op}","ts_ms":{moment}}}'

    if relation is None:
        return lambda change: f'{{"message":{_message(change)},{end(change)}'
    row = _row_writer(relation)
    return lambda change: f'{{"before":{row(change.old)},"after":{row(change.new)},{end(change)}'


def _message(change: Change) -> str:
    content = UNAVAILABLE if isinstance(change.content, Missing) else envelope.quote(change.content or "")
    return f'{{"prefix":{envelope.quote(change.prefix)},"content":{content}}}'


def _row_writer(relation: Relation) -> Callable[[Row | None], str]:
    columns = [(f"{envelope.quote(column.name)}:", codec(column.type_oid).to_json) for column in relation.columns]

    def write(row: Row | None) -> str:
        if row is None:
            return "null"
        parts = [
            name + (to_json(cell) if cell.__class__ is str else "null" if cell is None else UNAVAILABLE)
            for (name, to_json), cell in zip(columns, row, strict=True)
            if cell is not UNLOGGED
        ]
        return f"{{{','.join(parts)}}}" if parts else "null"

    return write


class RowKey(NamedTuple):
    """How the rows of a relation are named: by which columns, or why they cannot be."""

    columns: tuple[str, ...]
    problem: Problem | None = None


def row_key(relation: Relation, given: Mapping[str, Sequence[str]]) -> RowKey:
    """The columns of its replica identity, if that is a key; those of `given` where it has the table."""
    names = {column.name for column in relation.columns}
    chosen = given.get(relation.table)
    if chosen is not None:
        missing = [name for name in chosen if name not in names]
        if missing:
            return RowKey((), Problem("", relation.table, f"key_columns names {missing[0]!r}, which the table does not have"))
        logged = {column.name for column in relation.columns if column.key or relation.identity == "f"}
        bare = [name for name in chosen if name not in logged]
        text = f"key_columns names {bare[0]!r}, which is not logged of deleted rows" if bare else ""
        hint = "ALTER TABLE … REPLICA IDENTITY FULL"
        return RowKey(tuple(chosen), Problem("", relation.table, text, hint, "warning") if bare else None)
    if relation.identity in ("f", "n"):
        text = "its replica identity does not tell which columns name a row: its changes have no key"
        hint = f"name them in the destination's settings, such as key_columns: {{{relation.table}: [id]}}"
        return RowKey((), Problem("", relation.table, text, hint, "warning"))
    return RowKey(tuple(column.name for column in relation.columns if column.key))


def key_writer(
    relation: Relation, key: Sequence[str], new: Sequence[str], old: Sequence[str]
) -> Callable[[Change], tuple[bytes, bytes]]:
    """A function from a change to its row's key, and to the key that an update took from it; empty where there is none.

    `new` and `old`: the columns that the change's rows hold. Both hold those of the key.
    """
    if not key:
        return lambda change: (b"", b"")
    loads = {column.name: codec(column.type_oid).to_json for column in relation.columns}
    parts = [(f"{envelope.quote(name)}:", loads[name]) for name in key]
    in_new, in_old = [new.index(name) for name in key], [old.index(name) for name in key]

    def text(cells: Sequence[Text]) -> bytes:
        if any(isinstance(cell, Missing) for cell in cells):
            return b""
        pairs = zip(parts, cells, strict=True)
        members = [name + ("null" if cell is None else to_json(str(cell))) for (name, to_json), cell in pairs]
        return f"{{{','.join(members)}}}".encode()

    def write(change: Change) -> tuple[bytes, bytes]:
        after = [change.new[place] for place in in_new] if change.new is not None else None
        before = [change.old[place] for place in in_old] if change.old is not None else None
        if after is None:
            return (text(before), b"") if before is not None else (b"", b"")
        if before is None or before == after:
            return text(after), b""
        after = [was if cell is UNCHANGED else cell for cell, was in zip(after, before, strict=True)]
        was = text(before)
        now = text(after)
        return now, was if was != now else b""

    return write
