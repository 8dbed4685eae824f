"""Expression → Python source, for one relation and one operation.

What comes from a mapping file enters the source as `repr` of a str, int, bool or None, as a named constant, or as part of an
identifier (scope.Names). The source can reach only the constants of its Scope, which contain no builtins.

A column's value is computed only if its text is not enough (see columns.py), and once if it is used several times.

Every event has one budget (budget.py). Outside a comprehension it is charged for values larger than their operands;
inside one, for every sized value that is computed or used as a whole, because that happens in each round.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from cdc_tracker.mapping.compiler.columns import ColumnCompiler
from cdc_tracker.mapping.compiler.scope import TEXT_KINDS, ColumnRef, Let, Scope, optional, trimmed
from cdc_tracker.mapping.language import operators as op
from cdc_tracker.mapping.language.budget import charged, rounds
from cdc_tracker.mapping.language.functions import FUNCTIONS

_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
    ast.FloorDiv: "floor_divide",
    ast.Mod: "modulo",
}
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "equal",
    ast.NotEq: "unequal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
    ast.In: "contains",
    ast.NotIn: "lacks",
    ast.Is: "equal",
    ast.IsNot: "unequal",
}
"""Names of functions of operators.py."""
_SIZED = TEXT_KINDS | {"json", "array", "bytes"}
_GROWING = frozenset({"concat", "join", "json", "replace", "split", "string"})
"""Functions whose result may be larger than their arguments."""
_SIZED_RESULT = frozenset({"text", "array", "object", "json", "any"})


class _Inside:
    """A place in an expression: identifiers of the loop variables, and whether a comprehension surrounds it."""

    def __init__(self, local: dict[str, str], *, looped: bool) -> None:
        self.local = local
        self.looped = looped


_OUTSIDE = _Inside({}, looped=False)


class ExpressionCompiler:
    """Compiles the nodes that language/checking.py accepts."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.columns = ColumnCompiler(scope)

    def value(self, node: ast.expr) -> tuple[str, str]:
        """Source of the expression's value, and its kind: a Codec's kind, `number`, `null` or `any`."""
        return self._value(node, _OUTSIDE)

    def truth(self, node: ast.expr) -> str:
        """Source of a condition that is true exactly if the expression is."""
        return self._truth(node, _OUTSIDE)

    def _value(self, node: ast.expr, inside: _Inside) -> tuple[str, str]:
        compiled: tuple[str, str] = getattr(self, f"_{type(node).__name__}")(node, inside)
        return compiled

    def _source(self, node: ast.expr, inside: _Inside) -> str:
        return self._value(node, inside)[0]

    def _call(self, function: object, *arguments: str, name: str = "") -> str:
        return f"{self.scope.runtime(function, name)}({', '.join(arguments)})"

    def _operator(self, name: str, *arguments: str) -> str:
        return self._call(getattr(op, name), *arguments, name=name)

    def _charged(self, source: str) -> str:
        """Source of the same value, charged to the budget once."""
        pay = f"{self.scope.runtime(charged)}({self.scope.budget}, "
        return source if source.startswith(pay) else f"{pay}{source})"

    # Columns

    def _column(self, column: ColumnRef | None, inside: _Inside) -> tuple[str, str]:
        if column is None:
            return "None", "null"
        kind, name, text = column.codec.kind, column.variable, self.columns.text(column, looped=inside.looped)
        if kind in TEXT_KINDS:
            source = text
        elif inside.looped:
            source = f"{self.scope.constant(optional(column.codec.load), f'load_{name}')}({text})"
        else:
            source = f"(None if ({name} := {text}) is None else {self.scope.runtime(column.codec.load)}({name}))"
            if name in self.scope.repeated:
                loaded = f"loaded_{name}"  # columns alone have variables that begin so: no other name does
                source = f"({loaded} if {self.scope.cache(loaded)} else ({loaded} := {source}))"
        return (self._charged(source) if inside.looped and kind in _SIZED else source), kind

    def _Attribute(self, node: ast.Attribute, inside: _Inside) -> tuple[str, str]:  # noqa: N802  named as in ast
        return self._column(self.columns.ref(node)[0], inside)

    def _Subscript(self, node: ast.Subscript, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        column, is_column = self.columns.ref(node)
        if is_column:
            return self._column(column, inside)
        whole, kind = self._value(node.value, inside)
        if isinstance(node.value, ast.Name) and node.value.id in inside.local and not isinstance(node.slice, ast.Slice):
            whole = inside.local[node.value.id]  # one part of it is charged below
        if isinstance(node.slice, ast.Slice):
            bounds = (node.slice.lower, node.slice.upper, node.slice.step)
            source = self._operator("part", whole, *(self._source(each, inside) if each else "None" for each in bounds))
            result = kind if kind in {"text", "array"} else "any"
        else:
            source, result = self._operator("item", whole, self._source(node.slice, inside)), "any"
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
        return self.scope.constant(value, "number"), "decimal"

    def _Name(self, node: ast.Name, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        if node.id in inside.local:
            return self._charged(inside.local[node.id]), "any"
        if node.id in self.scope.keywords:
            return self.scope.keywords[node.id]
        let = self._let(node.id)
        source = f"({let.variable} if {self.scope.cache(let.variable)} else {let.function}())"
        return (self._charged(source) if inside.looped and let.kind in _SIZED | _SIZED_RESULT else source), let.kind

    def _let(self, name: str) -> Let:
        key, names = (name, self.scope.earlier), self.scope.names
        if key not in self.scope.lets:
            source, kind = self.value(self.scope.named[name])
            self.scope.lets[key] = Let(names.unique(f"let_{name}"), names.unique(f"compute_{name}"), source, kind)
        return self.scope.lets[key]

    def _Call(self, node: ast.Call, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        assert isinstance(node.func, ast.Name)  # noqa: S101  language/checking.py accepts nothing else
        function = FUNCTIONS[node.func.id]
        if node.func.id == "changed":
            return self._compared(node.args[0], ast.NotEq(), node.args[1], inside), "boolean"
        if node.func.id == "entered":
            return self._entered(node.args[0], ast.List(node.args[1:]), inside), "boolean"
        source = self._call(function.call, *(self._source(each, inside) for each in node.args), name=node.func.id)
        grows = node.func.id in _GROWING or (inside.looped and function.result in _SIZED_RESULT)
        return (self._charged(source) if grows else source), function.result

    def _entered(self, now: ast.expr, values: ast.List, inside: _Inside) -> str:
        """Source of: `now` is one of the values, and was none in the row before. Without that row, it was none."""
        if not self.scope.has("new"):
            return "False"
        after = self._compared(now, ast.In(), values, inside)
        if not self.scope.has("old"):
            return after
        earlier = ExpressionCompiler(self.scope.before())
        if (before := earlier.columns.compared(now, ast.NotIn(), values, looped=inside.looped)) is None:
            before = self._operator("lacks", earlier._operand(now, inside), self._source(values, inside))
        return f"({after} and {before})"

    def _JoinedStr(self, node: ast.JoinedStr, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        parts = [self._source(part.value if isinstance(part, ast.FormattedValue) else part, inside) for part in node.values]
        return self._charged(self._operator("interpolate", *parts)), "text"

    # Operators

    def _truth(self, node: ast.expr, inside: _Inside) -> str:
        if isinstance(node, ast.BoolOp):
            word = " and " if isinstance(node.op, ast.And) else " or "
            return f"({word.join(self._truth(each, inside) for each in node.values)})"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return f"(not {self._truth(node.operand, inside)})"
        column, _ = self.columns.ref(node)
        if column is not None and column.codec.kind == "boolean":
            return f"({self.columns.text(column, looped=inside.looped)} == 't')"
        return self._source(node, inside)

    def _BoolOp(self, node: ast.BoolOp, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        word = " and " if isinstance(node.op, ast.And) else " or "
        values = [self._value(each, inside) for each in node.values]
        return f"({word.join(source for source, _ in values)})", _common([kind for _, kind in values])

    def _UnaryOp(self, node: ast.UnaryOp, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        if isinstance(node.op, ast.Not):
            return f"(not {self._truth(node.operand, inside)})", "boolean"
        if isinstance(node.operand, ast.Constant) and node.operand.value.__class__ is int:
            return f"(-{node.operand.value!r})", "integer"
        return self._operator("negate", self._source(node.operand, inside)), "number"

    def _BinOp(self, node: ast.BinOp, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        (left, left_kind), (right, right_kind) = self._value(node.left, inside), self._value(node.right, inside)
        kinds = {left_kind, right_kind}
        result = "number"
        if isinstance(node.op, ast.Add):
            result = "number" if kinds <= _NUMERIC else "text" if kinds == {"text"} else "any"
        source = self._operator(_BINARY[type(node.op)], left, right)
        return (self._charged(source) if isinstance(node.op, ast.Add) and result != "number" else source), result

    def _IfExp(self, node: ast.IfExp, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        (body, body_kind), (other, other_kind) = self._value(node.body, inside), self._value(node.orelse, inside)
        return f"({body} if {self._truth(node.test, inside)} else {other})", _common([body_kind, other_kind])

    def _Compare(self, node: ast.Compare, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        if len(node.ops) == 1:
            return self._compared(node.left, node.ops[0], node.comparators[0], inside), "boolean"
        values = [self._operand(each, inside) for each in (node.left, *node.comparators)]
        signs = [self.scope.runtime(getattr(op, name), name) for name in (_COMPARE[type(each)] for each in node.ops)]
        return self._call(_chain, f"({', '.join(signs)})", *values), "boolean"

    def _compared(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, inside: _Inside) -> str:
        if by_texts := self.columns.compared(left, sign, right, looped=inside.looped):
            return by_texts
        return self._operator(_COMPARE[type(sign)], self._operand(left, inside), self._operand(right, inside))

    def _operand(self, node: ast.expr, inside: _Inside) -> str:
        """Source of what is compared: of a char(n) its text without trailing blanks."""
        column, source = self.columns.ref(node)[0], self._source(node, inside)
        return self._call(trimmed, source) if column is not None and column.padded else source

    # Displays and comprehensions

    def _List(self, node: ast.List | ast.Tuple, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        source = f"[{', '.join(self._member(each, inside) for each in node.elts)}]"
        return (source if inside.looped else self._charged(source)), "array"

    _Tuple = _List

    def _Dict(self, node: ast.Dict, inside: _Inside) -> tuple[str, str]:  # noqa: N802
        keys = [self._key(each, inside) for each in node.keys if each is not None]
        pairs = (f"{key}: {self._member(each, inside)}" for key, each in zip(keys, node.values, strict=True))
        source = f"{{{', '.join(pairs)}}}"
        return (source if inside.looped else self._charged(source)), "object"

    def _member(self, node: ast.expr, inside: _Inside) -> str:
        """An element of a list or object. Within a comprehension it is charged already, unless it may be a long number."""
        source = self._source(node, inside)
        number = isinstance(node, ast.BinOp | ast.UnaryOp | ast.IfExp | ast.BoolOp | ast.Call)
        return self._charged(source) if inside.looped and number else source

    def _key(self, node: ast.expr, inside: _Inside) -> str:
        source, _ = self._value(node, inside)
        constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
        return source if constant else self._operator("key", source)

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
            assert isinstance(generator.target, ast.Name)  # noqa: S101  language/checking.py accepts nothing else
            over = self._call(rounds, self.scope.budget, str(weight), self._source(generator.iter, deeper))
            variable = self.scope.names.unique(f"each_{generator.target.id}")
            deeper = _Inside({**deeper.local, generator.target.id: variable}, looped=True)
            parts.append(f"for {variable} in {over}")
            parts += [f"if {self._truth(each, deeper)}" for each in generator.ifs]
        return " ".join(parts), deeper


_NUMERIC = frozenset({"integer", "decimal", "float", "number"})


def _common(kinds: list[str]) -> str:
    known = set(kinds) - {"null"}
    if len(known) == 1:
        return known.pop()
    return "null" if not known else "number" if known <= _NUMERIC else "any"


def _weight(body: ast.AST, generators: list[ast.comprehension]) -> int:
    """The cost of one round of a comprehension, in steps: one for every 16 nodes of its body, and one more."""
    nodes = sum(1 for _ in ast.walk(body)) + sum(1 for each in generators for test in each.ifs for _ in ast.walk(test))
    return nodes // 16 + 1


def _chain(signs: tuple[Callable[[Any, Any], bool], ...], *values: Any) -> bool:
    """`a < b <= c`."""
    return all(sign(values[index], values[index + 1]) for index, sign in enumerate(signs))
