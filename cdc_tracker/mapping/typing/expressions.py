"""The type of an expression, for one operation, and what in it cannot work.

One method for each node that language/checking.py accepts.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from cdc_tracker.mapping.compiler.scope import column_of
from cdc_tracker.mapping.language import operators as op
from cdc_tracker.mapping.language.functions import FUNCTIONS
from cdc_tracker.mapping.language.signatures import NUMBERS
from cdc_tracker.mapping.typing import calls
from cdc_tracker.mapping.typing.comparing import Comparing
from cdc_tracker.mapping.typing.comparisons import Mismatch, Operand, not_ordered
from cdc_tracker.mapping.typing.conditions import Conditions
from cdc_tracker.mapping.typing.parts import Parts
from cdc_tracker.mapping.typing.reporter import NOTHING, Names
from cdc_tracker.mapping.typing.rows import Rows
from cdc_tracker.mapping.typing.types import ANY, BOOLEAN, NULL, TEXT, UNKNOWN, Type, common, exact, type_of

_SIGNS = {ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Add: "+"}
_DIVISIONS = frozenset({"/", "//", "%"})
_SUMS = frozenset({"number", "text", "array"})
_KEYWORDS = {
    "op": Type("text", False, frozenset({"insert", "update", "delete"})),
    "table": TEXT,
    "schema": TEXT,
    "committed_at": Type("timestamptz", False),
    "lsn": TEXT,
    "xid": Type("integer", False),
}


class ExpressionTyper(Parts, Comparing, Conditions):
    """Types every node that an expression can have."""

    # Columns, names, constants

    def _Attribute(self, node: ast.Attribute, names: Names) -> Type:  # noqa: N802  named as in ast
        row, name = column_of(node) or ("", "")
        return self.rows.column(row, name)

    def _Subscript(self, node: ast.Subscript, names: Names) -> Type:  # noqa: N802
        if named := column_of(node):
            return self.rows.column(*named)
        whole = self._operand(node.value, names)
        if isinstance(node.slice, ast.Slice):
            return self._part(node, whole, names)
        return self._item(node, whole, self._operand(node.slice, names))

    def _Constant(self, node: ast.Constant, names: Names) -> Type:  # noqa: N802
        return type_of(node.value)

    def _Name(self, node: ast.Name, names: Names) -> Type:  # noqa: N802
        if node.id in names:
            return names[node.id]
        if node.id not in _KEYWORDS:
            return self._root._let(node.id)
        found = _KEYWORDS[node.id]
        happens = "insert" if self.rows.operation == "backfill" else self.rows.operation
        return replace(found, value=happens) if node.id == "op" else found

    def _let(self, name: str) -> Type:
        """The type of what the mapping names so. What is wrong in it is reported where it is declared."""
        if name not in self._lets:
            before = len(self.found)
            self._lets[name] = self.type(self.rows.lets[name])
            del self.found[before:]
        return self._lets[name]

    def _JoinedStr(self, node: ast.JoinedStr, names: Names) -> Type:  # noqa: N802
        parts = [self.type(part.value if isinstance(part, ast.FormattedValue) else part, names) for part in node.values]
        if any(part.kind == "null" for part in parts):
            return NULL
        return replace(TEXT, nullable=any(part.nullable for part in parts))

    def _Call(self, node: ast.Call, names: Names) -> Type:  # noqa: N802
        assert isinstance(node.func, ast.Name)  # noqa: S101  language/checking.py accepts nothing else
        name, arguments = node.func.id, [self._operand(each, names) for each in node.args]
        types = [each.type for each in arguments]
        wrong = list(calls.wrong_arguments(name, arguments))
        for index, mismatch in wrong:
            self.error(node.args[index], *mismatch)
        if wrong:
            return Type(FUNCTIONS[name].result)
        special = getattr(self, f"_call_{name}", None)
        if special is not None:
            typed: Type = special(node, arguments)
            return typed
        known = calls.known_call(name, types)
        if isinstance(known, Mismatch):
            self.error(node, *known)
        return known if isinstance(known, Type) else calls.result(name, types)

    def _call_changed(self, node: ast.expr, arguments: Sequence[Operand]) -> Type:
        return self._compared(node, arguments[0], ast.NotEq(), arguments[1])

    def _call_nullif(self, node: ast.expr, arguments: Sequence[Operand]) -> Type:
        self._compared(node, arguments[0], ast.Eq(), arguments[1])
        return calls.result("nullif", [each.type for each in arguments])

    def _call_contains(self, node: ast.expr, arguments: Sequence[Operand]) -> Type:
        if arguments[0].type.kind == "null":
            return NULL
        typed = self._compared(node, arguments[1], ast.In(), arguments[0])
        return replace(typed, nullable=arguments[0].type.nullable)

    def _call_sum(self, node: ast.expr, arguments: Sequence[Operand]) -> Type:
        whole = arguments[0]
        if whole.type.element is not None and whole.type.element.family not in {"", "number"}:
            hint = f"Write sum([number(x) for x in {whole.text}])." if whole.type.element.family == "text" else ""
            self.error(node, f"sum() adds numbers, and elements of {whole.text} are {whole.type.element}", hint)
        return calls.result("sum", [whole.type])

    def _call_max(self, node: ast.Call, arguments: Sequence[Operand]) -> Type:
        for each in arguments[1:]:
            if (mismatch := not_ordered(arguments[0], each)) is not None:
                self.error(node, *mismatch)
        return calls.result("max", [each.type for each in arguments])

    _call_min = _call_max

    def _call_get(self, node: ast.expr, arguments: Sequence[Operand]) -> Type:
        whole = arguments[0]
        for key in arguments[1:]:
            whole = Operand(self._item(node, whole, key), node)
        return whole.type

    def _call_entered(self, node: ast.expr, arguments: Sequence[Operand]) -> Type:
        now, values = arguments[0], arguments[1:]
        if not self.rows.has("new"):
            return replace(BOOLEAN, value=False)
        typed = self._one_of(node, now, ast.In(), values)
        return typed if typed.truth is False or not self.rows.has("old") else BOOLEAN

    # Operators

    def _BoolOp(self, node: ast.BoolOp, names: Names) -> Type:  # noqa: N802
        ends = isinstance(node.op, ast.Or)  # the truth that ends it
        values = [self.type(each, names) for each in node.values]
        self.exclusive(node)
        possible: list[Type] = []
        for each in values:
            if each.truth is ends:
                possible.append(each)
                break
            if each.truth is None or each is values[-1]:
                possible.append(each)
        truths = [each.truth for each in possible]
        certain = ends if ends in truths else None if None in truths else not ends
        found = replace(common(possible), certain=certain) if len(possible) > 1 else possible[0]
        return replace(found, nullable=possible[-1].nullable) if ends else found

    def _UnaryOp(self, node: ast.UnaryOp, names: Names) -> Type:  # noqa: N802
        if isinstance(node.op, ast.Not):
            truth = self.condition(node.operand, names)
            return BOOLEAN if truth is None else replace(BOOLEAN, value=not truth)
        operand = self._operand(node.operand, names)
        if operand.type.kind == "null":
            return NULL
        if operand.type.family not in {"", "number"}:
            self.refuse(node, "`-` takes a number", operand)
        elif operand.type.known:
            return type_of(op.negate(operand.type.value))
        return Type(exact(operand.type.kind), operand.type.nullable)

    def _BinOp(self, node: ast.BinOp, names: Names) -> Type:  # noqa: N802
        sign, left, right = _SIGNS[type(node.op)], self._operand(node.left, names), self._operand(node.right, names)
        if "null" in {left.type.kind, right.type.kind}:
            return NULL
        nullable = left.type.nullable or right.type.nullable
        if sign == "+" and (left.type.family != "number" or right.type.family != "number"):
            return replace(self._sum(node, left, right), nullable=nullable)
        if wrong := [each for each in (left, right) if each.type.family not in {"", "number"}]:
            times = sign == "-" and wrong[0].type.family == "time"
            self.refuse(node, f"`{sign}` takes numbers", wrong[0], "Write date_diff('second', start, end)." if times else "")
        elif sign in _DIVISIONS and right.type.known and right.type.only == 0:
            self.error(node, f"`{sign}` by zero always fails")
        return Type(_number(sign, left.type.kind, right.type.kind), nullable)

    def _sum(self, node: ast.expr, left: Operand, right: Operand) -> Type:
        """`+` of what is not two numbers: texts and lists are joined."""
        families = {left.type.family, right.type.family}
        if "" in families and (len(families) == 1 or families & _SUMS):
            return ANY
        if len(families) == 2 or not families <= _SUMS:
            message = f"`+` takes two numbers, texts or lists, and {left.text} is {left.type}, {right.text} is {right.type}"
            self.error(node, message, _joining(left, right))
            return ANY
        if {left.type.holds, right.type.holds} <= NUMBERS:
            hint = f"Write number({left.text}) + number({right.text})."
            self.warn(node, f"`+` joins two texts: {left.text} is {left.type}", hint)
        if families == {"text"}:
            return Type("text")
        return Type("array", element=common([each.type.element or ANY for each in (left, right)]))

    def _IfExp(self, node: ast.IfExp, names: Names) -> Type:  # noqa: N802
        truth = self.condition(node.test, names)
        body = self._branch(node.body, node.test, names)
        other = self._branch(node.orelse, ast.UnaryOp(ast.Not(), node.test), names)
        return common([body, other]) if truth is None else body if truth else other

    def _branch(self, node: ast.expr, test: ast.expr, names: Names) -> Type:
        """The type of a branch: columns that cannot be NULL there are not."""
        sure = excluded(test, self.rows, names) if self.narrows else []
        if not sure:
            return self.type(node, names)
        deeper = ExpressionTyper(self.rows.assuming(sure, null=False), root=self._root)
        typed = deeper.type(node, names)
        self.found += deeper.found
        self.possible |= deeper.possible
        return typed

    # Displays and comprehensions

    def _List(self, node: ast.List | ast.Tuple, names: Names) -> Type:  # noqa: N802
        items = tuple(self.type(each, names) for each in node.elts)
        value = [each.only for each in items] if all(each.known for each in items) else UNKNOWN
        return Type("array", False, value=value, items=items, element=common(items) if items else ANY)

    _Tuple = _List

    def _Dict(self, node: ast.Dict, names: Names) -> Type:  # noqa: N802
        keys = [self._operand(each, names) for each in node.keys if each is not None]
        values = [self.type(each, names) for each in node.values]
        for each in keys:
            self._key(each)
        if not all(isinstance(each.type.value, str) for each in keys):
            return Type("object", False)
        pairs = {each.type.value: value for each, value in zip(keys, values, strict=True)}
        return Type("object", False, keys=MappingProxyType(pairs))

    def _key(self, key: Operand) -> None:
        if key.type.family not in {"", "text"}:
            self.error(key.node, f"the keys of an object are text, and {key.text} is {key.type}", f"Write string({key.text}).")

    def _ListComp(self, node: ast.ListComp | ast.GeneratorExp, names: Names) -> Type:  # noqa: N802
        return Type("array", False, element=self.type(node.elt, self._loops(node.generators, names)))

    _GeneratorExp = _ListComp

    def _DictComp(self, node: ast.DictComp, names: Names) -> Type:  # noqa: N802
        deeper = self._loops(node.generators, names)
        key, value = self._operand(node.key, deeper), self.type(node.value, deeper)
        self._key(key)
        if key.type.labels is None:
            return Type("object", False)
        return Type("object", False, keys=MappingProxyType({each: replace(value, nullable=True) for each in key.type.labels}))

    def _loops(self, generators: Sequence[ast.comprehension], names: Names) -> Names:
        for each in generators:
            assert isinstance(each.target, ast.Name)  # noqa: S101  language/checking.py accepts nothing else
            names = {**names, each.target.id: self._round(self._operand(each.iter, names))}
            for test in each.ifs:
                self.condition(test, names)
        return names

    def _round(self, whole: Operand) -> Type:
        """The type of a loop variable."""
        if whole.type.family not in {"", "array", "object"} and not whole.type.nested:
            self.refuse(whole.node, "`for … in` runs over lists and objects", whole)
        if whole.type.family == "object":
            return replace(TEXT, labels=frozenset(whole.type.keys) if whole.type.keys else None)
        return whole.type.element or ANY


def excluded(test: ast.expr, rows: Rows, names: Names = NOTHING) -> list[tuple[str, str]]:
    """The columns that are not NULL wherever the test is true."""
    used = {named for node in ast.walk(test) if isinstance(node, ast.Attribute | ast.Subscript) and (named := column_of(node))}
    nullable = [each for each in sorted(used) if each not in rows.assumed and rows.column(*each).nullable]
    return [each for each in nullable if _truth(test, rows.assuming([each], null=True), names) is False]


def _truth(test: ast.expr, rows: Rows, names: Names) -> bool | None:
    return ExpressionTyper(rows, narrows=False).type(test, names).truth


def _number(sign: str, left: str, right: str) -> str:
    """The kind of a number that arithmetic gives."""
    if {left, right} == {"integer"}:
        return "decimal" if sign == "/" else "integer"
    return "decimal" if sign == "/" or {left, right} & {"decimal", "float"} else "number"


def _joining(left: Operand, right: Operand) -> str:
    """What to write to join a text with something else."""
    for text, other in ((left, right), (right, left)):
        if text.type.holds in NUMBERS:
            return f"Write number({text.text})."
        if text.type.family == "text" and other.type.family in {"number", "boolean", "time"}:
            return f"To join texts, write concat({left.text}, {right.text})."
    return ""
