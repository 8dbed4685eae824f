"""What two moments of a schema mean for the mapped events: which would break, fall silent or change between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from cdc_tracker import mapping as declared
from cdc_tracker.errors import Problem
from cdc_tracker.mapping import Mappings
from cdc_tracker.mapping.typing.mappings import value_types
from cdc_tracker.mapping.typing.types import column_type
from cdc_tracker.operations.check import ok
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.tables import Table
from cdc_tracker.units import plural

_ABSENT = "does not exist"
_OTHER_TYPE = "A destination with typed columns may refuse it: convert it in the mapping, or prepare the destination."
_OTHER_ID = "The same row gets another id than before: what is sent again, by a rewind or a backfill, is there twice."
_ALSO = "; also at "
_COLUMN = re.compile(r"^column [0-9]+: ")
_GRAMMAR = {"is", "are", "and", "or", "also", "at", "more"}  # words that tell one from many
_PARKED = ("has no column", "not logged")  # its event becomes a dead letter
_OF_COLUMN = re.compile(r"the column (.+?) is ")
_SHOWN = 10
_RENAMED = "Write the new name in the mapping's `table`. Ids stay the same, as the mapping's `key` does."
_SETUP = "`cdc-tracker setup` does it: run it right after the migration."
_WORDS = {"r": "table", "p": "partitioned table", "v": "view", "m": "materialized view", "f": "FULL", "d": "DEFAULT"}
_WORDS |= {"n": "NOTHING", "i": "USING INDEX"}


@dataclass(frozen=True)
class Seen:
    """What is found at one moment. `tables`: all, by `schema.table`; `statements`: what the publications lack."""

    tables: dict[str, Table]
    findings: tuple[Problem, ...]
    statements: tuple[str, ...]


def compared(mappings: Mappings, before: Seen, after: Seen) -> Iterator[Problem]:
    """What is new, or cannot be told."""
    yield from table_changes(mappings, before.tables, after.tables)
    known = {same for problem in before.findings for same in _identity(problem)}
    new = [problem for problem in after.findings if not known.issuperset(_identity(problem)) or problem.message == _ABSENT]
    for problem in new:
        named = _renamed(problem, before.tables, after.tables)
        if not problem.where and problem.key in after.tables.keys() - before.tables:  # it was not captured before, either
            named = replace(named, severity="warning")
        yield replace(named, message=f"{_verdict(named, mappings)}{named.message}")
    broken = {problem.key for problem in new if problem.severity == "error"}
    yield from (problem for problem in _type_changes(mappings, before.tables, after.tables) if problem.key not in broken)
    if after.statements:
        yield Problem("publication", "", f"must change: {'; '.join(after.statements)}", _SETUP, "warning")
    left = sum(problem.severity == "error" and problem not in new for problem in after.findings)
    if left:
        yield Problem("mappings", "", f"{plural(left, 'error')} without the migration, too: see `check`", severity="warning")


def _type_changes(mappings: Mappings, before: Mapping[str, Table], after: Mapping[str, Table]) -> Iterator[Problem]:
    """Values that stay valid and become of another type. Users and groups are sent as text, whatever their type is."""
    for mapping in mappings.all:
        tables = before.get(mapping.table), after.get(mapping.table)
        if tables[0] is None or tables[1] is None:
            continue
        old, new = (_value_types(mapping, table) for table in tables if table)
        for placed in mapping.expressions():
            one, other = old.get(placed.key), new.get(placed.key)
            if one is None or other is None or one == other or placed in {each for _, each in mapping.ids}:
                continue
            what = "which is part of the event's id" if placed in (mapping.id or ()) else "as its destinations will see it"
            text = f"{mapping.key}: {placed.expression.text.strip()} is {other} instead of {one}, {what}"
            yield Problem(placed.where, placed.key, text, _OTHER_ID if placed in (mapping.id or ()) else _OTHER_TYPE, "warning")


def _value_types(mapping: declared.Mapping, table: Table) -> dict[str, str]:
    return value_types(mapping, {column.name: column_type(column, codec) for column in table.columns})


def _identity(problem: Problem) -> set[tuple[str, str]]:
    """What makes two findings the same. A warning may name other columns than before, one that a statement mends only fewer."""
    if problem.hint.startswith("ALTER TABLE"):
        words = {word.strip(",:;") for word in f"{problem.where} {problem.key} {problem.message}".split()}
        return {(f"{problem.severity} {problem.hint}", word) for word in words - _GRAMMAR}
    if problem.hint and problem.severity == "warning":
        return {(problem.key, problem.hint)}
    message, _, others = problem.message.partition(_ALSO)
    places = (f"{problem.where}: {problem.key}", *(place for place in others.split(", ") if ": " in place))
    return {(place, _COLUMN.sub("", message)) for place in places}


def _renamed(problem: Problem, before: Mapping[str, Table], after: Mapping[str, Table]) -> Problem:
    """A table that does not exist any more, by the name that it has now."""
    old = before.get(problem.key) if problem.message == _ABSENT else None
    found = next((name for name, table in after.items() if old is not None and table.oid == old.oid), None)
    return replace(problem, message=f"is {found} after the migration", hint=_RENAMED) if found else problem


def _verdict(problem: Problem, mappings: Mappings) -> str:
    """`Order Paid would fall silent: `, by what is found and where."""
    events = [mapping.key for mapping in mappings.all if _concerns(problem, mapping)]
    shown = ", ".join(events[:_SHOWN]) + (f" and {len(events) - _SHOWN} more" if len(events) > _SHOWN else "")
    if problem.severity != "error" or not events:
        return f"{shown}: " if events else ""
    if problem.key in mappings.tables() or not problem.where:
        silent = problem.message.startswith(("is ", "the publication ", _ABSENT))
    else:
        silent = problem.key.endswith(".when") and not any(text in problem.message for text in _PARKED)
    return f"{shown} would {'fall silent' if silent else 'break'}: "


def _concerns(problem: Problem, mapping: declared.Mapping) -> bool:
    """Whether the finding is about this event: about its table, what it needs of that, or a place in it."""
    if not problem.where and "." not in problem.key:
        return True  # a publication is all tables'
    if problem.key == mapping.table:
        if column := _OF_COLUMN.match(problem.message):
            return column[1] in (*mapping.new_columns, *mapping.old_columns)
        return "identity" not in problem.message or not {"update", "delete"}.isdisjoint(mapping.on)
    places = {(placed.where, placed.key) for placed in mapping.expressions()}
    places |= {(member.where, member.key) for member in (*mapping.body, *mapping.context)}
    return problem.key == mapping.key or any(
        (where == problem.where and problem.key.startswith(key)) or f"{where}: {key}" in problem.message for where, key in places
    )


# What of the mapped tables changes, as evidence that the migration was seen.


def table_changes(mappings: Mappings, before: Mapping[str, Table], after: Mapping[str, Table]) -> Iterator[Problem]:
    """For each mapped table what the migration does to it, without judging."""
    found = 0
    for name in mappings.tables():
        changes = list(_table_changes(before.get(name), after.get(name)))
        found += len(changes)
        yield from (ok(name, change) for change in changes)
    if not found:
        yield ok("migration", "changes no table that is mapped")


def _table_changes(old: Table | None, new: Table | None) -> Iterator[str]:
    if old is None or new is None:
        if old is not new:
            yield "is gone" if new is None else "is there"
        return
    if old.oid != new.oid:
        yield "is another table of the same name"
    for what, one, other in (("kind", old.kind, new.kind), ("replica identity", old.identity, new.identity)):
        if one != other:
            yield f"{what} {_WORDS[one]} → {_WORDS[other]}"
    added = {leaf.name for leaf in new.leaves} - {leaf.name for leaf in old.leaves}
    gone = {leaf.name for leaf in old.leaves} - {leaf.name for leaf in new.leaves}
    yield from (f"new partition {leaf}" for leaf in sorted(added))
    yield from (f"partition {leaf} is gone" for leaf in sorted(gone))
    yield from _column_changes(old, new)


def _column_changes(old: Table, new: Table) -> Iterator[str]:
    for column in old.columns:
        now = new.column(column.name)
        if now is None:
            yield f"column {column.name} is gone"
            continue
        if column.type_name != now.type_name:
            yield f"column {column.name}: {column.type_name} → {now.type_name}"
        if column.not_null != now.not_null:
            yield f"column {column.name} {'must not be NULL' if now.not_null else 'may be NULL'}"
        if column.labels != now.labels:
            yield f"column {column.name}: {', '.join(column.labels)} → {', '.join(now.labels)}"
        if column.generated != now.generated:
            yield f"column {column.name} {'is generated' if now.generated else 'is no longer generated'}"
    yield from (f"new column {column.name}: {column.type_name}" for column in new.columns if old.column(column.name) is None)
