"""An `id` that makes one event of several."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.lints.conditions import columns, condition
from cdc_tracker.mapping.lints.english import words
from cdc_tracker.mapping.lints.facts import Facts, warning, whole, written
from cdc_tracker.mapping.schema.declared import Mapping

_CHANGES = {"lsn", "xid", "committed_at"}
"""Names that differ from change to change."""
_VERSIONS = {"updated", "modified", "changed", "version", "revision", "sequence", "seq", "touched", "edited"}
"""Words in the names of columns that differ from update to update."""
_MOMENTS = {"at", "on", "time", "timestamp", "date", "day", "ts", "created", "month", "week", "year"}
_ONCE = {"first", "once", "initial", "initially", "activated", "activation", "onboarded", "converted"}
"""Words in an event's name that say: once, of whatever the id is made of."""


def differs_each_time(mapping: Mapping) -> bool:
    """Whether the id has a part that differs from update to update of a row."""
    return bool(_names(mapping) & _CHANGES) or any(_VERSIONS & set(words(name)) for name in _columns(mapping))


def narrow_id(mapping: Mapping, facts: Facts) -> Iterator[Problem]:
    """An id that holds neither a key of the row nor anything that differs from event to event: rows share one event."""
    table = facts.table
    if mapping.id is None or table is None or not table.unique_keys or _ONCE & set(words(mapping.name)):
        return
    read = _columns(mapping)
    if any(_naming(key, facts) <= read for key in table.unique_keys) or differs_each_time(mapping):
        return
    if any(_is_moment(name, facts) for name in read) or read & condition(mapping).compared:
        return
    shared = " and ".join(sorted(read))
    alike = f"all rows of {table.table} with the same {shared}" if read else f"all rows of {table.table}"
    key = ", ".join(written("new", name) for name in table.unique_keys[0])
    yield warning(
        mapping.id[0],
        f"{alike} give one event: the id holds neither the row's key nor anything that changes",
        f"Add the key, {key}, and what differs from event to event of a row. Leave it if one event for each "
        f"{shared or 'table'} is meant.",
    )


def repeated_id(mapping: Mapping, facts: Facts) -> Iterator[Problem]:
    """The id of a row for an event that may happen to a row again and again: all after the first are taken for the same event."""
    table = facts.table
    if mapping.id is None or table is None or "update" not in mapping.on or _ONCE & set(words(mapping.name)):
        return
    read, asked = _columns(mapping), condition(mapping)
    keys = {name for key in table.unique_keys for name in key}
    if not read or not read <= keys or _names(mapping) & _CHANGES or any(_is_moment(name, facts) for name in read):
        return
    moving = sorted(asked.compared - asked.tested)
    if asked.tests and not moving:
        return  # once a row, when it first comes into the state
    how = f"{' and '.join(moving)} may change again and again" if moving else "a row may be updated again and again"
    differing = written("new", moving[0]) if moving else "lsn"
    yield warning(
        mapping.id[0],
        f"{how}, and the id stays that of the row: every event after the first is taken for the same one",
        f"Add what differs, such as {differing}, or leave out `id`. Leave it if a row's first event is all that is meant.",
    )


def _columns(mapping: Mapping) -> set[str]:
    """The columns that the id is made of."""
    return {name for placed in mapping.id or () for _, name in columns(whole(mapping, placed))}


def _names(mapping: Mapping) -> set[str]:
    """The plain names in the id."""
    return {node.id for placed in mapping.id or () for node in ast.walk(whole(mapping, placed)) if isinstance(node, ast.Name)}


def _naming(key: tuple[str, ...], facts: Facts) -> set[str]:
    """The part of a key that names the row: a partitioned table's key has the partitions' column besides, often a time."""
    return {"id"} if "id" in key else {name for name in key if not _is_moment(name, facts)} or set(key)


def _is_moment(name: str, facts: Facts) -> bool:
    return facts.kind(name) in {"", "timestamptz", "timestamp", "date", "time"} or words(name)[-1] in _MOMENTS
