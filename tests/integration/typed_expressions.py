"""Random expressions over a table of every kind of column, and their values for its rows."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from cdc_tracker.generated import define
from cdc_tracker.mapping.compiler.expressions import ExpressionCompiler
from cdc_tracker.mapping.compiler.writer import RowLayout, Writer
from cdc_tracker.mapping.language.functions import FUNCTIONS
from cdc_tracker.model import Change, Position, Relation, Text, Transaction
from cdc_tracker.sources.postgres.connection import Connection
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import SPACE, mappings, one

PREPARE = """
CREATE TYPE state AS ENUM ('open', 'paid', 'Sent', '');
CREATE DOMAIN cents AS bigint CHECK (VALUE > -100000);
CREATE DOMAIN small_cents AS cents;
CREATE DOMAIN rate AS numeric(10, 3);
CREATE DOMAIN flag AS boolean;
CREATE DOMAIN moment AS timestamptz;
CREATE DOMAIN code AS char(4);
CREATE DOMAIN plan AS text CHECK (VALUE IN ('free', 'pro'));
CREATE DOMAIN stage AS state;
CREATE DOMAIN key AS uuid;
CREATE DOMAIN numbers AS int[];
"""
COLUMNS: dict[str, tuple[str, list[str | None]]] = {
    "id": ("bigint PRIMARY KEY", []),
    "small": ("smallint", ["0", "1", "-3", "32767"]),
    "qty": ("int NOT NULL", ["0", "2", "7", "-1"]),
    "big": ("bigint", ["0", "9223372036854775807", "10"]),
    "amount": ("numeric", ["0", "9.50", "-0.001", "NaN", "1e30"]),
    "price": ("numeric(8, 2) NOT NULL", ["0", "9.50", "100", "NaN"]),
    "ratio": ("float8", ["0", "0.1", "NaN", "-Infinity", "1e300", "2"]),
    "share": ("real NOT NULL", ["0.5", "0", "3"]),
    "gift": ("boolean", ["t", "f"]),
    "live": ("boolean NOT NULL", ["t", "f"]),
    "note": ("text", ["", "paid", " Paid ", "7", "2026-01-05", "NaN", "ü"]),
    "name": ("text NOT NULL", ["", "open", "a,b", "7.5"]),
    "short": ("varchar(4)", ["", "abcd", "a"]),
    "padded": ("char(4)", ["ab", "abcd", ""]),
    "token": ("uuid", ["6f9619ff-8b86-d011-b42d-00cf4fc964ff"]),
    "ref": ("uuid NOT NULL", ["6f9619ff-8b86-d011-b42d-00cf4fc964ff", "00000000-0000-0000-0000-000000000000"]),
    "doc": ("jsonb", ['{"a": 1}', "[1, 2]", "null", '"x"', "7", "true"]),
    "plain": ("json NOT NULL", ['{"a": null}', "[]", "null", "1.50"]),
    "paid_at": ("timestamptz", ["2026-01-05 10:00+00", "infinity", "0044-03-15 12:00 BC", "12026-01-01"]),
    "made_at": ("timestamptz NOT NULL", ["2026-01-05 10:00+00", "1970-01-01 00:00+00"]),
    "local_at": ("timestamp", ["2026-01-05 10:00:00.5", "-infinity"]),
    "day": ("date", ["2026-01-05", "infinity", "0044-03-15 BC"]),
    "clock": ("time", ["10:00", "24:00", "10:00:00.25"]),
    "zoned": ("timetz", ["10:00+02"]),
    "raw": ("bytea", ["\\x", "\\x6162"]),
    "ints": ("int[]", ["{}", "{1,2}", "{NULL,7}", "{{1,2},{3,4}}"]),
    "tags": ("text[] NOT NULL", ["{}", "{paid,x}", "{NULL}"]),
    "refs": ("uuid[]", ["{6f9619ff-8b86-d011-b42d-00cf4fc964ff}"]),
    "moments": ("timestamptz[]", ['{"2026-01-05 10:00+00",infinity}']),
    "flags": ("boolean[]", ["{t,f}"]),
    "docs": ("jsonb[]", ['{"{\\"a\\": 1}","7"}']),
    "state": ("state", ["open", "paid", "Sent", ""]),
    "state2": ("state NOT NULL", ["open", "paid"]),
    "states": ("state[]", ["{open,paid}", "{}"]),
    "checked": ("text CHECK (checked IN ('a', 'b'))", ["a", "b"]),
    "cents": ("cents", ["0", "700", "-5"]),
    "fee": ("small_cents NOT NULL", ["0", "12"]),
    "rate": ("rate", ["1.5", "NaN"]),
    "flag": ("flag", ["t", "f"]),
    "moment": ("moment", ["2026-01-05 10:00+00"]),
    "code": ("code", ["ab", "abcd"]),
    "plan": ("plan", ["free", "pro"]),
    "stage": ("stage", ["open", "Sent"]),
    "key": ("key", ["6f9619ff-8b86-d011-b42d-00cf4fc964ff"]),
    "numbers": ("numbers", ["{1,2}"]),
    "span": ("interval", ["1 day", "2 months"]),
    "address": ("inet", ["10.0.0.1"]),
    "cost": ("money", ["12.50"]),
    "range": ("int4range", ["[1,5)"]),
}
CONSTANTS = [
    "None",
    "True",
    "False",
    "0",
    "1",
    "2",
    "7",
    "-1",
    "9.50",
    "0.5",
    "''",
    "'paid'",
    "'open'",
    "'Sent'",
    "'PAID'",
    "'a'",
    "'c'",
    "'free'",
    "'abcd'",
    "'abcde'",
    "'ab'",
    "'7'",
    "'7.5'",
    "'x'",
    "'t'",
    "'NaN'",
    "'infinity'",
    "'2026-01-05'",
    "'10:00:00'",
    "'day'",
    "'days'",
    "'{1,2}'",
    "'\\x6162'",
    "'6f9619ff-8b86-d011-b42d-00cf4fc964ff'",
    "[]",
    "[1,2]",
    "['paid','x']",
    "{'a':1}",
    "{}",
]
NAMES = ["op", "table", "committed_at", "lsn", "xid"]
_TEXTS = ["new.note", "old.name", "new.short", "new.padded", "new.state", "new.cents", "new.token", "' Paid '", "'a,b'", "''"]
_LISTS = [
    "new.ints",
    "new.tags",
    "new.refs",
    "new.moments",
    "new.flags",
    "[new.qty, new.amount]",
    "['b', 'a']",
    "split(new.name, ',')",
]
_TIMES = ["new.made_at", "new.paid_at", "new.local_at", "old.day", "'2026-01-05'", "1700000000", "new.qty", "new.moment"]
FITTING = {
    "text": _TEXTS,
    "raw": [*_TEXTS, "new.raw"],
    "integer": ["0", "1", "2", "new.qty", "length(new.name)"],
    "number": ["new.qty", "new.big", "new.amount", "new.price", "new.ratio", "new.share", "1.50", "-7", "number(new.fee)"],
    "list": _LISTS,
    "object": ["{'a': new.qty}", "{x: 1 for x in new.tags}", "new.doc"],
    "sized": [*_TEXTS, *_LISTS, "new.raw", "{'a': 1}"],
    "whole": [*_TEXTS, *_LISTS, "{'a': 1}"],
    "digits": ["new.qty", "'7'", "new.cents", "new.gift", "new.price"],
    "numeral": ["new.qty", "'7.5'", "new.rate", "new.ratio"],
    "truth": ["new.flag", "'yes'", "1", "new.live"],
    "moment": _TIMES,
    "unit": ["'day'", "'hour'", "'days'"],
    "zone": ["'Europe/Berlin'", "new.name"],
}
"""Arguments for which a function may work, by the word of its signature."""
BINARY = ["+", "-", "*", "/", "//", "%"]
COMPARING = ["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
TRANSACTION = Transaction(42, 0x16_B374D848, 1_767_607_200_123_456)


def create(connection: Connection, random: Random, rows: int) -> None:
    """Makes the table `kinds`, with rows of random values."""
    connection.execute(PREPARE.encode())
    connection.execute(f"CREATE TABLE kinds ({', '.join(f'{name} {kind}' for name, (kind, _) in COLUMNS.items())})".encode())
    for row in range(rows):
        values = [str(row), *(_any(random, *each) for name, each in COLUMNS.items() if name != "id")]
        connection.execute(f"INSERT INTO kinds VALUES ({', '.join(['%s'] * len(values))})".encode(), values)


def _any(random: Random, kind: str, values: list[str | None]) -> str | None:
    return None if "NOT NULL" not in kind and random.random() < 0.2 else random.choice(values)


def texts(connection: Connection) -> list[tuple[Text, ...]]:
    """The rows as the server prints them, as the stream does."""
    result = connection.pgconn.exec_(b"SELECT * FROM kinds")
    width = range(result.nfields)
    return [tuple(_decoded(result.get_value(row, column)) for column in width) for row in range(result.ntuples)]


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else bytes(value).decode()


class Expressions:
    """Makes expressions that the language accepts and that may fail."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def any(self, depth: int, names: Sequence[str] = ()) -> str:
        """An expression of at most this depth."""
        if depth == 0 or self.random.random() < 0.15:
            return self._leaf(names)
        make = self.random.choice(
            [
                self._compared,
                self._compared,
                self._arithmetic,
                self._call,
                self._call,
                self._call,
                self._logic,
                self._asked,
                self._part,
                self._shown,
            ]
        )
        return make(depth - 1, names)

    def _leaf(self, names: Sequence[str]) -> str:
        where = self.random.random()
        if names and where < 0.4:
            return self.random.choice(names)
        if where < 0.65:
            return f"{self.random.choice(['new', 'new', 'old'])}.{self.random.choice(list(COLUMNS))}"
        return self.random.choice(CONSTANTS if where < 0.95 else NAMES)

    def _compared(self, depth: int, names: Sequence[str]) -> str:
        sign, left, right = self.random.choice(COMPARING), self.any(depth, names), self.any(depth, names)
        if sign.endswith("in") and self.random.random() < 0.6:
            right = f"[{right}, {self._leaf(names)}]"
        if self.random.random() < 0.1:
            return f"(({left}) is not None)"
        return f"(({left}) {sign} ({right}))"

    def _arithmetic(self, depth: int, names: Sequence[str]) -> str:
        if self.random.random() < 0.1:
            return f"(-({self.any(depth, names)}))"
        return f"(({self.any(depth, names)}) {self.random.choice(BINARY)} ({self.any(depth, names)}))"

    def _call(self, depth: int, names: Sequence[str]) -> str:
        name = self.random.choice(list(FUNCTIONS))
        function = FUNCTIONS[name]
        count = self.random.randint(function.least, min(function.most, function.least + 1))
        words = [function.takes[min(index, len(function.takes) - 1)] for index in range(count)]
        fits = self.random.random() < 0.5
        arguments = [self.random.choice(FITTING[each]) if fits and each in FITTING else self.any(depth, names) for each in words]
        if name == "entered":
            arguments[0] = f"new.{self.random.choice(list(COLUMNS))}"
        return f"{name}({', '.join(arguments)})"

    def _logic(self, depth: int, names: Sequence[str]) -> str:
        a, b, c = (self.any(depth, names) for _ in range(3))
        return self.random.choice([f"(({a}) and ({b}))", f"(({a}) or ({b}))", f"(not ({a}))", f"(({a}) if ({b}) else ({c}))"])

    def _asked(self, depth: int, names: Sequence[str]) -> str:
        """Questions about one value: by comparisons with constants, of it or of what a function makes of it; in a chain."""
        asked = f"{self.random.choice(['new', 'old'])}.{self.random.choice(list(COLUMNS))}"
        if self.random.random() < 0.3:
            name = self.random.choice(["left", "right", "starts_with", "ends_with", "contains", "lower", "trim", "int", "sha256"])
            asked = f"{name}({asked}{', ' + self.random.choice(CONSTANTS) if FUNCTIONS[name].least == 2 else ''})"
        if self.random.random() < 0.2:
            return f"({asked} {self.random.choice(COMPARING)} {self.any(depth, names)} {self.random.choice(COMPARING)} {asked})"
        first, second, third = (self.random.choice(CONSTANTS) for _ in range(3))
        parts = [f"{asked} == {first}", f"{asked} in [{second}, {third}]", f"{asked} != {second}", f"{asked} not in [{first}]"]
        return f"({self.random.choice([' and ', ' or ']).join(self.random.sample(parts, 2))})"

    def _part(self, depth: int, names: Sequence[str]) -> str:
        whole = self.any(depth, names)
        return f"({whole})[{self.random.choice(['0', '1', '-1', '5', repr('a'), repr('z'), ':2', '1:', self._leaf(names)])}]"

    def _shown(self, depth: int, names: Sequence[str]) -> str:
        a, b = self.any(depth, names), self.any(depth, names)
        loop = f"n{len(names)}"
        inner = self.any(depth, [*names, loop])
        return self.random.choice(
            [
                f"[{a}, {b}]",
                f"{{'a': {a}, 'b': {b}}}",
                f"[{inner} for {loop} in ({a}) if ({b})]",
                f"{{{loop}: {b} for {loop} in ({a})}}",
                f'f"{{{a}}}-{{{b}}}"',
            ]
        )


def columns_of(node: ast.AST) -> set[tuple[str, str]]:
    """(row, column) of each column below a node. entered() reads the old row as well."""
    found = {
        (each.value.id, each.attr)
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name)
    }
    if any(isinstance(each, ast.Name) and each.id == "entered" for each in ast.walk(node)):
        found |= {("old", name) for _, name in found}
    return found


def closed(node: ast.expr) -> Iterator[ast.expr]:
    """The node and the expressions below it that need no loop variable."""
    yield node
    for part in ast.iter_child_nodes(node):
        child = part.value if isinstance(part, ast.FormattedValue) else part
        if isinstance(child, ast.comprehension):
            if child is node.generators[0]:  # type: ignore[attr-defined]  # comprehensions alone have them
                yield from closed(child.iter)
        elif isinstance(child, ast.expr) and not (isinstance(node, _LOOPS) or isinstance(child, ast.Slice) or _is_name(child)):
            yield from closed(child)


_LOOPS = (ast.ListComp, ast.DictComp, ast.GeneratorExp)


def _is_name(node: ast.expr) -> bool:
    """Whether it is the name of a row or of a function, which has no value."""
    return isinstance(node, ast.Name) and (node.id in {"new", "old"} or node.id in FUNCTIONS)


MAPPING = one(on=["insert", "update", "delete"], table="public.kinds", user_id="new.id")


class Evaluator:
    """Computes expressions for one operation as the generated code does."""

    def __init__(self, relation: Relation, op: str) -> None:
        names = [column.name for column in relation.columns]
        self.layout = RowLayout(relation, codec, names, names, SPACE, "db")
        [self.mapping] = mappings(MAPPING).all
        self.relation, self.op = relation, op

    def function(self, node: ast.expr) -> Callable[[tuple[Text, ...], tuple[Text, ...]], Any]:
        """A function from the new and the old row to the value. It raises what the expression raises."""
        writer = Writer(self.mapping, self.layout, self.op, ())
        source, _ = ExpressionCompiler(writer.scope).value(node)
        setup = [f"    {name} = {given}" for name, given in sorted(writer.scope.variables.items())]
        lines = ["def value(change, new, old):", *setup, f"    return {source}"]
        value = define("value", "\n".join(lines) + "\n", writer.scope.constants, "an expression")
        return lambda new, old: value(self._change(new, old), new, old)

    def _change(self, new: tuple[Text, ...], old: tuple[Text, ...]) -> Change:
        return Change(self.op, self.relation, new, old, Position(1, 0), 1, 0, TRANSACTION)
