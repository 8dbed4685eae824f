"""Columns in expressions: the source of their texts, and comparisons for which texts are enough.

`new.status == 'paid'` compares the column's text and computes no value.
"""

from __future__ import annotations

import ast

from cdc_tracker.mapping.compiler.scope import TEXT_KINDS, ColumnRef, Scope, column_of, missing, present, trimmed

_SIGNS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_SAME_AS_TEXT = TEXT_KINDS | {"integer", "boolean", "date", "timestamp", "timestamptz"}
"""Kinds of which two values are equal exactly when their texts are."""


class ColumnCompiler:
    """Compiles columns. `looped`: within a comprehension, where variables of the function cannot be assigned."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def ref(self, node: ast.expr) -> tuple[ColumnRef | None, bool]:
        """(the column, or None if its row does not exist; whether the node is a column at all)."""
        named = column_of(node)
        return (self.scope.column(*named), True) if named else (None, False)

    def text(self, column: ColumnRef, *, looped: bool) -> str:
        """Source of the column's text or None; it raises MissingValue if the row does not carry the column."""
        if not column.may_be_missing:
            return column.source
        name = column.variable
        if looped:
            return f"{self.scope.constant(present(column.label), f'present_{name}')}({column.source})"
        fail, text = self.scope.runtime(missing), self.scope.runtime(str)
        is_text = f"({name} := {column.source}).__class__ is {text}"
        return f"({name} if {is_text} or {name} is None else {fail}({name}, {column.label!r}))"

    def compared_text(self, column: ColumnRef, *, looped: bool) -> str:
        """As `text`, but of a char(n) without the trailing blanks, which do not count when it is compared."""
        text = self.text(column, looped=looped)
        return f"{self.scope.runtime(trimmed)}({text})" if column.padded else text

    def compared(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, *, looped: bool) -> str | None:
        """Source of a comparison, if texts are enough for it; else None."""
        if isinstance(sign, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
            if _is_none(left):
                left, right = right, left
            return self._equal(left, "!=" if isinstance(sign, ast.NotEq | ast.IsNot) else "==", right, looped=looped)
        if isinstance(sign, ast.In | ast.NotIn):
            return self._in(left, "in" if isinstance(sign, ast.In) else "not in", right, looped=looped)
        return self._order(left, sign, right, looped=looped)

    def _equal(self, left: ast.expr, sign: str, right: ast.expr, *, looped: bool) -> str | None:
        column, is_column = self.ref(left)
        if _is_none(right):
            if column is not None:
                return f"({self.text(column, looped=looped)} {'is' if sign == '==' else 'is not'} None)"
            return repr(sign == "==") if is_column else None
        if not is_column and self.ref(right)[1]:
            return self._equal(right, sign, left, looped=looped)
        if column is None:  # the operation does not have the row, so the column is None
            return repr(sign != "==") if is_column and isinstance(right, ast.Constant) else None
        other = self._other_text(right, column, looped=looped)
        return f"({self.compared_text(column, looped=looped)} {sign} {other})" if other is not None else None

    def _other_text(self, node: ast.expr, column: ColumnRef, *, looped: bool) -> str | None:
        """Source of the text that the column has if it equals the node; None if texts do not tell."""
        if isinstance(node, ast.Constant):
            text = _as_text(node.value, column)
            return repr(text) if text is not None else None
        other, _ = self.ref(node)
        if other is None or other.codec.kind != column.codec.kind or column.codec.kind not in _SAME_AS_TEXT:
            return None
        return None if column.zoned or other.zoned else self.compared_text(other, looped=looped)

    def _in(self, left: ast.expr, sign: str, right: ast.expr, *, looped: bool) -> str | None:
        """Membership in a list of constants."""
        column, _ = self.ref(left)
        if column is None or not isinstance(right, ast.List | ast.Tuple):
            return None
        texts = []
        for each in right.elts:
            text = _as_text(each.value, column) if isinstance(each, ast.Constant) else None
            if text is None and not _is_none(each):
                return None
            texts.append(text)
        values = self.scope.constant(tuple(texts), f"{column.variable}_values")
        return f"({self.compared_text(column, looped=looped)} {sign} {values})"

    def _order(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, *, looped: bool) -> str | None:
        """An integer column and an integer constant."""
        column, _ = self.ref(left)
        if column is None or column.codec.kind != "integer" or looped:
            return None
        if not isinstance(right, ast.Constant) or right.value.__class__ is not int:
            return None
        name, load, text = column.variable, self.scope.runtime(int), self.text(column, looped=looped)
        return f"(({name} := {text}) is not None and {load}({name}) {_SIGNS[type(sign)]} {right.value!r})"


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _as_text(value: object, column: ColumnRef) -> str | None:
    """The text that the column has if it equals the constant; None if texts do not tell."""
    kind = column.codec.kind
    if isinstance(value, bool):
        return {True: "t", False: "f"}[value] if kind == "boolean" else None
    if isinstance(value, int):
        return str(value) if kind == "integer" else None
    if isinstance(value, str) and kind in TEXT_KINDS:
        return value.lower() if kind == "uuid" else value.rstrip(" ") if column.padded else value
    return None
