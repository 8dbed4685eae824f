"""What is wrong with mappings, found before anything runs: the one entry for `check`, `test-mappings` and a reload."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Dict

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.compile import compile_plan
from cdc_tracker.mapping.compiler.replica_identity import untouched
from cdc_tracker.mapping.lints import lints
from cdc_tracker.mapping.schema.declared import Mappings
from cdc_tracker.model import Codec
from cdc_tracker.tables import Table


def findings(mappings: Mappings, tables: Dict[str, Table] | None, codec: Callable[[int], Codec]) -> list[Problem]:
    """Errors and warnings of all mappings. `tables`: the catalog by `schema.table`; None: it is unknown, and so are all columns.

    A table that does not exist is no finding of this. The warnings that the files gave when they were read are in `mappings`.
    """
    problems: list[Problem] = []
    for name in mappings.tables():
        table = tables.get(name) if tables else None
        if table is not None:
            problems += _misfits(mappings, table, codec)
    problems += lints(mappings, tables, codec)
    return list(dict.fromkeys(problems))


def _misfits(mappings: Mappings, table: Table, codec: Callable[[int], Codec]) -> Iterator[Problem]:
    """Unknown columns, types that never fit, `old.x` that is not logged, and large columns that an update may leave out."""
    plan = compile_plan(mappings, table.relation, codec, space=uuid.UUID(int=0), database="", destination=None)
    if plan is not None:
        yield from plan.problems
    for mapping in mappings.for_table(table.table):
        yield from untouched(mapping, table.relation, codec)
