"""The types of comparisons, and those that can have one result only."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cdc_tracker.mapping.compiler.scope import column_of
from cdc_tracker.mapping.language import operators as op
from cdc_tracker.mapping.typing import comparisons
from cdc_tracker.mapping.typing.comparisons import Operand
from cdc_tracker.mapping.typing.reporter import Names, Reporter
from cdc_tracker.mapping.typing.types import BOOLEAN, UNKNOWN, Type

_EQUALITY: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: op.equal,
    ast.Is: op.equal,
    ast.NotEq: op.unequal,
    ast.IsNot: op.unequal,
}
_MEMBERSHIP: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {ast.In: op.contains, ast.NotIn: op.lacks}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: op.less,
    ast.LtE: op.less_equal,
    ast.Gt: op.greater,
    ast.GtE: op.greater_equal,
}


class Comparing(Reporter):
    """Types comparisons: of equality, of order, of membership."""

    def _Compare(self, node: ast.Compare, names: Names) -> Type:  # noqa: N802  named as in ast
        sides = [self._operand(each, names) for each in (node.left, *node.comparators)]
        for each in sides:
            self._chosen(node, each.node)
        results = [self._compared(node, *each) for each in zip(sides, node.ops, sides[1:], strict=False)]
        if any(each.truth is False for each in results):
            return replace(BOOLEAN, value=False)
        return results[0] if len(results) == 1 else BOOLEAN

    def _compared(self, node: ast.expr, left: Operand, sign: ast.cmpop, right: Operand) -> Type:
        if type(sign) in _EQUALITY:
            return self._equal(node, left, sign, right)
        if type(sign) in _ORDER:
            return self._ordered(node, left, sign, right)
        return self._contained(node, left, sign, right)

    def _chosen(self, node: ast.Compare, side: ast.expr) -> None:
        """Reports `new.state == ('paid' or 'sent')`."""
        if isinstance(side, ast.BoolOp) and all(isinstance(each, ast.Constant) and each.value for each in side.values):
            one = side.values[0 if isinstance(side.op, ast.Or) else -1]
            listed = ", ".join(map(comparisons.written, side.values))
            hint = f"Write {comparisons.written(node.left)} in ({listed})."
            self.error(node, f"({comparisons.written(side)}) is always {comparisons.written(one)}", hint)

    def _equal(self, node: ast.expr, left: Operand, sign: ast.cmpop, right: Operand) -> Type:
        positive, compare = isinstance(sign, ast.Eq | ast.Is), _EQUALITY[type(sign)]
        if not isinstance(left.node, ast.Constant) and ast.dump(left.node) == ast.dump(right.node):
            self.error(node, f"always {positive}: both sides are {left.text}", "Compare new.x with old.x, or with a constant.")
            return BOOLEAN
        self._never_null(node, left, right, positive=positive)
        self._never_null(node, right, left, positive=positive)
        if (mismatch := comparisons.never_equal(left, right)) is not None:
            self.error(node, f"{_always(left, right, result=not positive)}: {mismatch.message}", mismatch.hint)
            return BOOLEAN
        self._may_equal(node, left, right)
        if left.type.known and right.type.known:
            return replace(BOOLEAN, value=compare(left.type.only, right.type.only))
        one_null = {left.type.kind, right.type.kind} >= {"null"} and not (left.type.nullable and right.type.nullable)
        return replace(BOOLEAN, value=not positive) if one_null else BOOLEAN

    def _never_null(self, node: ast.expr, column: Operand, none: Operand, *, positive: bool) -> None:
        """Warns of a comparison of a NOT NULL column with None."""
        named = column_of(column.node)
        if named is None or not isinstance(none.node, ast.Constant) or none.node.value is not None or not self.rows.has(named[0]):
            return
        if not self.rows.declared(named[1]).nullable:
            message = f"always {not positive}: the column of {column.text} is NOT NULL"
            self.warn(node, message, everywhere=True)

    def _may_equal(self, node: ast.expr, left: Operand, right: Operand) -> None:
        self._doubts(node, "==", left, right)
        if left.type.family and right.type.family:
            self.possible.add(node)

    def _doubts(self, node: ast.expr, sign: str, left: Operand, right: Operand) -> None:
        for doubt in comparisons.doubts(sign, left, right):
            self.warn(node, *doubt)

    def _ordered(self, node: ast.expr, left: Operand, sign: ast.cmpop, right: Operand) -> Type:
        if "null" in {left.type.kind, right.type.kind}:
            return replace(BOOLEAN, value=False)
        if (mismatch := comparisons.not_ordered(left, right)) is not None:
            self.error(node, *mismatch)
        else:
            self._doubts(node, "<", left, right)
        return BOOLEAN

    def _contained(self, node: ast.expr, left: Operand, sign: ast.cmpop, right: Operand) -> Type:
        positive = isinstance(sign, ast.In)
        if right.type.kind == "null":
            return replace(BOOLEAN, value=not positive)
        if isinstance(right.node, ast.List | ast.Tuple) and right.type.items is not None:
            parts = [Operand(*pair) for pair in zip(right.type.items, right.node.elts, strict=True)]
            return self._one_of(node, left, sign, parts)
        if right.type.family == "array" and right.type.element is not None:
            element = Operand(right.type.element, right.node)
            if (mismatch := comparisons.never_equal(left, element)) is not None:
                result = _always(left, element, result=not positive)
                self.error(node, f"{result}: no element of {right.text} equals {left.text}", mismatch.hint)
            return BOOLEAN
        return self._within(node, left, right, positive=positive)

    def _one_of(self, node: ast.expr, left: Operand, sign: ast.cmpop, values: Sequence[Operand]) -> Type:
        """Membership in a list that is written out. A value that cannot be equal is an error of its own."""
        for each in values:
            if (mismatch := comparisons.never_equal(left, each)) is not None:
                self.error(each.node, f"is never found: {mismatch.message}", mismatch.hint)
            else:
                self._may_equal(each.node, left, each)
        if left.type.known and all(each.type.known for each in values):
            return replace(BOOLEAN, value=_MEMBERSHIP[type(sign)](left.type.only, [each.type.only for each in values]))
        if left.type.kind == "null" and not any(each.type.nullable for each in values):
            return replace(BOOLEAN, value=isinstance(sign, ast.NotIn))
        return BOOLEAN

    def _within(self, node: ast.expr, left: Operand, right: Operand, *, positive: bool) -> Type:
        """`in` of a text or an object's keys."""
        family = right.type.family
        if left.type.kind == "null":
            return replace(BOOLEAN, value=not positive) if family in {"text", "object"} else BOOLEAN
        if family in {"", "array"} or right.type.nested:
            return BOOLEAN
        if family not in {"text", "object"}:
            self.refuse(node, "`in` looks into text, lists and objects", right)
        elif left.type.family not in {"", "text"}:
            result = f"always {not positive}: " if family == "object" else ""
            self.error(node, f"{result}`in` looks for text in {right.type}, and {left.text} is {left.type}")
        elif isinstance(right.node, ast.Constant) and left.type.value is UNKNOWN:
            hint = f"To compare, write {left.text} == {right.text}, or a list: [{right.text}]."
            self.warn(node, f"`in {right.text}` looks for a part of this text", hint)
        elif left.type.labels and right.type.labels and not any(a in b for a in left.type.labels for b in right.type.labels):
            return replace(BOOLEAN, value=not positive)
        return BOOLEAN


def _always(left: Operand, right: Operand, *, result: bool) -> str:
    """How a message begins: two NULLs are equal, whatever their types."""
    return f"{result} unless both are None" if left.type.nullable and right.type.nullable else f"always {result}"
