"""Changes as Debezium's envelope (`before, after, source, op, ts_ms`), raw events with that body, and row keys. Pure.

The JSON is that of Debezium's JSON converter without schemas. Times, decimals and bytes are written as in events, which is exact,
instead of by Debezium's settings for them. A value that was not logged is left out of `before`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cdc_tracker import envelope
from cdc_tracker.errors import Problem
from cdc_tracker.mapping import Plan
from cdc_tracker.model import RAW, UNCHANGED, UNLOGGED, Change, Event, Missing, Op, Rejection, Relation, Row, Text
from cdc_tracker.pipeline.steps import Step
from cdc_tracker.sources.postgres.values import codec

UNAVAILABLE = '"__debezium_unavailable_value"'  # Debezium's placeholder for an unchanged TOAST value that was not logged
_OPERATIONS = (Op.INSERT, Op.UPDATE, Op.DELETE, Op.TRUNCATE, Op.READ)


def every_column(relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns all columns of the relation, for new and for old rows: a Wanted for a decoder."""
    names = tuple(column.name for column in relation.columns)
    return names, names


def as_envelope(change: Change, database: str) -> str:
    """Returns the envelope as one line of JSON. The change must have been decoded with every column."""
    return envelope_writer(change.relation, database)(change)


def envelope_writer(relation: Relation | None, database: str) -> Callable[[Change], str]:
    """Returns `as_envelope` for the changes of one relation; None: for logical messages."""
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


def raw_key(table: str) -> str:
    """Returns the key under which the ledger counts the raw events of a table."""
    return f"{RAW}:{table}"


def raw_plan(relation: Relation, row_key: Sequence[str], database: str, namespace: uuid.UUID) -> Plan:
    """Returns a plan that makes a raw event of every change of the relation, with every column. `row_key`: its columns."""
    columns, _ = every_column(relation)
    keys = key_writer(relation, row_key, columns, columns)
    key, write, make_id = raw_key(relation.table), envelope_writer(relation, database), envelope.id_maker(namespace)

    def build(change: Change) -> Event | Rejection:
        committed_at = change.transaction.committed_at
        if relation.incomplete and (gap := _gap(change)):
            detail = f"a column is not known: {gap.why}"
            return Rejection(gap.reason, key, change.position, committed_at, detail=detail)
        message_id = make_id(envelope.default_name(RAW, change))
        return Event(message_id, RAW, write(change).encode(), key, change.position, committed_at, *keys(change))

    return Plan(columns, columns, {op.value: (build,) for op in _OPERATIONS})


def _gap(change: Change) -> Missing | None:
    """Returns why a value is missing, if the reason is not the replica identity."""
    cells = (*(change.new or ()), *(change.old or ()))
    return next((cell for cell in cells if isinstance(cell, Missing) and cell not in (UNCHANGED, UNLOGGED)), None)


class RowKey(NamedTuple):
    """The columns that identify a row of a relation; empty if there are none, with the problem."""

    columns: tuple[str, ...]
    problem: Problem | None = None


def row_key(relation: Relation, given: Mapping[str, Sequence[str]]) -> RowKey:
    """Returns the columns that `given` has for the table, else those of the replica identity if it is a key."""
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
    """Returns a function from a change to its row's key and, if an update changed the key, the old one; empty: none.

    `new` and `old`: the columns of the change's new and old rows. Both must contain the key's columns.
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


def with_row_key(relation: Relation, key: Sequence[str], new: Sequence[str], old: Sequence[str]) -> Step:
    """Returns a step that sets `row_key`. For the arguments see `key_writer`."""
    write = key_writer(relation, key, new, old)

    def step(event: Event, change: Change) -> Event:
        key, _ = write(change)
        return Event(event.message_id, event.type, event.body, event.mapping, event.position, event.committed_at, key)

    return step
