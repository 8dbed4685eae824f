"""Types against values: what an expression is typed as is what it gives, for random expressions over rows of real servers."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import pytest

from cdc_tracker.errors import MappingError, Problem
from cdc_tracker.mapping import compile_plan, findings
from cdc_tracker.mapping.language.expressions import SyntaxProblem
from cdc_tracker.mapping.language.parsing import parse
from cdc_tracker.mapping.language.signatures import TEXTS
from cdc_tracker.mapping.typing.expressions import ExpressionTyper
from cdc_tracker.mapping.typing.reporter import Found
from cdc_tracker.mapping.typing.rows import Rows
from cdc_tracker.mapping.typing.types import FORMS, UNKNOWN, Type, column_type
from cdc_tracker.model import Change, Event, Position, Relation, Special, Text
from cdc_tracker.sources.postgres import catalog
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.values import codec
from tests.integration.typed_expressions import TRANSACTION, Evaluator, Expressions, closed, columns_of, create, texts
from tests.postgres import Database
from tests.unit.mapping.shop import SPACE, mappings, one

EXPRESSIONS = int(os.environ.get("TYPED_EXPRESSIONS", "200"))
SEED = int(os.environ.get("TYPED_SEED", "1"))
ROWS = 12
LETTERS = {"insert": "c", "update": "u", "delete": "d"}
CLASSES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "decimal": (Decimal,),
    "float": (float,),
    "number": (int, Decimal, float),
    "boolean": (bool,),
    "uuid_value": (UUID,),
    "timestamptz": (datetime,),
    "timestamp": (datetime,),
    "date": (date,),
    "bytes": (bytes,),
    "array": (list, tuple),
    "object": (dict,),
} | dict.fromkeys(TEXTS, (str,))
RAISED = object()
RULES: list[tuple[str, list[Any]]] = [
    ("type", ["string", "number", "integer", "boolean", "object", "array", "timestamp", "date", "any"]),
    ("enum", [["open", "paid"], ["x"], [1, 7], ["a", 7, None], [True], ["NaN"], ["EUR "], ["ab", "abcd"], ["free", "gold"]]),
    ("pattern", ["^[a-z]+$", "^$", "[0-9]", "^Z"]),
    ("minimum", [0, 100]),
    ("maximum", [-1, 7]),
    ("min_length", [1, 5]),
    ("max_length", [0, 3]),
    ("items", [{"type": "integer"}, {"enum": ["paid"]}, {"type": "string", "min_length": 2}]),
    ("properties", [{"a": {"type": "integer", "required": True}}, {"b": {"type": "string"}}]),
]


def unlike(value: Any, given: Type) -> str:
    """Why a value is not of the type; empty if it is. A Special, and what contains one, may be of any."""
    if isinstance(value, Special):
        return ""
    if value is None:
        return "" if given.nullable or given.kind == "null" else "it is never None"
    if given.kind in {"any", "json"}:
        return ""
    if given.nested and isinstance(value, list):
        return ""
    if given.kind == "null":
        return "it is always None"
    if not isinstance(value, CLASSES[given.kind]) or (given.kind != "boolean" and isinstance(value, bool)):
        return f"its kind is {given.kind}"
    return _unlike_facts(value, given) or _unlike_parts(value, given)


def _unlike_facts(value: Any, given: Type) -> str:
    if given.value is not UNKNOWN and value != given.value:
        return f"it is always {given.value!r}"
    if given.labels is not None and value not in given.labels:
        return f"its labels are {sorted(given.labels)}"
    if (given.least is not None and value < given.least) or (given.most is not None and value > given.most):
        return f"it is {given.least} to {given.most}"
    if given.length is not None and (len(value) > given.length or (given.fixed and len(value) != given.length)):
        return f"its length is {given.length}"
    if given.holds and given.holds in FORMS and not FORMS[given.holds].fullmatch(value):
        return f"it holds {given.holds}"
    return ""


def _unlike_parts(value: Any, given: Type) -> str:
    if given.items is not None and len(given.items) != len(value):
        return f"it has {len(given.items)} elements"
    if given.element is not None and (wrong := next(filter(None, (unlike(each, given.element) for each in value)), "")):
        return f"element: {wrong}"
    if given.keys is not None:
        extra = value.keys() - given.keys.keys()
        return (
            f"keys {extra}" if extra else next(filter(None, (unlike(each, given.keys[key]) for key, each in value.items())), "")
        )
    return ""


class Checker:
    """Compares types and values of one table for one operation."""

    def __init__(self, relation: Relation, columns: dict[str, Type], rows: list[tuple[Text, ...]], operation: str) -> None:
        self.rows = Rows(operation, columns)
        self.evaluator = Evaluator(relation, LETTERS[operation])
        self.pairs = [*zip(rows, rows[1:] + rows[:1], strict=True)]
        self.names = [column.name for column in relation.columns]
        self.codecs = [codec(column.type_oid) for column in relation.columns]
        self.failures: list[str] = []
        self.reported = self.compared = 0

    def values(self, node: ast.expr) -> Iterator[tuple[Any, bool]]:
        """(value, or RAISED; whether a Special takes part) for each pair of rows."""
        function = self.evaluator.function(node)
        used = [(row, self.names.index(name)) for row, name in columns_of(node) if self.rows.has(row)]
        for new, old in self.pairs:
            special = any(self._special((new if row == "new" else old)[index], index) for row, index in used)
            try:
                yield function(new, old), special
            except Exception:
                yield RAISED, special

    def _special(self, text: Text, index: int) -> bool:
        if not isinstance(text, str):
            return False
        loaded = self.codecs[index].load(text)
        return any(isinstance(each, Special) for each in (loaded if isinstance(loaded, list) else [loaded]))

    def check(self, text: str) -> None:
        for node in closed(parse(text).node):
            typer = ExpressionTyper(self.rows)
            given = typer.type(node)
            own = [found for found in typer.found if found.node is node]
            values = list(self.values(node))
            self.compared += len(values)
            for value, special in values:
                if value is RAISED or special:
                    continue
                if wrong := unlike(value, given):
                    self._fail(text, node, f"{value!r} is not of {given!r}: {wrong}")
                elif given.truth is not None and bool(value) is not given.truth:
                    self._fail(text, node, f"{value!r} is not {given.truth}")
            for found in own:
                self._contradicted(text, found, values)
            for found in typer.found:
                if found.message.startswith("is never found"):
                    self._found(text, node, found)

    def _contradicted(self, text: str, found: Found, values: list[tuple[Any, bool]]) -> None:
        """Whether a row does what an error says is impossible. NULL in an operand explains what it gives."""
        node, message = found.node, found.message
        if isinstance(node, ast.Compare) and len(node.ops) > 1:
            return  # of a chain, one of its comparisons is said to be impossible
        begins = message.replace(":", "").split()
        sure = {"True": True, "False": False}.get(begins[1] if begins[0] == "always" else begins[0])
        if found.severity == "warning" and sure is None:
            return
        self.reported += 1
        operands = [list(self.values(each)) for each in _operands(node)]
        for row, (value, special) in enumerate(values):
            nulls = sum(each[row][0] is None for each in operands)
            absent = value is None and isinstance(node, ast.Subscript | ast.Call)  # no such key
            absent |= value == 0 and message.startswith("sum()")  # of an empty list
            if value is RAISED or special or (sure is None and (nulls or absent)):
                continue
            if nulls and not message.startswith("always"):
                continue
            if sure is None or (_is_comparison(node) and value is not None and value is not sure):
                self._fail(text, node, f"{message!r}, but it is {value!r}")

    def _found(self, text: str, node: ast.expr, found: Found) -> None:
        """Whether an element that is never found equals what is looked for."""
        if (
            isinstance(node, ast.Compare)
            and isinstance(node.comparators[0], ast.List | ast.Tuple)
            and found.node in node.comparators[0].elts
        ):
            alone = ast.Compare(node.left, [ast.Eq()], [found.node])
            for value, special in self.values(alone):
                if value is True and not special and not self._null(alone):
                    self._fail(text, alone, f"{found.message!r}, but it is")

    def _null(self, compare: ast.Compare) -> bool:
        """Whether what is looked for can be None, which equals another None."""
        return any(value is None for value, _ in self.values(compare.left))

    def _fail(self, text: str, node: ast.expr, what: str) -> None:
        self.failures.append(f"{self.rows.operation}: {ast.unparse(node)[:300]}: {what}\n    in {text[:400]}")


def _operands(node: ast.expr) -> list[ast.expr]:
    return [child for child in closed(node) if child is not node]


def _is_comparison(node: ast.expr) -> bool:
    called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    return isinstance(node, ast.Compare) or called in {"changed", "contains"}


def _rules(random: Random) -> dict[str, Any]:
    return {name: random.choice(values) for name, values in random.sample(RULES, random.randint(1, 2))}


def test_a_rule_that_no_value_meets_rejects_every_row(database: Database) -> None:
    random = Random(SEED)
    with closing(connect(database.url)) as connection:
        create(connection, random, ROWS)
        tables = catalog.tables(connection, ["public.kinds"])
        rows = texts(connection)
    [table] = tables.values()
    names = [column.name for column in table.columns]
    expressions, told = Expressions(random), 0
    for _ in range(EXPRESSIONS * 3):
        text = f"new.{random.choice(names)}" if random.random() < 0.7 else expressions.any(1)
        shape = {"value": text, **_rules(random)}
        try:
            given = mappings(one(table="public.kinds", user_id="new.id", properties={"x": shape}))
        except MappingError:
            continue
        found = [each for each in findings(given, tables, codec) if each.key.startswith("events[0].properties.x")]
        if not any(each.severity == "error" for each in found):
            continue
        told += 1
        plan = compile_plan(given, table.relation, codec, space=SPACE, database="db", destination=None)
        assert plan is not None
        for row in rows:
            new = tuple(row[names.index(name)] for name in plan.new_columns)
            outcome = plan.by_op["c"][0](Change("c", table.relation, new, None, Position(1, 0), 1, 0, TRANSACTION))
            sent = outcome.decoded()["properties"]["x"] if isinstance(outcome, Event) else None
            read = [(codec(each.type_oid), row[names.index(each.name)]) for each in table.columns if f".{each.name}" in text]
            special = any(cell is not None and isinstance(each.load(str(cell)), Special) for each, cell in read)
            assert special or _empty(sent) or _impossible_only_in_part(found), f"{shape}: {found}: {sent!r}"
    assert told > EXPRESSIONS / 4


def _empty(value: Any) -> bool:
    """Whether there is nothing to meet a rule: None, or a list or object of Nones."""
    within = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
    return all(each is None for each in within)


def _impossible_only_in_part(found: list[Problem]) -> bool:
    """Whether what is wrong may not be computed in every row, or is a comparison, whose result is sent."""
    return all(each.message.startswith("column ") for each in found if each.severity == "error")


@pytest.mark.parametrize("operation", list(LETTERS))
def test_an_expression_gives_what_it_is_typed_as(database: Database, operation: str) -> None:
    random = Random(SEED)
    with closing(connect(database.url)) as connection:
        create(connection, random, ROWS)
        table = catalog.tables(connection, ["public.kinds"])["public.kinds"]
        rows = texts(connection)
    columns = {column.name: column_type(column, codec) for column in table.columns}
    relation = Relation(table.schema, table.name, table.relation.columns, "f")
    checker, expressions = Checker(relation, columns, rows, operation), Expressions(random)
    for _ in range(EXPRESSIONS):
        text = expressions.any(random.randint(1, 3))
        try:
            checker.check(text)
        except SyntaxProblem:
            continue
    assert not checker.failures, "\n".join(checker.failures[:10])
    assert checker.reported > EXPRESSIONS / 4 and checker.compared > EXPRESSIONS * ROWS
