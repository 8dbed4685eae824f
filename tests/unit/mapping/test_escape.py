"""Expressions that try to get out: whatever the text, it is refused, or it gives a value or a rejection, in bounded time."""

from __future__ import annotations

import builtins
import json
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cdc_tracker.errors import MappingError
from cdc_tracker.mapping import FUNCTIONS
from cdc_tracker.mapping.compiler.generate import make_mapper
from cdc_tracker.mapping.compiler.writer import RowLayout
from cdc_tracker.mapping.language.expressions import NAMES, SyntaxProblem
from cdc_tracker.mapping.language.parsing import parse
from cdc_tracker.model import UNCHANGED, Event, Rejection, Special, Text
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import COLUMNS, ROW, SPACE, change, mappings, one, plan, relation

ATOMS = [
    *(f"new.{name}" for name in COLUMNS if name.isidentifier()),
    *(f"old.{name}" for name in ("id", "status", "items", "amount")),
    *(name for name in NAMES if name not in {"new", "old"}),
    *("None", "True", "False", "0", "1", "-1", "7", "0.1", "1e90", "'a'", "''", "'paid'", "[]", "{}", "'2026-01-05'"),
]
ESCAPES = [
    "().__class__.__base__.__subclasses__()",
    "''.__class__.__mro__[1].__subclasses__()",
    "__import__('os').system('true')",
    "getattr(new, 'x')",
    "new.__class__",
    "new.status.__class__",
    "new['__class__'].__init__.__globals__",
    "(lambda: 0).__globals__",
    "[x for x in ().__class__.__bases__]",
    "f'{new.status.__class__}'",
    "f'{().__class__!r:>{9**9}}'",
    "'{0.__class__}'.format(new)",
    "str.format('{}', 1)",
    "lower.__globals__",
    "lower.__self__",
    "(lower)('a').__class__",
    "eval('1')",
    "exec('1')",
    "open('/etc/passwd')",
    "globals()",
    "locals()",
    "vars()",
    "type('')",
    "breakpoint()",
    "__builtins__",
    "__name__",
    "Event",
    "Error",
    "mapper",
    "change",
    "new[0]",
    "new_id",
    "UNSET",
    "make_id",
    "message_id",
    "transaction",
    "change.transaction",
    "(yield 1)",
    "(x := 1)",
    "[c for c in new.items][0].__class__",
    "{**new}",
    "[*new]",
    "9**9**9",
    "'a' * 10**9",
    "[0] * 10**9",
    "1 << 10**9",
]


@pytest.mark.invariant(12)
@pytest.mark.parametrize("expression", ESCAPES)
def test_ways_out_of_python_expressions_are_refused(expression: str) -> None:
    with pytest.raises(SyntaxProblem):
        parse(expression)


@pytest.mark.parametrize("name", sorted(set(dir(builtins)) - set(FUNCTIONS) - {"True", "False", "None"}))
def test_no_builtin_can_be_named(name: str) -> None:
    for expression in (name, f"{name}()", f"{name}(new.id)"):
        with pytest.raises(SyntaxProblem):
            parse(expression)


def test_generated_code_sees_no_builtins_and_only_what_it_was_given() -> None:
    mapping = mappings(one(properties={"x": "lower(new.status)"})).all[0]
    layout = RowLayout(relation(), codec, ("user_id", "status"), (), SPACE, "d")
    function = make_mapper(mapping, layout, "c", ()).function
    seen = getattr(function, "__globals__")  # noqa: B009  Callable has none for mypy
    assert seen["__builtins__"] == {}
    for name, value in seen.items():
        assert name == "__builtins__" or (name.isascii() and name.isidentifier() and not name.startswith("_"))
        assert value not in (eval, exec, open, getattr, setattr, type, vars, globals, __import__)
        assert getattr(value, "__name__", "") not in {"os", "sys", "builtins", "subprocess"}


@pytest.mark.parametrize("name", ["__builtins__", "Event", "Error", "mapper", "change", "class", "error", "a b\n:=c", "é", ""])
def test_no_column_or_property_takes_a_name_of_the_generated_code(name: str) -> None:
    text = one(
        on=["insert", "update"],
        user_id=f"new[{json.dumps(name)}]",
        when=f"[change for change in [new[{json.dumps(name)}]] if change != old[{json.dumps(name)}]]",
        properties={name: f"new[{json.dumps(name)}]", f"{name} ": f"upper(new[{json.dumps(name)}])"},
    )
    made = plan(text, relation(columns={name: "text"}))
    table = relation(columns={name: "text"})
    found = made.by_op["u"][0](replace(change(made, "u"), relation=table, new=("after",), old=("before",)))
    assert isinstance(found, Event)
    assert found.decoded()["properties"] == {name: "after", f"{name} ": "AFTER"} and found.decoded()["userId"] == "after"


FORMS = [
    *(f"(@ {sign} @)" for sign in ("+", "-", "*", "/", "//", "%", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or")),
    *("(@ < @ <= @)", "(@ is None)", "(@ is not None)", "(not @)", "(-@)", "(@ if @ else @)"),
    *("@[@]", "@[@:@]", "[@, @]", "{'k': @, @: @}", "f'a{@}b'"),
    *("[@ for i in @ if i == @]", "[[i, j, @] for i in @ for j in @]", "{string(i): @ for i in @}", "sum(i for i in @)"),
    *(f"{name}({', '.join('@' * count)})" for name, f in FUNCTIONS.items() for count in {f.least, min(f.most, f.least + 1)}),
]


def grown(chance: random.Random, depth: int) -> str:
    """A random expression, mostly of the language."""
    if depth <= 0 or chance.random() < 0.15:
        return str(chance.choice(ATOMS))
    parts: list[str] = chance.choice(FORMS).split("@")
    return parts[0] + "".join(grown(chance, depth - 1) + part for part in parts[1:])


def _spoiled(chance: random.Random, text: str) -> str:
    """The expression with something foreign in it."""
    at = chance.randrange(len(text) + 1)
    foreign: str = chance.choice([*ESCAPES, *string.punctuation, ".__class__", "\n", "\\", "'", "new", "(", ")"])
    return text[:at] + foreign + text[at:]


CELLS: list[Text] = [None, UNCHANGED, "", "x", "NaN", "{}", "[[1,2],[3]]", "9" * 50, "infinity", '"a"']


def _settled(expression: str, chance: random.Random) -> None:
    """It is refused, or each of its functions gives an Event, a Rejection or None."""
    text = one(
        on=["insert", "update", "delete"],
        user_id="'u'",
        when=expression if chance.random() < 0.3 else None,
        properties={"x": expression, "y": {"value": expression, "type": "string", "max_length": 9}},
        timestamp=expression,
        id=[expression, "new.id"],
    )
    try:
        made = plan(text, relation(chance.choice("fd")))
    except MappingError as error:
        assert error.problems
        return
    for op in "cud":
        odd: dict[str, Text] = {chance.choice(list(ROW)): chance.choice(CELLS) for _ in range(chance.randint(0, 4))}
        found = made.by_op[op][0](change(made, op, odd, odd))
        assert found is None or isinstance(found, Event | Rejection)
        if isinstance(found, Event):
            assert isinstance(found.decoded()["properties"], dict)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**48))
def test_a_random_expression_gives_a_value_or_a_rejection(seed: int) -> None:
    chance = random.Random(seed)
    _settled(grown(chance, chance.randint(1, 5)), chance)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**48))
def test_a_spoiled_expression_is_refused_or_harmless(seed: int) -> None:
    chance = random.Random(seed)
    _settled(_spoiled(chance, grown(chance, chance.randint(0, 4))), chance)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60) | st.text(string.printable, max_size=60) | st.text("()[]{}'\"newold. +*,:=<>!0159aif\\#\n", max_size=60)
)
def test_random_text_is_refused_or_harmless(text: str) -> None:
    try:
        parse(text)
    except SyntaxProblem as problem:
        assert str(problem)
        return
    _settled(text, random.Random(0))


def test_what_python_cannot_hold_does_not_break_an_operator() -> None:
    for expression in (
        "new.amount + 1",
        "new.amount < 1",
        "-new.amount",
        "new.paid_at < committed_at",
        "round(new.ratio)",
        "min(new.day, date(0))",
    ):
        made = plan(one(properties={"x": expression}))
        special = {name: Special("infinity") for name in ("paid_at", "day")} | {"amount": "NaN", "ratio": "Infinity"}
        found = made.by_op["c"][0](change(made, new=dict(special)))
        assert isinstance(found, Rejection) and found.reason == "expression_error"
