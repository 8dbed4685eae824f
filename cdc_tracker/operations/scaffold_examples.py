"""Examples for the mapping files that `init` writes, from rows that the tables have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from cdc_tracker.mapping import Mapping, load_texts
from cdc_tracker.mapping.examples import Unusable, outcome
from cdc_tracker.mapping.lints.column_names import may_be_personal
from cdc_tracker.mapping.schema.shape import Example
from cdc_tracker.model import Event
from cdc_tracker.operations.scaffold_mappings import mapping_files
from cdc_tracker.sources.postgres.connection import Connection, translated
from cdc_tracker.sources.postgres.quoting import quoted
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.tables import Table

_ROWS = 20  # of a table that are tried
_SHOWN = ("event", "userId", "anonymousId", "properties")
_AS_JSON = frozenset({"integer", "decimal", "float", "boolean", "array"})
"""Kinds whose values are not texts in an example, too."""


def from_rows(connection: Connection, tables: Sequence[Table]) -> dict[str, Example]:
    """`schema.table` → an example for the event of a new row. Columns that may be personal are not read.

    Of a table without rows, without the right to read it, or without a mapping there is none.
    """
    mappings = load_texts(mapping_files(tables))
    found: dict[str, Example] = {}
    for table in tables:
        created = [mapping for mapping in mappings.for_table(table.table) if mapping.on == ("insert",)]
        if created and table.can_select and not any(map(may_be_personal, created[0].new_columns)):
            examples = (_example(created[0], row) for row in _rows(connection, table, created[0].new_columns))
            if example := next(filter(None, examples), None):
                found[table.table] = example
    return found


def _example(mapping: Mapping, row: dict[str, Any]) -> Example | None:
    """The row with the event that the mapping makes of it; None if it makes none."""
    try:
        event = outcome(mapping, Example(new=row, no_event=True), codec)
    except Unusable:
        return None
    if not isinstance(event, Event):
        return None
    return Example(new=row, event={name: value for name, value in event.decoded().items() if name in _SHOWN})


@translated()
def _rows(connection: Connection, table: Table, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The first rows that the server finds, as JSON has them. JSON columns are empty: they may hold anything."""
    kinds = {column.name: codec(column.type_oid).kind for column in table.columns}
    listed = ", ".join(f"{_value(quoted(name), kinds[name])} AS {quoted(name)}" for name in columns)
    query = f"SELECT to_jsonb(r)::text FROM (SELECT {listed} FROM {quoted(table.schema, table.name)} LIMIT {_ROWS}) r"
    return iter([json.loads(text, parse_float=Decimal) for (text,) in connection.execute(query.encode()).fetchall()])


def _value(column: str, kind: str) -> str:
    if kind == "json":
        return "'{}'::jsonb"
    return column if kind in _AS_JSON else f"{column}::text"
