"""What a `when` asks: whether a row is in a state, whether it has just changed, or neither."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from cdc_tracker.mapping.compiler.scope import column_of
from cdc_tracker.mapping.lints.facts import whole
from cdc_tracker.mapping.schema.declared import Mapping

_AWARE = {"changed", "entered"}
"""Functions that compare a row with what it was."""


@dataclass(frozen=True)
class Condition:
    """The `when` of a mapping, or None.

    A test is a part that is true of rows in some state: `new.x == 'a'`, `new.x in […]`, `new.x is not None`, `new.x > 3`.
    A negative one (`new.deleted_at is None`, `new.kind != 'test'`) only leaves rows out.
    """

    node: ast.expr | None

    @cached_property
    def tests(self) -> list[ast.expr]:
        """Its positive tests of columns of `new`, in their order."""
        return [] if self.node is None else list(_tests(self.node, positive=True))

    @cached_property
    def compared(self) -> set[str]:
        """Columns of `new` of which it compares the new value with an old one."""
        return {name for node in self._walk() for name in _compared(node)}

    @cached_property
    def tested(self) -> set[str]:
        """Columns that it compares with constants, of either row."""
        tests = (node for node in self._walk() if _against_constants(node) or _calls(node, {"entered"}))
        return {name for node in tests for _, name in columns(node)}

    @property
    def sees_changes(self) -> bool:
        """Whether it reads the old row, or which operation it was."""
        return any(
            _calls(node, _AWARE) or (isinstance(node, ast.Name) and node.id == "op") or (column_of(node) or ("", ""))[0] == "old"
            for node in self._walk()
        )

    def _walk(self) -> Iterator[ast.expr]:
        if self.node is not None:
            yield from (node for node in ast.walk(self.node) if isinstance(node, ast.expr))


def condition(mapping: Mapping) -> Condition:
    """The condition of the mapping's events."""
    return Condition(whole(mapping, mapping.when) if mapping.when else None)


def columns(node: ast.AST) -> list[tuple[str, str]]:
    """(row, column) of every column within the node."""
    found = (column_of(each) for each in ast.walk(node) if isinstance(each, ast.expr))
    return [column for column in found if column and column[0] in {"new", "old"}]


def _tests(node: ast.expr, *, positive: bool) -> Iterator[ast.expr]:
    if isinstance(node, ast.BoolOp):
        for each in node.values:
            yield from _tests(each, positive=positive)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield from _tests(node.operand, positive=not positive)
    elif isinstance(node, ast.Compare):
        if _against_constants(node) and _asks_for(node) is positive:
            yield node if positive else ast.UnaryOp(ast.Not(), node)
    elif positive and columns(node):  # a boolean column, or starts_with(new.x, …)
        yield node


def _asks_for(node: ast.Compare) -> bool:
    """Whether a comparison with constants asks for a value, rather than leaving one out."""
    sign, constant = node.ops[0], node.left if columns(node.comparators[0]) else node.comparators[0]
    nothing = isinstance(constant, ast.Constant) and (constant.value is None or constant.value is False)
    if isinstance(sign, ast.NotEq | ast.IsNot):
        return nothing
    return not isinstance(sign, ast.NotIn) and not (nothing and isinstance(sign, ast.Eq | ast.Is))


def _against_constants(node: ast.expr) -> bool:
    """Whether it compares columns of one row with what no column is part of."""
    return isinstance(node, ast.Compare) and len(node.ops) == 1 and bool(columns(node.left)) != bool(columns(node.comparators[0]))


def _compared(node: ast.expr) -> Iterator[str]:
    """Columns of `new` that the node compares with columns of `old`."""
    sides: list[ast.expr] = []
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
    elif _calls(node, {"changed"}) and isinstance(node, ast.Call):
        sides = list(node.args)
    found = [column for side in sides for column in columns(side)]
    if {row for row, _ in found} == {"new", "old"}:
        yield from (name for row, name in found if row == "new")


def _calls(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
