"""Values that PostgreSQL does not log: old values outside the REPLICA IDENTITY, and large values that an update leaves alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.schema.declared import Mapping
from cdc_tracker.model import Codec, Relation

_SIMPLE = re.compile(r"[a-z_][a-z0-9_$]*")
_IDENTITIES = {
    "d": "DEFAULT, which logs key columns only",
    "i": "USING INDEX, which logs that index's columns only",
    "n": "NOTHING",
}
_TEXT_OID = 25
_LARGE = frozenset({"json", "array", "bytes"})


def unlogged(mapping: Mapping, relation: Relation) -> Iterator[Problem]:
    """A problem for each `old.x` in a mapping of updates or deletes whose x the table's replica identity does not log."""
    if relation.identity == "f" or not {"update", "delete"} & set(mapping.on):
        return
    logged = {column.name: column.key and relation.identity != "n" for column in relation.columns}
    for placed in mapping.expressions():
        for use in placed.expression.uses:
            if use.row == "old" and logged.get(use.name) is False:
                identity = _IDENTITIES.get(relation.identity, relation.identity)
                message = f"column {use.column}: old.{use.name} is not logged: {relation.table} has REPLICA IDENTITY {identity}"
                yield Problem(placed.where, placed.key, message, full_identity(relation))


def untouched(mappings: Sequence[Mapping], relation: Relation, codec: Callable[[int], Codec]) -> Iterator[Problem]:
    """A warning if mappings of updates read text without a limit, JSON, arrays or bytea of the table.

    PostgreSQL stores large values of these apart, and does not log one that an update leaves alone.
    """
    if relation.identity == "f":
        return
    large = {column.name for column in relation.columns if column.type_oid == _TEXT_OID or codec(column.type_oid).kind in _LARGE}
    reading = [mapping for mapping in mappings if "update" in mapping.on and large.intersection(mapping.new_columns)]
    if reading:
        read = dict.fromkeys(name for mapping in reading for name in mapping.new_columns if name in large)
        yield Problem(
            reading[0].where,
            ", ".join(mapping.key for mapping in reading),
            f"a large value of {_listed(list(read))} is not logged by an update that leaves it alone; "
            "the event is then rejected as unchanged_toast",
            full_identity(relation),
            "warning",
        )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def full_identity(relation: Relation) -> str:
    """The statement that makes PostgreSQL log every old value of the table."""
    return f"ALTER TABLE {_quoted(relation.schema)}.{_quoted(relation.name)} REPLICA IDENTITY FULL;"


def _quoted(name: str) -> str:
    if _SIMPLE.fullmatch(name):
        return name
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
