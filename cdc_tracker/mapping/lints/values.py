"""Which columns' values an expression passes on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from decimal import Decimal

from cdc_tracker.mapping.compiler.scope import column_of

_TEXTS = {"lower", "upper", "trim", "concat", "coalesce", "nullif", "string", "replace", "join", "iso", "timestamp", "date"}
_NUMBERS = {"number", "int", "round", "floor", "ceil", "abs", "min", "max", "sum"}
_PASSING = _TEXTS | _NUMBERS | {"first", "last", "sorted", "distinct"}
"""Functions whose result still says what their argument says. A hash, a length or a part of a text does not."""


def passed_on(node: ast.expr) -> Iterator[tuple[str, str]]:
    """(row, column) of each column whose value, or a text or sum made of it, is in the result.

    What is only compared, hashed, measured or divided is not.
    """
    if column := column_of(node):
        if column[0] in {"new", "old"}:
            yield column
        return
    for part in _parts(node):
        yield from passed_on(part)


def _parts(node: ast.expr) -> list[ast.expr]:
    """The parts of a node whose values are in its own."""
    parts: list[ast.expr] = []
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in _PASSING:
            parts = node.args
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            parts = [node.left, node.right]
        case ast.BinOp(op=ast.Mult()) if not (_is_fraction(node.left) or _is_fraction(node.right)):
            parts = [node.left, node.right]
        case ast.UnaryOp(op=ast.USub()):
            parts = [node.operand]
        case ast.BoolOp() | ast.Dict():
            parts = node.values
        case ast.IfExp():
            parts = [node.body, node.orelse]
        case ast.JoinedStr():
            parts = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        case ast.List() | ast.Tuple():
            parts = node.elts
        case ast.ListComp(elt=ast.Name()):
            parts = [generator.iter for generator in node.generators]
    return parts


def _is_fraction(node: ast.expr) -> bool:
    value: object = node.value if isinstance(node, ast.Constant) else None  # the parser puts Decimals in place of floats
    return isinstance(value, Decimal) and abs(value) < 1
