"""What is wrong with mappings, found before anything runs: the one entry for `check`, `test-mappings` and a reload."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from collections.abc import Mapping as Dict
from dataclasses import replace

from cdc_tracker.errors import Problem
from cdc_tracker.mapping import lints
from cdc_tracker.mapping.compiler import replica_identity
from cdc_tracker.mapping.compiler.compile import misfits
from cdc_tracker.mapping.schema.declared import Mapping, Mappings
from cdc_tracker.mapping.typing import mappings as typing
from cdc_tracker.mapping.typing.types import column_type
from cdc_tracker.model import Codec
from cdc_tracker.tables import Table

_COLUMN = re.compile(r"column [0-9]+: ")
_PLACES = 10  # of one cause that are named


def findings(mappings: Mappings, tables: Dict[str, Table] | None, codec: Callable[[int], Codec]) -> list[Problem]:
    """Errors and warnings of all mappings. `tables`: the catalog by `schema.table`; None: it is unknown, and so are all columns.

    What has one cause in one table is one finding, which names all its places. A table that does not exist is no finding of
    this. The warnings that the files gave when they were read are in `mappings`.
    """
    problems: list[Problem] = []
    for name in mappings.tables():
        table, wanted = (tables.get(name) if tables else None), mappings.for_table(name)
        misfits = _misfits(wanted, table, codec) if table is not None else []
        problems += misfits
        problems += _by_cause(_typed(wanted, table, codec, {each.key for each in misfits}), _cause)
        problems += _unlogged(wanted, table, codec) if table is not None else ()
        problems += lints.of_table(wanted, table, codec)
    problems += lints.of_all(mappings)
    return list(dict.fromkeys(problems))


def faults(mappings: Mappings, tables: Dict[str, Table], codec: Callable[[int], Codec]) -> list[Problem]:
    """The errors among the findings that a worker meets by itself: mappings that only reject, and `old` values not logged."""
    problems: list[Problem] = []
    for name in mappings.tables():
        if (table := tables.get(name)) is not None:
            problems += _misfits(mappings.for_table(name), table, codec)
            problems += [each for each in _unlogged(mappings.for_table(name), table, codec) if each.severity == "error"]
    return problems


def _misfits(mappings: list[Mapping], table: Table, codec: Callable[[int], Codec]) -> list[Problem]:
    """Unknown columns, and types that never fit."""
    return list(_by_cause(misfits(mappings, table.relation, codec), _cause))


def _typed(mappings: list[Mapping], table: Table | None, codec: Callable[[int], Codec], known: set[str]) -> list[Problem]:
    """What the types of expressions say. `known`: keys that a misfit has already."""
    columns = {column.name: column_type(column, codec) for column in table.columns} if table is not None else None
    return [each for mapping in mappings for each in typing.problems(mapping, columns) if each.key not in known]


def _unlogged(mappings: list[Mapping], table: Table, codec: Callable[[int], Codec]) -> Iterator[Problem]:
    """What the table's REPLICA IDENTITY leaves out of the log, certainly or else for large values, and what mends it."""
    remedy = " ".join(replica_identity.logging_statements(table))
    uses = replica_identity.unlogged(mappings, table.relation)
    weaker = [leaf for leaf in table.logged_leaves if leaf.identity not in {table.identity, "f"}]
    holder = f"{len(weaker)} of {len(table.leaves)} partitions of {table.table} have" if weaker else f"{table.table} has"
    yield from replica_identity.unlogged_problem(uses, table.relation, holder, remedy)
    if not uses:
        yield from replica_identity.untouched(mappings, table.relation, codec, remedy)


def _by_cause(problems: list[Problem], cause: Callable[[Problem], Hashable]) -> Iterator[Problem]:
    """One problem for each cause, with the places of the others."""
    causes: dict[Hashable, list[Problem]] = {}
    for problem in dict.fromkeys(problems):
        causes.setdefault(cause(problem), []).append(problem)
    for first, *others in causes.values():
        places = list(
            dict.fromkeys(f"{each.where}: {each.key}" for each in others if (each.where, each.key) != (first.where, first.key))
        )
        more = f"; also at {', '.join(places[:_PLACES])}" if places else ""
        rest = f", and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
        yield replace(first, message=f"{first.message}{more}{rest}")


def _cause(problem: Problem) -> Hashable:
    """What several problems of a table have in common: all but their places."""
    return _COLUMN.sub("", problem.message), problem.hint, problem.severity
