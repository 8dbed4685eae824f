"""A state where a transition is meant."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.scope import column_of
from cdc_tracker.mapping.lints.conditions import columns, condition
from cdc_tracker.mapping.lints.english import words
from cdc_tracker.mapping.lints.facts import Facts, warning
from cdc_tracker.mapping.lints.ids import differs_each_time
from cdc_tracker.mapping.schema.declared import Mapping

_REPEATING = {"updated", "edited", "modified", "saved", "synced", "refreshed", "touched"}
"""Words in an event's name that say: each update is one."""


def state(mapping: Mapping, facts: Facts) -> Iterator[Problem]:
    """A `when` that is true as long as the row is in a state, on updates, of which each would be an event.

    Not where the id makes the repetitions one event, and not for calls that describe a user or a group as they are.
    """
    asked = condition(mapping)
    if mapping.when is None or mapping.type not in {"track", "page", "screen"} or "update" not in mapping.on:
        return
    if asked.sees_changes or not asked.tests or _REPEATING & set(words(mapping.name)):
        return
    if mapping.id is not None and not differs_each_time(mapping):
        return
    test = next((each for each in asked.tests if _values(each)), asked.tests[0])
    yield warning(
        mapping.when,
        f"`{ast.unparse(test)}` asks for a state, not for the change to it: every later update of such a row is an event again",
        f"Write {_change_to(test)} instead; or give all events of a row the same `id`.",
    )


def _change_to(test: ast.expr) -> str:
    """The test as a transition."""
    if values := _values(test):
        return f"entered({ast.unparse(values[0])}, {', '.join(ast.unparse(each) for each in values[1:])})"
    new = next(each for each in ast.walk(test) if isinstance(each, ast.expr) and column_of(each))
    old = ast.unparse(new).replace("new", "old", 1)
    presence = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot | ast.NotEq)
    return f"{ast.unparse(test)} and {f'{old} is None' if presence else f'changed({ast.unparse(new)}, {old})'}"


def _values(test: ast.expr) -> list[ast.expr]:
    """The column and the constants of a test that it is one of them; empty for any other test."""
    if not isinstance(test, ast.Compare):
        return []
    left, sign, right = test.left, test.ops[0], test.comparators[0]
    if isinstance(sign, ast.Eq):
        column, values = (left, [right]) if columns(left) else (right, [left])
    elif isinstance(sign, ast.In) and isinstance(right, ast.List | ast.Tuple):
        column, values = left, right.elts
    else:
        return []
    return [column, *values] if column_of(column) and values else []
