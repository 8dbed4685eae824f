"""Values that PostgreSQL does not log: old values outside the REPLICA IDENTITY, and large values that an update leaves alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.schema.declared import Mapping, Placed
from cdc_tracker.model import Codec, Relation
from cdc_tracker.tables import Table

_SIMPLE = re.compile(r"[a-z_][a-z0-9_$]*")
_IDENTITIES = {
    "d": "DEFAULT, which logs key columns only",
    "i": "USING INDEX, which logs that index's columns only",
    "n": "NOTHING",
}
_TEXT_OID = 25
_LARGE = frozenset({"json", "array", "bytes"})


class Unlogged(NamedTuple):
    """A use of `old.column` that is None or missing in the log. `placed`: the expression, of the mapping."""

    mapping: Mapping
    placed: Placed
    column: str


def unlogged(mappings: Iterable[Mapping], relation: Relation) -> list[Unlogged]:
    """Each `old.x` in the mappings of updates or deletes whose x the table's replica identity does not log."""
    logged = {column.name for column in relation.columns if relation.identity == "f" or (column.key and relation.identity != "n")}
    unknown = {column.name for column in relation.columns} - logged
    changing = [mapping for mapping in mappings if {"update", "delete"} & set(mapping.on)]
    uses = [(mapping, placed, use) for mapping in changing for placed in mapping.expressions() for use in placed.expression.uses]
    return [Unlogged(mapping, placed, use.name) for mapping, placed, use in uses if use.row == "old" and use.name in unknown]


def unlogged_problem(uses: Sequence[Unlogged], relation: Relation, holder: str, remedy: str) -> Iterator[Problem]:
    """One problem for all of them, if there are any. `holder`: `shop.orders has`, or which partitions have the identity."""
    if not uses:
        return
    named = [f"old.{name}" for name in dict.fromkeys(use.column for use in uses)]
    identity = _IDENTITIES.get(relation.identity, relation.identity)
    are = f"{_listed(named, 'and')} {'is' if len(named) == 1 else 'are'} not logged"
    message = f"{are}: {holder} REPLICA IDENTITY {identity}"
    first, *others = dict.fromkeys((use.placed.where, use.placed.key) for use in uses)
    if others:
        message += f"; also at {_some([f'{where}: {key}' for where, key in others])}"
    yield Problem(*first, message, remedy)


def untouched(mappings: Iterable[Mapping], relation: Relation, codec: Callable[[int], Codec], remedy: str) -> Iterator[Problem]:
    """One warning if mappings of updates read text without a limit, JSON, arrays or bytea.

    PostgreSQL stores large values of these apart, and does not log one that an update leaves alone.
    """
    if relation.identity == "f":
        return
    large = {column.name for column in relation.columns if column.type_oid == _TEXT_OID or codec(column.type_oid).kind in _LARGE}
    reading = [mapping for mapping in mappings if "update" in mapping.on and large & set(mapping.new_columns)]
    if reading:
        read = dict.fromkeys(name for mapping in reading for name in mapping.new_columns if name in large)
        yield Problem(
            reading[0].where,
            _some([mapping.key for mapping in reading]),
            f"a large value of {_listed([*read], 'or')} is not logged by an update that leaves it alone; "
            "the event is then rejected as unchanged_toast",
            remedy,
            "warning",
        )


def _listed(names: list[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def full_identity(schema: str, name: str) -> str:
    """The statement that makes PostgreSQL log every old value of the table."""
    return f"ALTER TABLE {_quoted(schema)}.{_quoted(name)} REPLICA IDENTITY FULL;"


def logging_statements(table: Table) -> list[str]:
    """What makes PostgreSQL log every old value of the table. Partitions have a replica identity each, and inherit none."""
    parts = [
        (table.schema, table.name, table.identity),
        *((leaf.schema, leaf.name, leaf.identity) for leaf in table.logged_leaves),
    ]
    return [full_identity(schema, name) for schema, name, identity in parts if identity != "f"]


def _quoted(name: str) -> str:
    if _SIMPLE.fullmatch(name):
        return name
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
