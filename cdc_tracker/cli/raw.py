"""A Change as Debezium's envelope: `before, after, source, op, ts_ms`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cdc_tracker import envelope
from cdc_tracker.model import START, UNCHANGED, UNLOGGED, Change, Relation, Row, Segment
from cdc_tracker.source.values import codec
from cdc_tracker.translate import decoder

UNAVAILABLE = '"__debezium_unavailable_value"'  # what Debezium puts where an unchanged TOAST value was not logged


def every_column(relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a decoder is told to read of each row."""
    names = tuple(column.name for column in relation.columns)
    return names, names


def changes(segment: Segment) -> Iterator[Change]:
    """Every change of a segment with every column."""
    return decoder(segment.plugin, every_column).changes(segment, START)


def as_envelope(change: Change, database: str) -> str:
    """JSON text, one line. The change's rows hold every column. A value that was not logged is left out of `before`."""
    source = envelope.source_block(envelope.source_prefix(database, change.relation), change)
    moment = change.transaction.committed_at // 1000
    if change.relation is None:
        message = f'{{"prefix":{json.dumps(change.prefix)},"content":{json.dumps(change.content, ensure_ascii=False)}}}'
        return f'{{"message":{message},"source":{source},"op":"{change.op}","ts_ms":{moment}}}'
    before, after = _row(change.relation, change.old), _row(change.relation, change.new)
    return f'{{"before":{before},"after":{after},"source":{source},"op":"{change.op}","ts_ms":{moment}}}'


def _row(relation: Relation, row: Row | None) -> str:
    if row is None or all(cell is UNLOGGED for cell in row):
        return "null"
    parts = []
    for column, cell in zip(relation.columns, row, strict=True):
        if cell is UNLOGGED:
            continue
        value = UNAVAILABLE if cell is UNCHANGED else "null" if cell is None else codec(column.type_oid).to_json(str(cell))
        parts.append(f"{json.dumps(column.name, ensure_ascii=False)}:{value}")
    return f"{{{','.join(parts)}}}"
