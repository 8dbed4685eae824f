"""Checks a parsed expression: what is not in the language is refused, with the place where it is."""

from __future__ import annotations

import ast
import keyword
import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from typing import NoReturn

from cdc_tracker.config.nearest import nearest
from cdc_tracker.mapping.language import zones
from cdc_tracker.mapping.language.expressions import NAMES, ROWS, ColumnUse, Expression, Lets, SyntaxProblem, cut
from cdc_tracker.mapping.language.functions import FUNCTIONS
from cdc_tracker.mapping.language.habits import OTHER_NAMES

MAX_DEPTH = 40
_MAX_LITERAL_DIGITS = 100
_OTHER_SPELLINGS = {
    "true": "True",
    "false": "False",
    "null": "None",
    "none": "None",
    "nil": "None",
    "NULL": "None",
    "Null": "None",
    "undefined": "None",
    "TRUE": "True",
    "FALSE": "False",
}
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


def refused_zone(name: object) -> str:
    """Why a text does not name a time zone; empty if it does."""
    if isinstance(name, str) and zones.zone(name):
        return ""
    return f"there is no time zone {cut(str(name))}{nearest(str(name), zones.names(), list_all=0) or ', such as Europe/Berlin'}"


def refused_name(name: str) -> str:
    """Why `let` cannot name a value so; empty if it can."""
    if name in NAMES or name in FUNCTIONS or name in _OTHER_SPELLINGS:
        return "has a meaning of its own in expressions: choose another name"
    plain = name.isidentifier() and not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name
    return "" if plain and not name.startswith("_") else "must be a name of letters, digits and underscores, such as total"


class Checking:
    """Walks over an expression's nodes and refuses all that is not in the language."""

    def __init__(self, source: str, shift: int, known: Lets) -> None:
        self.source = source
        self.shift = shift
        self.known = known
        self.uses: list[ColumnUse] = []
        self.lets: list[str] = []
        self.depth = 0

    def refuse(self, node: ast.AST, message: str) -> NoReturn:
        """Raises SyntaxProblem at the node."""
        raise SyntaxProblem(message, self.column(node))

    def column(self, node: ast.AST) -> int:
        """The node's column in the text, from 1."""
        line = getattr(node, "lineno", 1)
        offset = getattr(node, "col_offset", 0)
        if not self.source.isascii():  # Python counts the bytes of UTF-8
            offset = len(self.source.split("\n")[line - 1].encode()[:offset].decode(errors="ignore"))
        return max(offset + 1 - (self.shift if line == 1 else 0), 1)

    def expression(self, node: ast.expr, local: frozenset[str], depth: int) -> None:
        """Checks a node and all below it. `local`: loop variables in scope."""
        self._nested(node, depth)
        check = getattr(self, f"_{type(node).__name__}", None)
        if check is None:
            self.refuse(node, _REFUSED.get(type(node).__name__, "this cannot be used in an expression"))
        check(node, local, depth + 1)

    def _nested(self, node: ast.expr, depth: int) -> None:
        if depth > MAX_DEPTH:
            self.refuse(node, f"the expression is nested deeper than {MAX_DEPTH}")
        self.depth = max(self.depth, depth)

    def _all(self, nodes: list[ast.expr], local: frozenset[str], depth: int) -> None:
        for node in nodes:
            self.expression(node, local, depth)

    def _Constant(self, node: ast.Constant, local: frozenset[str], depth: int) -> None:  # noqa: N802  named as in ast
        value = node.value
        if isinstance(value, str):
            if any("\ud800" <= letter <= "\udfff" for letter in value):
                self.refuse(node, "half a surrogate pair is not text")
        elif isinstance(value, int) and not isinstance(value, bool):
            if value.bit_length() > _MAX_LITERAL_DIGITS * 3:
                self.refuse(node, "the number is too long")
        elif isinstance(value, float):
            node.value = self._exact(node, value)  # type: ignore[assignment] # ast's constants may be anything
        elif value is not None and not isinstance(value, bool):
            self.refuse(node, f"{type(value).__name__} constants cannot be used; use text, numbers, True, False, None")

    def _exact(self, node: ast.Constant, value: float) -> Decimal:
        """The number as written; within an f-string, whose parts Python 3.11 does not locate, its shortest text."""
        text = (ast.get_source_segment(self.source, node) or "").replace("_", "")
        written = re.fullmatch(r"[0-9]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?", text)
        exact = Decimal(text) if written and text and float(text) == value else Decimal(repr(value))
        if (
            not exact.is_finite()
            or abs(exact.adjusted()) > _MAX_LITERAL_DIGITS
            or len(exact.as_tuple().digits) > _MAX_LITERAL_DIGITS
        ):
            self.refuse(node, "the number is too long or too large")
        return exact

    def _BoolOp(self, node: ast.BoolOp, local: frozenset[str], depth: int) -> None:  # noqa: N802
        self._all(node.values, local, depth)

    def _UnaryOp(self, node: ast.UnaryOp, local: frozenset[str], depth: int) -> None:  # noqa: N802
        if not isinstance(node.op, ast.Not | ast.USub):
            self.refuse(node, f"the operator {'+' if isinstance(node.op, ast.UAdd) else '~'} cannot be used here")
        self.expression(node.operand, local, depth)

    def _BinOp(self, node: ast.BinOp, local: frozenset[str], depth: int) -> None:  # noqa: N802
        if not isinstance(node.op, _OPERATORS):
            self.refuse(node, "the operators are + - * / // %; & and | are written `and` and `or`")
        self._all([node.left, node.right], local, depth)

    def _Compare(self, node: ast.Compare, local: frozenset[str], depth: int) -> None:  # noqa: N802
        for operator, right in zip(node.ops, node.comparators, strict=True):
            plain = isinstance(right, ast.Constant) and (right.value is None or isinstance(right.value, bool))
            if isinstance(operator, ast.Is | ast.IsNot) and not plain:
                self.refuse(right, "`is` is for None, True and False; use == or !=")
        self._all([node.left, *node.comparators], local, depth)

    def _IfExp(self, node: ast.IfExp, local: frozenset[str], depth: int) -> None:  # noqa: N802
        self._all([node.test, node.body, node.orelse], local, depth)

    def _List(self, node: ast.List | ast.Tuple, local: frozenset[str], depth: int) -> None:  # noqa: N802
        self._all(node.elts, local, depth)

    _Tuple = _List

    def _Dict(self, node: ast.Dict, local: frozenset[str], depth: int) -> None:  # noqa: N802
        for key in node.keys:
            if key is None:
                self.refuse(node, "** cannot be used")
            self.expression(key, local, depth)
        self._all(node.values, local, depth)

    def _JoinedStr(self, node: ast.JoinedStr, local: frozenset[str], depth: int) -> None:  # noqa: N802
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                if part.format_spec is not None or part.conversion != -1:
                    self.refuse(node, "an f-string takes no format: write {value}, with a function such as round() in it")
                self.expression(part.value, local, depth)
            else:
                self.expression(part, local, depth)

    def _Name(self, node: ast.Name, local: frozenset[str], depth: int) -> None:  # noqa: N802
        name = node.id
        if name in local or (name in NAMES and name not in ROWS):
            return
        if name in self.known:
            self._let(node, self.known[name], depth)
            return
        if name in ROWS:
            self.refuse(node, f"name one of its columns: {name}.column")
        if name in _OTHER_SPELLINGS:
            self.refuse(node, f"write {_OTHER_SPELLINGS[name]}")
        if name in FUNCTIONS:
            self.refuse(node, f"{name} is a function: {FUNCTIONS[name].signature}")
        known, short = nearest(name, [*sorted(local), *self.known, *NAMES]), cut(name, quote=False)
        fixed = f"; fixed text: {{const: {short}}}" if self.source.strip("()\n ") == name else ""
        self.refuse(
            node, f"there is no name {cut(name)}{known} (write a column as new.{short}; text is written {cut(name)}{fixed})"
        )

    def _let(self, node: ast.Name, let: Expression | None, depth: int) -> None:
        if let is None:
            self.refuse(node, f"{cut(node.id)} is not known yet: a `let` can name those above it only")
        self.lets.append(node.id)
        self._nested(node, depth + let.depth)
        if let.is_column:
            self._column(node, let.uses[0].row, let.uses[0].name)

    def _Attribute(self, node: ast.Attribute, local: frozenset[str], depth: int) -> None:  # noqa: N802
        row = node.value
        if not isinstance(row, ast.Name) or row.id not in ROWS:
            if isinstance(row, ast.Name) and row.id not in local and row.id not in NAMES:
                self.refuse(row, f"there is no row {cut(row.id)}{nearest(row.id, ROWS)}")
            known = _instead(node.attr) if node.attr.lower() in OTHER_NAMES.keys() | FUNCTIONS.keys() else ""
            self.refuse(
                node, f"a dot is only for new.column and old.column; a key within a value is […][{cut(node.attr)}]{known}"
            )
        if node.attr.startswith("__"):
            self.refuse(node, f'a name cannot start with two underscores; write such a column as {row.id}["…"]')
        self._column(node, row.id, node.attr)

    def _Subscript(self, node: ast.Subscript, local: frozenset[str], depth: int) -> None:  # noqa: N802
        row, key = node.value, node.slice
        if isinstance(row, ast.Name) and row.id in ROWS:
            if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                self.refuse(node, f'a column is named by text: {row.id}["Quoted column"]')
            self._column(node, row.id, key.value)
            return
        self.expression(row, local, depth)
        if isinstance(key, ast.Slice):
            self._all([bound for bound in (key.lower, key.upper, key.step) if bound is not None], local, depth)
        else:
            self.expression(key, local, depth)

    def _column(self, node: ast.AST, row: str, name: str) -> None:
        self.uses.append(ColumnUse(row, name, self.column(node)))

    def _Call(self, node: ast.Call, local: frozenset[str], depth: int) -> None:  # noqa: N802
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
            self.refuse(node, f"values have no methods: call a function with the value as argument{_instead(name)}")
        if not isinstance(node.func, ast.Name):
            self.refuse(node, "only functions can be called, by their name")
        name = node.func.id
        if name in local:
            self.refuse(node, f"{cut(name)} is a loop variable here, not a function")
        if name not in FUNCTIONS:
            self.refuse(node, f"there is no function {cut(name)}{_instead(name) or nearest(name, list(FUNCTIONS))}")
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            self.refuse(node, f"arguments are positional only: {FUNCTIONS[name].signature}")
        if not FUNCTIONS[name].least <= len(node.args) <= FUNCTIONS[name].most:
            self.refuse(node, f"wrong number of arguments ({len(node.args)}): {FUNCTIONS[name].signature}")
        for argument, word in zip(node.args, FUNCTIONS[name].takes, strict=False):
            if word == "zone" and isinstance(argument, ast.Constant) and (refused := refused_zone(argument.value)):
                self.refuse(argument, refused)
        uses, lets = len(self.uses), len(self.lets)
        self.expression(node.args[0], local, depth)
        if name == "entered":
            self._entered(node.args[0], self.uses[uses:], self.lets[lets:])
        self._all(node.args[1:], local, depth)

    def _entered(self, now: ast.expr, uses: list[ColumnUse], lets: list[str]) -> None:
        """Notes that what entered() reads of `new` is read of `old`, too."""
        named = [let for name in lets if (let := self.known[name])]
        needed = [self.known[name] for name in {*lets}.union(*(let.lets for let in named))]
        uses = [*uses, *(ColumnUse(use.row, use.name, self.column(now)) for let in needed if let for use in let.uses)]
        if not uses or any(use.row == "old" for use in uses):
            self.refuse(now, "the first argument of entered() must name a column of new, and none of old")
        self.uses += [ColumnUse("old", use.name, use.column) for use in uses]

    def _ListComp(self, node: ast.ListComp | ast.GeneratorExp, local: frozenset[str], depth: int) -> None:  # noqa: N802
        self.expression(node.elt, self._loops(node.generators, local, depth), depth)

    _GeneratorExp = _ListComp

    def _DictComp(self, node: ast.DictComp, local: frozenset[str], depth: int) -> None:  # noqa: N802
        inside = self._loops(node.generators, local, depth)
        self._all([node.key, node.value], inside, depth)

    def _loops(self, generators: list[ast.comprehension], local: frozenset[str], depth: int) -> frozenset[str]:
        if len(generators) > 2:
            self.refuse(generators[2].target, "a comprehension takes at most two `for`")
        for generator in generators:
            if generator.is_async:
                self.refuse(generator.target, "async cannot be used")
            self.expression(generator.iter, local, depth)
            local |= frozenset(self._targets(generator.target))
            self._all(generator.ifs, local, depth)
        return local

    def _targets(self, target: ast.expr) -> Iterator[str]:
        if not isinstance(target, ast.Name):
            self.refuse(target, "`for` takes a single name")
        name = target.id
        if name in NAMES or name in self.known or name.startswith("_"):
            self.refuse(target, f"{cut(name)} cannot be the name of a loop variable")
        yield name


def _instead(name: str) -> str:
    """The end of a message about a function that does not exist; empty if none is like it."""
    if name.lower() in OTHER_NAMES:
        return f"; write {OTHER_NAMES[name.lower()]}"
    return nearest(name, list(FUNCTIONS), list_all=0)


_REFUSED = {
    "Lambda": "lambda cannot be used",
    "NamedExpr": ":= cannot be used",
    "Starred": "* cannot be used",
    "SetComp": "a set cannot be used; write a list and distinct(…)",
    "Set": "a set cannot be used; write a list [ … ]",
    "Await": "await cannot be used",
    "Yield": "yield cannot be used",
    "YieldFrom": "yield cannot be used",
    "Slice": "a slice belongs in brackets after one value",
}
