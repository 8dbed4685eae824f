"""Conditions that are always true or false."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from cdc_tracker.mapping.language.operators import equal
from cdc_tracker.mapping.typing.comparisons import written
from cdc_tracker.mapping.typing.reporter import NOTHING, Names, Reporter
from cdc_tracker.mapping.typing.types import UNKNOWN


class Conditions(Reporter):
    """Types what decides: `when`, the test of an if, the operand of `not`."""

    def condition(self, node: ast.expr, names: Names = NOTHING) -> bool | None:
        """Whether a condition is always true or always false; None if it depends on the row."""
        typed = self.type(node, names)
        for leaf, parent in _leaves(node, None):
            self._constant_condition(leaf, parent)
        return typed.truth

    def _constant_condition(self, leaf: ast.expr, parent: ast.BoolOp | None) -> None:
        """Reports a condition, or a part of one, that is always true or false because it is no condition."""
        if isinstance(leaf, ast.Constant):
            if leaf.value is not None and not isinstance(leaf.value, bool):
                self._constant(leaf, parent)
            return
        typed = self._types[leaf]
        if typed.holds == "boolean":
            self.warn(leaf, f"always true, also for 'f': {written(leaf)} is {typed}", f"Write boolean({written(leaf)}).")
        elif typed.truth is True and typed.value is UNKNOWN and typed.kind != "boolean":
            self.warn(leaf, f"always true: {written(leaf)} is {typed}, which is never empty", everywhere=True)

    def _constant(self, leaf: ast.Constant, parent: ast.BoolOp | None) -> None:
        truth = str(bool(leaf.value)).lower()
        if parent is None:
            self.warn(
                leaf, f"{leaf.value!r} is always {truth}: it is no condition", "Compare it with something, or leave it out."
            )
            return
        word = "or" if isinstance(parent.op, ast.Or) else "and"
        self.error(leaf, f"`{word} {leaf.value!r}` is always {truth}{_meant(parent, leaf)}")

    def exclusive(self, node: ast.BoolOp) -> None:
        """Reports `new.state == 'a' and new.state == 'b'`, and its opposite, `new.state != 'a' or new.state != 'b'`."""
        both = isinstance(node.op, ast.And)
        found: dict[str, list[Any]] = {}
        for each in node.values:
            if not isinstance(each, ast.Compare) or (values := _asked(each, _POSITIVE if both else _NEGATIVE)) is None:
                continue
            text = written(each.left)
            found[text] = [value for value in values if text not in found or any(_same(value, one) for one in found[text])]
            if not found[text]:
                told = "always False: {} has one value at a time" if both else "always True: {} differs from one of them"
                self.error(node, told.format(text), f"Write {text} {'in' if both else 'not in'} (…).")
                return


_POSITIVE = (ast.Eq, ast.Is, ast.In)
_NEGATIVE = (ast.NotEq, ast.IsNot, ast.NotIn)


def _asked(node: ast.Compare, signs: tuple[type[ast.cmpop], ...]) -> list[Any] | None:
    """The constants with which it compares by one of the signs; None if it does something else."""
    sign, right = node.ops[0], node.comparators[0]
    listed = isinstance(sign, ast.In | ast.NotIn)
    if len(node.ops) > 1 or not isinstance(sign, signs) or isinstance(right, ast.List | ast.Tuple) is not listed:
        return None
    sides = right.elts if isinstance(right, ast.List | ast.Tuple) else [right]
    values = [each.value for each in sides if isinstance(each, ast.Constant)]
    return values if values and len(values) == len(sides) else None


def _same(one: Any, other: Any) -> bool:
    """Whether a value can equal both; that of char(n) does so whatever the blanks at their ends."""
    texts = isinstance(one, str) and isinstance(other, str)
    return one.rstrip(" ") == other.rstrip(" ") if texts else equal(one, other)


def _leaves(node: ast.expr, parent: ast.BoolOp | None) -> Iterator[tuple[ast.expr, ast.BoolOp | None]]:
    """The conditions that and, or combine, each with what combines it. `not` looks after its own."""
    if isinstance(node, ast.BoolOp):
        for each in node.values:
            yield from _leaves(each, node)
    else:
        yield node, parent


def _meant(parent: ast.BoolOp, leaf: ast.Constant) -> str:
    """`: write new.state in ('paid', 'sent')`, of `new.state == 'paid' or 'sent'`."""
    for each in parent.values:
        if (
            isinstance(each, ast.Compare)
            and isinstance(each.ops[0], ast.Eq | ast.NotEq)
            and isinstance(each.comparators[0], ast.Constant)
        ):
            constants = [each.comparators[0], *(other for other in parent.values if isinstance(other, ast.Constant))]
            word = "in" if isinstance(each.ops[0], ast.Eq) else "not in"
            return f": write {written(each.left)} {word} ({', '.join(map(written, constants))})"
    return ""
