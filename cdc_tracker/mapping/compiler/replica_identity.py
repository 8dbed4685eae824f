"""What a table's REPLICA IDENTITY logs of old rows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.schema.declared import Mapping
from cdc_tracker.model import Relation

_SIMPLE = re.compile(r"[a-z_][a-z0-9_$]*")
_IDENTITIES = {
    "d": "DEFAULT, which logs key columns only",
    "i": "USING INDEX, which logs that index's columns only",
    "n": "NOTHING",
}


def unlogged(mapping: Mapping, relation: Relation) -> Iterator[Problem]:
    """`old.x` in a mapping of updates or deletes, where the table's replica identity does not log x."""
    if relation.identity == "f" or not {"update", "delete"} & set(mapping.on):
        return
    known = {column.name: column.key and relation.identity != "n" for column in relation.columns}
    for placed in mapping.expressions():
        for use in placed.expression.uses:
            if use.row == "old" and known.get(use.name) is False:
                identity = _IDENTITIES.get(relation.identity, relation.identity)
                message = f"column {use.column}: old.{use.name} is not logged: {relation.table} has REPLICA IDENTITY {identity}"
                yield Problem(placed.where, placed.key, message, full_identity(relation))


def full_identity(relation: Relation) -> str:
    """The command that makes every old value known."""
    return f"ALTER TABLE {_quoted(relation.schema)}.{_quoted(relation.name)} REPLICA IDENTITY FULL;"


def _quoted(name: str) -> str:
    if _SIMPLE.fullmatch(name):
        return name
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
