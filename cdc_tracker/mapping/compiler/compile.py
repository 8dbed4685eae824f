"""Mappings and a relation → one Python function for each mapping and operation, from Change to Event, Rejection or None.

The functions are generated: see generate.py. What cannot work for the relation (a column that does not exist, a number declared
for a text column) does not raise: the function rejects every change that the mapping matches, and `Plan.problems` says why.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdc_tracker.config.nearest import nearest
from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.generate import Mapper, make_mapper, write
from cdc_tracker.mapping.compiler.replica_identity import full_identity, unlogged, unlogged_problem
from cdc_tracker.mapping.compiler.writer import MappingFault, RowLayout
from cdc_tracker.mapping.schema.declared import Mapping, Mappings, Placed
from cdc_tracker.model import Codec, Op, Relation


@dataclass(frozen=True)
class Plan:
    """What one relation's changes become, for one destination.

    `new_columns` and `old_columns`: Change.new and Change.old must have exactly these columns, in this order; a column that the
    relation lacks may have any content. `by_op`: Op letter → one function for each mapping of that operation. A function returns
    None for a change that its mapping does not match, and never raises. `problems`: mappings that will only reject, and `old`
    values that are not logged.
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
    """The plan for a relation; None if no mapping of the destination names its table. `destination` None: mappings of any."""
    wanted = [mapping for mapping in mappings.for_table(relation.table) if mapping.goes_to(destination)]
    if not wanted:
        return None
    new = _columns(relation, {name for mapping in wanted for name in mapping.new_columns})
    old = _columns(relation, {name for mapping in wanted for name in mapping.old_columns})
    layout = RowLayout(relation, codec, new, old, space, database)
    by_op: dict[str, list[Mapper]] = {}
    problems: list[Problem] = []
    for mapping in wanted:
        faults = missing_columns(mapping, relation)
        for op in operations(mapping):
            generated = make_mapper(mapping, layout, op, faults)
            by_op.setdefault(op, []).append(generated.function)
            problems += [fault.problem for fault in generated.faults]
    remedy = full_identity(relation.schema, relation.name)
    problems += unlogged_problem(unlogged(wanted, relation), relation, f"{relation.table} has", remedy)
    return Plan(new, old, {op: tuple(functions) for op, functions in by_op.items()}, tuple(dict.fromkeys(problems)))


def misfits(mappings: Sequence[Mapping], relation: Relation, codec: Callable[[int], Codec]) -> list[Problem]:
    """Why mappings of a relation's table would only reject: columns that it does not have, and types that never fit.

    A function is written for each operation, as for a plan, and not compiled: that is most of the time that a plan takes.
    """
    new, old = ({name for mapping in mappings for name in mapping.columns(row)} for row in ("new", "old"))
    layout = RowLayout(relation, codec, sorted(new), sorted(old), uuid.UUID(int=0), "")
    found: list[Problem] = []
    for mapping in mappings:
        faults = missing_columns(mapping, relation)
        for op in operations(mapping):
            found += [fault.problem for fault in write(mapping, layout, op, faults).faults]
    return list(dict.fromkeys(found))


def _columns(relation: Relation, wanted: set[str]) -> tuple[str, ...]:
    """Returns the columns in the relation's order, those that it lacks last: else a decoder could take a row that has them."""
    existing = [column.name for column in relation.columns if column.name in wanted]
    return (*existing, *sorted(wanted.difference(existing)))


def operations(mapping: Mapping) -> list[str]:
    """The Op letters of a mapping. Rows read from the table (Op.READ) are for mappings with a backfill."""
    letters = {"insert": Op.INSERT.value, "update": Op.UPDATE.value, "delete": Op.DELETE.value}
    found = [letters[on] for on in mapping.on]
    return [*found, Op.READ.value] if mapping.backfill else found


def missing_columns(mapping: Mapping, relation: Relation) -> list[MappingFault]:
    """A fault for each use of a column that the table does not have."""
    names = [column.name for column in relation.columns]
    return [
        MappingFault("column_missing", _field(mapping, placed), "", Problem(placed.where, placed.key, message))
        for placed in mapping.expressions()
        for use in placed.expression.uses
        if use.name not in names
        for message in [f"column {use.column}: {relation.table} has no column {use.name!r}{nearest(use.name, names)}"]
    ]


def _field(mapping: Mapping, placed: Placed) -> str:
    """The path within the event that an expression computes."""
    lets = ((f"let.{name}", let) for name, let in mapping.let.items())
    for name, each in (*mapping.ids, (mapping.name_key, mapping.naming), *lets):
        if each is placed:
            return name
    for member in (*mapping.body, *mapping.context):
        if (path := member.path_of(placed)) is not None:
            return path
    return placed.key.rsplit(".", 1)[-1]
