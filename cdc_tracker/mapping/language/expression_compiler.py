"""Expression → Python source, for one relation and one operation.

Everything that comes from a mapping file goes in as `repr` of a str, int, bool or None, or as a named constant; names in the
source are ours. What the source may reach is the namespace given to `exec`, which has no builtins.

Text is compared as text where that is the same: `new.status == 'paid'` never makes a value. A column becomes a value only
where one is needed, and once where it is used several times.

What can grow is paid for from one budget an event (operators.charged): outside a comprehension whatever makes a value that is
larger than what it is made of, and inside one every value of a size that is made or used as a whole, because that happens once a
round.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from cdc_tracker.mapping.compiler.scope import TEXT_KINDS, UNSET, Cell, Scope, column_of, gone, optional, present
from cdc_tracker.mapping.language import operators as op
from cdc_tracker.mapping.language.functions import FUNCTIONS

_BINARY = {
    ast.Add: op.add,
    ast.Sub: op.subtract,
    ast.Mult: op.multiply,
    ast.Div: op.divide,
    ast.FloorDiv: op.floor_divide,
    ast.Mod: op.modulo,
}
_COMPARE = {
    ast.Eq: op.equal,
    ast.NotEq: op.unequal,
    ast.Lt: op.less,
    ast.LtE: op.less_equal,
    ast.Gt: op.greater,
    ast.GtE: op.greater_equal,
    ast.In: op.contains,
    ast.NotIn: op.lacks,
    ast.Is: op.equal,
    ast.IsNot: op.unequal,
}
_SIGNS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_SAME_AS_TEXT = TEXT_KINDS | {"integer", "boolean", "date", "timestamp", "timestamptz"}
"""Kinds of which two values are equal exactly when their texts are."""
_SIZED = TEXT_KINDS | {"json", "array", "bytes"}


_GROWING = frozenset({"concat", "join", "json", "replace", "split", "string"})
"""Functions whose result may be larger than what they are given."""
_SIZED_RESULT = frozenset({"text", "array", "object", "json", "any"})


class _Inside:
    """Where in the expression: loop variables by their names in the source, and whether a comprehension is around."""

    def __init__(self, local: dict[str, str], *, looped: bool) -> None:
        self.local = local
        self.looped = looped


_OUTSIDE = _Inside({}, looped=False)


class ExpressionCompiler:
    """Makes source of the nodes that expressions.py lets through."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._loops = 0

    def value(self, node: ast.expr) -> tuple[str, str]:
        """Source of the expression's value, and its kind: a Codec's kind, `number`, `null` or `any`."""
        return self._value(node, _OUTSIDE)

    def truth(self, node: ast.expr) -> str:
        """Source of something that is true where the expression is."""
        return self._truth(node, _OUTSIDE)

    def _value(self, node: ast.expr, inside: _Inside) -> tuple[str, str]:
        made: tuple[str, str] = getattr(self, f"_{type(node).__name__}")(node, inside)
        return made

    def _source(self, node: ast.expr, inside: _Inside) -> str:
        return self._value(node, inside)[0]

    def _call(self, function: object, *arguments: str) -> str:
        return f"{self.scope.runtime(function)}({', '.join(arguments)})"

    def _charged(self, source: str) -> str:
        """Source of the same value, paid for. Once is enough."""
        pay = f"{self.scope.runtime(op.charged)}({self.scope.budget}, "
        return source if source.startswith(pay) else f"{pay}{source})"

    # Columns

    def _cell(self, node: ast.expr, inside: _Inside) -> tuple[Cell | None, bool]:
        """(cell, whether the node is a column at all)."""
        named = column_of(node)
        return (self.scope.cell(*named), True) if named else (None, False)

    def _text(self, cell: Cell, inside: _Inside) -> str:
        """Source of the cell's text or None; raises where it is Missing."""
        if not cell.gone:
            return cell.source
        if inside.looped:
            return f"{self.scope.constant(present(cell.label))}({cell.source})"
        name, fail, text = f"x{cell.name}", self.scope.runtime(gone), self.scope.runtime(str)
        return f"({name} if ({name} := {cell.source}).__class__ is {text} or {name} is None else {fail}({name}, {cell.label!r}))"

    def _column(self, cell: Cell | None, inside: _Inside) -> tuple[str, str]:
        if cell is None:
            return "None", "null"
        kind, text = cell.codec.kind, self._text(cell, inside)
        if kind in TEXT_KINDS:
            source = text
        elif inside.looped:
            source = f"{self.scope.constant(optional(cell.codec.load))}({text})"
        else:
            load = self.scope.runtime(cell.codec.load)
            source = f"(None if (y{cell.name} := {text}) is None else {load}(y{cell.name}))"
            if cell.name in self.scope.repeated:
                self.scope.kept.add(f"v{cell.name}")
                unset = self.scope.runtime(UNSET)
                source = f"(v{cell.name} if v{cell.name} is not {unset} else (v{cell.name} := {source}))"
        return (self._charged(source) if inside.looped and kind in _SIZED else source), kind

    def _Attribute(self, node: ast.Attribute, inside: _Inside) -> tuple[str, str]:  # noqa: N802  named as in ast
        return self._column(self._cell(node, inside)[0], inside)

    def _Subscript(self, node: ast.Subscript, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        cell, is_column = self._cell(node, inside)
        if is_column:
            return self._column(cell, inside)
        whole, kind = self._value(node.value, inside)
        if isinstance(node.value, ast.Name) and node.value.id in inside.local and not isinstance(node.slice, ast.Slice):
            whole = inside.local[node.value.id]  # one part of it: the rest costs nothing
        if isinstance(node.slice, ast.Slice):
            bounds = (node.slice.lower, node.slice.upper, node.slice.step)
            source = self._call(op.part, whole, *(self._source(each, inside) if each else "None" for each in bounds))
            result = kind if kind in {"text", "array"} else "any"
        else:
            source, result = self._call(op.item, whole, self._source(node.slice, inside)), "any"
        return (self._charged(source) if inside.looped else source), result

    # Constants, names, calls

    def _Constant(self, node: ast.Constant, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        value: object = node.value
        if value is None:
            return "None", "null"
        if isinstance(value, bool):
            return repr(value), "boolean"
        if isinstance(value, str):
            return repr(value), "text"
        if isinstance(value, int):
            return repr(value), "integer"
        return self.scope.constant(value), "decimal"

    def _Name(self, node: ast.Name, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        if node.id in inside.local:
            return self._charged(inside.local[node.id]), "any"
        return self.scope.names[node.id]

    def _Call(self, node: ast.Call, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        assert isinstance(node.func, ast.Name)  # noqa: S101  expressions.py lets nothing else through
        function = FUNCTIONS[node.func.id]
        if node.func.id == "changed":
            return self._compared(node.args[0], ast.NotEq(), node.args[1], inside), "boolean"
        source = self._call(function.call, *(self._source(each, inside) for each in node.args))
        grows = node.func.id in _GROWING or (inside.looped and function.result in _SIZED_RESULT)
        return (self._charged(source) if grows else source), function.result

    def _JoinedStr(self, node: ast.JoinedStr, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        parts = [self._source(part.value if isinstance(part, ast.FormattedValue) else part, inside) for part in node.values]
        return self._charged(self._call(op.interpolate, *parts)), "text"

    # Operators

    def _truth(self, node: ast.expr, inside: _Inside) -> str:
        if isinstance(node, ast.BoolOp):
            word = " and " if isinstance(node.op, ast.And) else " or "
            return f"({word.join(self._truth(each, inside) for each in node.values)})"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return f"(not {self._truth(node.operand, inside)})"
        cell, _ = self._cell(node, inside)
        if cell is not None and cell.codec.kind == "boolean":
            return f"({self._text(cell, inside)} == 't')"
        return self._source(node, inside)

    def _BoolOp(self, node: ast.BoolOp, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        word = " and " if isinstance(node.op, ast.And) else " or "
        made = [self._value(each, inside) for each in node.values]
        return f"({word.join(source for source, _ in made)})", _common([kind for _, kind in made])

    def _UnaryOp(self, node: ast.UnaryOp, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        if isinstance(node.op, ast.Not):
            return f"(not {self._truth(node.operand, inside)})", "boolean"
        if isinstance(node.operand, ast.Constant) and node.operand.value.__class__ is int:
            return f"(-{node.operand.value!r})", "integer"
        return self._call(op.negate, self._source(node.operand, inside)), "number"

    def _BinOp(self, node: ast.BinOp, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        (left, left_kind), (right, right_kind) = self._value(node.left, inside), self._value(node.right, inside)
        kinds = {left_kind, right_kind}
        result = "number"
        if isinstance(node.op, ast.Add):
            result = "number" if kinds <= _NUMERIC else "text" if kinds == {"text"} else "any"
        source = self._call(_BINARY[type(node.op)], left, right)
        return (self._charged(source) if isinstance(node.op, ast.Add) and result != "number" else source), result

    def _IfExp(self, node: ast.IfExp, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        (body, body_kind), (other, other_kind) = self._value(node.body, inside), self._value(node.orelse, inside)
        return f"({body} if {self._truth(node.test, inside)} else {other})", _common([body_kind, other_kind])

    def _Compare(self, node: ast.Compare, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        if len(node.ops) == 1:
            return self._compared(node.left, node.ops[0], node.comparators[0], inside), "boolean"
        values = [self._source(each, inside) for each in (node.left, *node.comparators)]
        signs = [self.scope.runtime(_COMPARE[type(each)]) for each in node.ops]
        return self._call(_chain, f"({', '.join(signs)})", *values), "boolean"

    def _compared(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, inside: _Inside) -> str:
        if isinstance(sign, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
            if _is_none(left):
                left, right = right, left
            if quick := self._quick_equal(left, "!=" if isinstance(sign, ast.NotEq | ast.IsNot) else "==", right, inside):
                return quick
        elif isinstance(sign, ast.In | ast.NotIn):
            if quick := self._quick_in(left, "in" if isinstance(sign, ast.In) else "not in", right, inside):
                return quick
        elif quick := self._quick_order(left, sign, right, inside):
            return quick
        return self._call(_COMPARE[type(sign)], self._source(left, inside), self._source(right, inside))

    def _quick_equal(self, left: ast.expr, sign: str, right: ast.expr, inside: _Inside) -> str | None:
        """Equality on texts."""
        cell, is_column = self._cell(left, inside)
        if _is_none(right):
            if cell is not None:
                return f"({self._text(cell, inside)} {'is' if sign == '==' else 'is not'} None)"
            return repr(sign == "==") if is_column else None
        if not is_column and self._cell(right, inside)[1]:
            return self._quick_equal(right, sign, left, inside)
        if cell is None:  # the row is not there, so the column is None
            return repr(sign != "==") if is_column and isinstance(right, ast.Constant) else None
        other = self._as_text(right, cell.codec.kind, inside)
        return f"({self._text(cell, inside)} {sign} {other})" if other is not None else None

    def _as_text(self, node: ast.expr, kind: str, inside: _Inside) -> str | None:
        """Source of the text that a column of this kind has where it equals the node; None where text does not tell."""
        if isinstance(node, ast.Constant):
            text = _as_text(node.value, kind)
            return repr(text) if text is not None else None
        other, _ = self._cell(node, inside)
        if other is None or other.codec.kind != kind or kind not in _SAME_AS_TEXT:
            return None
        return self._text(other, inside)

    def _quick_in(self, left: ast.expr, sign: str, right: ast.expr, inside: _Inside) -> str | None:
        """Membership of a column in a list of constants, on texts."""
        cell, _ = self._cell(left, inside)
        if cell is None or not isinstance(right, ast.List | ast.Tuple):
            return None
        texts = []
        for each in right.elts:
            text = _as_text(each.value, cell.codec.kind) if isinstance(each, ast.Constant) else None
            if text is None and not _is_none(each):
                return None
            texts.append(text)
        return f"({self._text(cell, inside)} {sign} {self.scope.constant(tuple(texts))})"

    def _quick_order(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, inside: _Inside) -> str | None:
        """An integer column against an integer constant."""
        cell, _ = self._cell(left, inside)
        if cell is None or cell.codec.kind != "integer" or inside.looped:
            return None
        if not isinstance(right, ast.Constant) or right.value.__class__ is not int:
            return None
        load = self.scope.runtime(int)
        text = self._text(cell, inside)
        return f"((y{cell.name} := {text}) is not None and {load}(y{cell.name}) {_SIGNS[type(sign)]} {right.value!r})"

    # Displays and comprehensions

    def _List(self, node: ast.List | ast.Tuple, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        made = f"[{', '.join(self._member(each, inside) for each in node.elts)}]"
        return (made if inside.looped else self._charged(made)), "array"

    _Tuple = _List

    def _Dict(self, node: ast.Dict, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        keys = [self._key(each, inside) for each in node.keys if each is not None]
        pairs = (f"{key}: {self._member(each, inside)}" for key, each in zip(keys, node.values, strict=True))
        made = f"{{{', '.join(pairs)}}}"
        return (made if inside.looped else self._charged(made)), "object"

    def _member(self, node: ast.expr, inside: _Inside) -> str:
        """What a list or an object holds. Within a comprehension all is paid for by now, but for what may be a long number."""
        source = self._source(node, inside)
        number = isinstance(node, ast.BinOp | ast.UnaryOp | ast.IfExp | ast.BoolOp | ast.Call)
        return self._charged(source) if inside.looped and number else source

    def _key(self, node: ast.expr, inside: _Inside) -> str:
        source, _ = self._value(node, inside)
        constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
        return source if constant else self._call(op.key, source)

    def _ListComp(self, node: ast.ListComp | ast.GeneratorExp, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        loops, deeper = self._generators(node.generators, inside, _weight(node.elt, node.generators))
        return f"[{self._member(node.elt, deeper)} {loops}]", "array"

    _GeneratorExp = _ListComp

    def _DictComp(self, node: ast.DictComp, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        loops, deeper = self._generators(node.generators, inside, _weight(node, node.generators))
        return f"{{{self._charged(self._key(node.key, deeper))}: {self._member(node.value, deeper)} {loops}}}", "object"

    def _generators(self, generators: list[ast.comprehension], inside: _Inside, weight: int) -> tuple[str, _Inside]:
        parts: list[str] = []
        deeper = _Inside(inside.local, looped=True)
        for generator in generators:
            assert isinstance(generator.target, ast.Name)  # noqa: S101  expressions.py lets nothing else through
            over = self._call(op.rounds, self.scope.budget, str(weight), self._source(generator.iter, deeper))
            self._loops += 1
            deeper = _Inside({**deeper.local, generator.target.id: f"i{self._loops}"}, looped=True)
            parts.append(f"for i{self._loops} in {over}")
            parts += [f"if {self._truth(each, deeper)}" for each in generator.ifs]
        return " ".join(parts), deeper


_NUMERIC = frozenset({"integer", "decimal", "float", "number"})


def _common(kinds: list[str]) -> str:
    known = set(kinds) - {"null"}
    if len(known) == 1:
        return known.pop()
    return "null" if not known else "number" if known <= _NUMERIC else "any"


def _weight(body: ast.AST, generators: list[ast.comprehension]) -> int:
    """The cost of one round of a comprehension, by the size of what is done in it."""
    nodes = sum(1 for _ in ast.walk(body)) + sum(1 for each in generators for test in each.ifs for _ in ast.walk(test))
    return nodes // 16 + 1


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _as_text(value: object, kind: str) -> str | None:
    """The text that a column of this kind has where it equals the constant; None where text does not tell."""
    if isinstance(value, bool):
        return {True: "t", False: "f"}[value] if kind == "boolean" else None
    if isinstance(value, int):
        return str(value) if kind == "integer" else None
    if isinstance(value, str) and kind in TEXT_KINDS:
        return value.lower() if kind == "uuid" else value
    return None


def _chain(signs: tuple[Callable[[Any, Any], bool], ...], *values: Any) -> bool:
    """`a < b <= c`."""
    return all(sign(values[index], values[index + 1]) for index, sign in enumerate(signs))
