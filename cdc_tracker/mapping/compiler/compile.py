"""Mappings and a relation → one Python function for each mapping and operation, from Change to Event, Rejection or None.

The functions are generated: see generate.py. What cannot work for this relation (a column that is not there, a number declared
where the column is text) does not raise: the function rejects every change that the mapping matches, and `Plan.problems` says so.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from cdc_tracker.config.nearest import nearest
from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.generate import Mapper, make_mapper
from cdc_tracker.mapping.compiler.replica_identity import unlogged
from cdc_tracker.mapping.compiler.writer import Fault, Table
from cdc_tracker.mapping.schema.declared import Mapping, Mappings, Placed
from cdc_tracker.model import Codec, Op, Relation


@dataclass(frozen=True)
class Plan:
    """What one relation's changes become, for one destination.

    `new_columns` and `old_columns` are wanted: Change.new and Change.old hold exactly these, in this order; what they hold for
    a column that the relation has not is never read. `by_op` has one function a mapping under each Op letter that the mapping is
    for; it returns None where the change does not match, and never raises. `problems` is what can be told already: mappings that
    will only reject, and old values that are not logged.
    """

    new_columns: tuple[str, ...]
    old_columns: tuple[str, ...]
    by_op: dict[str, tuple[Mapper, ...]]
    problems: tuple[Problem, ...] = ()


def compile_plan(
    mappings: Mappings,
    relation: Relation,
    codec: Callable[[int], Codec],
    *,
    space: uuid.UUID,
    database: str,
    destination: str | None,
) -> Plan | None:
    """The plan for a relation, or None where no mapping of this destination (None: of any) is for this table."""
    wanted = [mapping for mapping in mappings.for_table(relation.table) if mapping.goes_to(destination)]
    if not wanted:
        return None
    new = _columns(relation, {name for mapping in wanted for name in mapping.new_columns})
    old = _columns(relation, {name for mapping in wanted for name in mapping.old_columns})
    table = Table(relation, codec, new, old, space, database)
    by_op: dict[str, list[Mapper]] = {}
    problems: list[Problem] = []
    for mapping in wanted:
        faults = missing_columns(mapping, relation)
        for op in operations(mapping):
            made = make_mapper(mapping, table, op, faults)
            by_op.setdefault(op, []).append(made.function)
            problems += [fault.problem for fault in made.faults]
        problems += unlogged(mapping, relation)
    return Plan(new, old, {op: tuple(functions) for op, functions in by_op.items()}, tuple(dict.fromkeys(problems)))


def _columns(relation: Relation, wanted: set[str]) -> tuple[str, ...]:
    """In the relation's order; after them those that it has not, so that a decoder does not take a row that has them for its."""
    existing = [column.name for column in relation.columns if column.name in wanted]
    return (*existing, *sorted(wanted.difference(existing)))


def operations(mapping: Mapping) -> list[str]:
    """The Op letters that the mapping is for. A row read from the table (Op.READ) is for mappings with a backfill."""
    letters = {"insert": Op.INSERT.value, "update": Op.UPDATE.value, "delete": Op.DELETE.value}
    found = [letters[on] for on in mapping.on]
    return [*found, Op.READ.value] if mapping.backfill else found


def missing_columns(mapping: Mapping, relation: Relation) -> list[Fault]:
    """What the mapping reads and the table has not."""
    names = [column.name for column in relation.columns]
    return [
        Fault("column_missing", _field(mapping, placed), "", Problem(placed.where, placed.key, message))
        for placed in mapping.expressions()
        for use in placed.expression.uses
        if use.name not in names
        for message in [f"column {use.column}: {relation.table} has no column {use.name!r}{nearest(use.name, names)}"]
    ]


def _field(mapping: Mapping, placed: Placed) -> str:
    """The place within the event that an expression is for."""
    for name, each in mapping.ids:
        if each is placed:
            return name
    for member in (*mapping.body, *mapping.context):
        if (path := member.path_of(placed)) is not None:
            return path
    return placed.key.rsplit(".", 1)[-1]
