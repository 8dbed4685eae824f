"""Mappings against a table as it is: what `check` tells before anything runs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.compile import compile_plan
from cdc_tracker.mapping.compiler.replica_identity import full_identity
from cdc_tracker.mapping.schema.declared import Mapping, Mappings
from cdc_tracker.model import Codec, Relation

_TEXT_OID = 25
_LARGE = frozenset({"json", "array", "bytes"})


def check_columns(mappings: Mappings, relation: Relation, codec: Callable[[int], Codec]) -> list[Problem]:
    """What cannot work for this table, and what may not: unknown columns, types that can never fit, `old.x` that is not logged,
    and (warnings) large columns that updates leave out of the log."""
    plan = compile_plan(mappings, relation, codec, space=uuid.UUID(int=0), database="", destination=None)
    if plan is None:
        return []
    warnings = [problem for mapping in mappings.for_table(relation.table) for problem in _toasted(mapping, relation, codec)]
    return [*plan.problems, *warnings]


def _toasted(mapping: Mapping, relation: Relation, codec: Callable[[int], Codec]) -> Iterator[Problem]:
    """Text without a limit, JSON, arrays and bytea are stored apart when large, and an update that does not touch them does not
    log them."""
    if "update" not in mapping.on or relation.identity == "f":
        return
    large = {column.name for column in relation.columns if column.type_oid == _TEXT_OID or codec(column.type_oid).kind in _LARGE}
    if read := [name for name in mapping.new_columns if name in large]:
        yield Problem(
            mapping.where,
            mapping.key,
            f"a large value of {_listed(read)} is not logged by an update that leaves it alone; "
            "the event is then rejected as unchanged_toast",
            full_identity(relation),
            "warning",
        )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
