"""`let`: parts of an event's expressions by name, computed once, and only if something in the row needs them."""

from __future__ import annotations

import inspect
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_tracker.errors import MappingError
from cdc_tracker.mapping import findings, load_texts, run_examples
from cdc_tracker.mapping.language import operators
from cdc_tracker.model import UNLOGGED, Event, Rejection, Text
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import ROW, catalogued, change, event, mappings, one, outcome, plan, problems, rejection, relation
from tests.unit.mapping.test_escape import CELLS, grown


def file(let: dict[str, Any], **more: Any) -> str:
    return one(**{"on": ["insert", "update", "delete"], "user_id": "'u'", "let": let, **more})


def test_every_expression_of_the_event_may_use_the_names() -> None:
    text = one(
        let={"total": "new.qty * new.amount", "mail": "lower(trim(new.email))", "who": "new.user_id", "at": "new.paid_at"},
        when="total > 10",
        user_id="who",
        anonymous_id="mail",
        timestamp="at",
        id=["who", "total"],
        properties={"total": {"value": "total", "type": "number", "minimum": 1}, "o": {"properties": {"inner": "[mail, total]"}}},
        context={"at": {"value": "at", "type": "timestamp"}},
    )
    same = one(
        when="new.qty * new.amount > 10",
        anonymous_id="lower(trim(new.email))",
        timestamp="new.paid_at",
        id=["new.user_id", "new.qty * new.amount"],
        properties={
            "total": "new.qty * new.amount",
            "o": {"properties": {"inner": "[lower(trim(new.email)), new.qty * new.amount]"}},
        },
        context={"at": "new.paid_at"},
    )
    made, plainly = outcome(text), outcome(same)
    assert isinstance(made, Event) and isinstance(plainly, Event)
    assert made.body == plainly.body
    assert made.decoded()["properties"]["o"] == {"inner": ["ann@example.com", 19]}
    assert outcome(text, new={"qty": "1"}) is None


def test_a_later_name_may_use_an_earlier_one() -> None:
    text = file({"net": "new.amount / 2", "gross": "net * 1.2", "label": "f'{gross} ({net})'"}, properties={"x": "label"})
    assert event(text)["properties"]["x"] == "5.700 (4.75)"


def test_a_value_is_computed_once_however_often_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    multiply = operators.multiply

    def counted(a: Any, b: Any) -> Any:
        calls.append((a, b))
        return multiply(a, b)

    monkeypatch.setattr(operators, "multiply", counted)
    text = file(
        {"total": "new.qty * new.amount", "twice": "total + total"},
        when="total > 1 and twice > 1 and total > 2",
        properties={"a": "total", "b": "[total for i in [1, 2, 3] if total == twice / 2]", "c": "{'t': twice}"},
    )
    made = plan(text)
    for _ in range(2):
        calls.clear()
        found = made.by_op["c"][0](change(made))
        assert isinstance(found, Event) and found.decoded()["properties"]["b"] == [19, 19, 19]
        assert len(calls) == 1


def test_a_column_is_loaded_once_for_all_that_needs_it() -> None:
    let = {"head": "new.items[0]", "count": "length(new.items)"}
    text = file(let, properties={"a": "head", "b": "count", "c": "new.items[1]"})
    source = inspect.getsource(plan(text).by_op["c"][0])
    assert source.count("load_json") == source.count("loaded_new_items if loaded_new_items is not UNSET else") == 3
    assert event(text)["properties"]["b"] == 2


def test_what_nobody_reads_in_the_row_does_not_matter() -> None:
    let = {"share": "new.qty / 0", "before": "old.status"}
    guarded = file(let, properties={"x": "share if new.gift else None"})
    assert event(guarded, new={"gift": "f"})["properties"]["x"] is None
    assert rejection(guarded).reason == "expression_error"
    looped = file(let, properties={"x": "[share for i in new.items if i['qty'] > 100]"})
    assert event(looped)["properties"]["x"] == []
    either = file(let, when="new.gift or before == 'x'")
    assert isinstance(outcome(either, "u", {"gift": "t"}, {"status": UNLOGGED}, "d"), Event)
    assert isinstance(outcome(file(let), "u", None, {"status": UNLOGGED}, "d"), Event)
    costly = {"pairs": "[i for i in split(new.email, 'a') for j in split(new.email, 'a')]"}
    assert isinstance(outcome(file(costly), new={"email": "a" * 2000}), Event)


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("when", {"when": "share > 1"}),
        ("userId", {"user_id": "share"}),
        ("id", {"id": ["share"]}),
        ("timestamp", {"timestamp": "share_at"}),
        ("properties.x", {"properties": {"x": "share"}}),
        ("properties.o.x", {"properties": {"o": {"properties": {"x": "[share]"}}}}),
        ("context.x", {"context": {"x": "[share for i in [1]]"}}),
    ],
)
def test_a_value_that_fails_rejects_with_the_field_that_uses_it(field: str, more: dict[str, Any]) -> None:
    found = rejection(file({"share": "new.qty / 0", "share_at": "timestamp(share)"}, **more))
    assert (found.reason, found.field, found.detail) == ("expression_error", field, "division by zero")


def test_a_value_that_failed_fails_again_for_the_next_field() -> None:
    text = file({"mail": "lower(old.email)"}, properties={"x": "coalesce(new.status, mail)", "y": "mail"})
    found = rejection(text, "u", None, {"email": UNLOGGED}, "d")
    assert (found.reason, found.field) == ("old_not_logged", "properties.x")


def test_the_budget_is_charged_once() -> None:
    letters = {"email": "," * 450}
    words = "[j for i in split(new.email, ',') for j in split(new.email, ',')]"
    twice = file({"words": words}, properties={"a": "length(words)", "b": "length(words)"})
    assert event(twice, new=letters)["properties"] == {"a": 203_401, "b": 203_401}
    looped = file({"words": words}, properties={"a": "[words for i in [1, 2]]"})
    assert "1,000,000 steps" in rejection(looped, new=letters).detail


def test_a_chain_of_doublings_is_short_code_and_stopped_by_the_budget() -> None:
    let = {"v0": "new.email + new.status"} | {f"v{n}": f"v{n - 1} + v{n - 1}" for n in range(1, 18)}
    source = inspect.getsource(plan(file(let, properties={"x": "v17"})).by_op["c"][0])
    assert len(source) < 6_000
    assert rejection(file(let, properties={"x": "v17"})).reason == "expression_error"


def test_a_name_for_a_column_is_the_column() -> None:
    text = one(
        let={"state": "new.status", "who": "new.user_id"}, when="state == 'paid'", user_id="who", properties={"s": "state"}
    )
    direct = one(let={}, when="new.status == 'paid'", properties={"s": "new.status"})
    made, plainly = (inspect.getsource(plan(each).by_op["c"][0]) for each in (text, direct))
    assert made == plainly
    quoted = file({"odd": 'new["Odd \\"name\\""]', "before": "old.status"}, properties={"x": "odd", "y": "[before for i in [1]]"})
    assert event(quoted, "u", None, {"status": "open"})["properties"] == {"x": "odd", "y": ["open"]}


def test_entered_reads_a_name_of_the_row_before() -> None:
    let = {"state": "lower(new.status)", "word": "f'{state}!'", "alias": "new.qty"}
    text = one(
        let=let, on=["insert", "update"], when="entered(word, 'paid!') or entered(alias, 9)", properties={"x": "[word, state]"}
    )
    assert mappings(text).all[0].old_columns == ("status", "qty")

    def found(new: dict[str, Text], old: dict[str, Text]) -> bool:
        return isinstance(outcome(text, "u", new, old), Event)

    assert found({"status": "PAID"}, {"status": "open"})
    assert not found({"status": "PAID"}, {"status": "paid"})
    assert not found({"status": "open"}, {"status": "paid"})
    assert found({"qty": "9"}, {"qty": "8"})
    assert not found({"qty": "9", "status": "x"}, {"qty": "9"})
    assert isinstance(outcome(text), Event)
    assert event(text, "u", {"status": "PAID"}, {"status": "open"})["properties"]["x"] == ["paid!", "paid"]
    assert "none of old" in problems(one(let={"was": "old.status"}, when="entered(was, 'paid')"))[0]
    assert "none of old" in problems(one(let={"was": "old.status", "then": "[was]"}, when="entered(then, 'paid')"))[0]


def test_kinds_are_those_of_the_value() -> None:
    assert (
        rejection(file({"n": "length(new.email)"}, properties={"x": {"value": "n", "type": "string"}})).reason == "type_mismatch"
    )
    assert event(file({"flag": "new.gift"}, when="flag and not (not flag)"))["event"] == "Order Paid"
    assert event(file({"was": "old.qty + 1"}, properties={"x": "was"}))["properties"]["x"] is None


def test_a_missing_column_is_found_and_the_condition_that_needs_it_never_hides_it() -> None:
    text = one(let={"state": "lower(new.sttus)", "open": "state == 'x'"}, when="open")
    found = plan(text).by_op["c"][0]
    refused = found(change(plan(text)))
    assert isinstance(refused, Rejection) and (refused.reason, refused.field) == ("column_missing", "let.state")
    tables = {"shop.orders": catalogued(relation())}
    [problem] = findings(mappings(text), tables, codec)
    assert problem.key == "events[0].let.state" and "did you mean 'status'" in problem.message


@pytest.mark.parametrize(
    ("let", "key", "message"),
    [
        ({"a": "a + 1"}, "a", "'a' is not known yet: a `let` can name those above it only"),
        ({"a": "b", "b": "a"}, "a", "'b' is not known yet"),
        ({"a": "1", "b": "[c for i in [a]]", "c": "b"}, "b", "'c' is not known yet"),
        ({"a": "totl", "total": "1"}, "a", "there is no name 'totl'; did you mean 'total'"),
        ({"new": "1"}, "new", "has a meaning of its own"),
        ({"old": "1"}, "old", "has a meaning of its own"),
        ({"op": "1"}, "op", "has a meaning of its own"),
        ({"round": "1"}, "round", "has a meaning of its own"),
        ({"null": "1"}, "null", "has a meaning of its own"),
        ({"True": "1"}, "True", "letters, digits and underscores"),
        ({"class": "1"}, "class", "letters, digits and underscores"),
        ({"_x": "1"}, "_x", "letters, digits and underscores"),
        ({"two words": "1"}, "two words", "letters, digits and underscores"),
        ({"ﬁx": "1"}, "ﬁx", "letters, digits and underscores"),
        ({"": "1"}, "", "letters, digits and underscores"),
        ({"a": "1", "b": "[a for a in new.tags]"}, "b", "'a' cannot be the name of a loop variable"),
        ({"a": ["x"]}, "a", "must be an expression"),
    ],
)
def test_a_circle_an_unknown_name_or_one_that_is_taken_is_found_at_load(let: dict[str, Any], key: str, message: str) -> None:
    found = problems(one(let=let))
    assert len(found) == 1 and found[0].startswith("shop.yml:1: events[0].let.") and f"let.{key}: " in found[0]
    assert message in found[0]


def test_a_default_of_the_file_knows_no_names_of_an_event() -> None:
    text = '{"version": 1, "defaults": {"user_id": "who"}, "events": [{"name": "A B", "table": "s.t", "let": {"who": "new.x"}}]}'
    assert "defaults.user_id: column 1: there is no name 'who'" in problems(text)[0]


def test_an_expression_is_nested_as_deep_as_all_that_it_names() -> None:
    let = {"v0": "-new.qty"} | {f"v{n}": f"-v{n - 1}" for n in range(1, 60)}
    found = problems(one(let=let))
    assert "let.v20: " in found[0] and "nested deeper than 40" in found[0]


def test_examples_know_the_type_of_a_named_column() -> None:
    text = """
version: 1
events:
  - name: Order Paid
    table: shop.orders
    let: {paid: new.paid_at, total: new.cents / 100}
    user_id: new.user_id
    timestamp: paid
    properties: {paid: {value: paid, type: timestamp}, total: total}
    examples:
      - new: {user_id: 1, paid_at: "2026-03-01 10:05:00+01", cents: 1990}
        event: {timestamp: "2026-03-01T09:05:00Z", properties: {paid: "2026-03-01T09:05:00Z", total: 19.9}}
"""
    [result] = run_examples(load_texts({"shop.yml": text}), codec)
    assert result.passed, str(result)


def _outcomes(text: str, chance: random.Random) -> list[tuple[object, ...]] | None:
    """What the mapping makes of a few changes, comparable; None if the text is no mapping, or too costly."""
    try:
        made = plan(text, relation(chance.choice("fd")))
    except MappingError:
        return None
    found: list[tuple[object, ...]] = []
    for op in "cud":
        odd: dict[str, Text] = {chance.choice(list(ROW)): chance.choice(CELLS) for _ in range(chance.randint(0, 4))}
        each = made.by_op[op][0](change(made, op, odd, odd | {"status": "open"}))
        if isinstance(each, Rejection) and "steps" in each.detail:
            return None
        found.append((each.body,) if isinstance(each, Event) else (each.reason, each.field, each.detail) if each else ())
    return found


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**48))
def test_a_name_is_the_same_as_its_expression(seed: int) -> None:
    expression = grown(random.Random(seed), 4)
    let = {"v": expression, "w": "[v, v]"}
    named = file(let, when="v or True", properties={"x": "v", "y": "w", "z": "[v for i in [1, 2]]"})
    x = f"({expression})"
    plain = file({}, when=f"{x} or True", properties={"x": x, "y": f"[{x}, {x}]", "z": f"[{x} for i in [1, 2]]"})
    ours, theirs = (_outcomes(text, random.Random(seed + 1)) for text in (named, plain))
    assert ours is None or theirs is None or ours == theirs


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**48))
def test_entered_is_the_comparison_of_both_rows(seed: int) -> None:
    now = grown(random.Random(seed), 3)
    before = re.sub(r"\bnew(?=[.\[])", "old", now)
    if now == before or "old" in now:
        return
    values = "'paid', None, 2, True"
    short = {"x": f"entered({now}, {values})", "y": "entered(v, 'paid', 7)"}
    long = {
        "x": f"(({now}) in [{values}]) and (({before}) not in [{values}])",
        "y": "(v in ['paid', 7]) and (b not in ['paid', 7])",
    }
    texts = [one(on="update", user_id="'u'", let={"v": now, "b": before}, properties=each) for each in (short, long)]
    results = []
    for text in texts:
        try:
            made = plan(text, relation("f"))
        except MappingError:
            return
        found = made.by_op["u"][0](change(made, "u", None, {"status": "open", "qty": "3", "gift": "f", "items": "[]"}))
        results.append(found.body if isinstance(found, Event) else (found.reason, found.field) if found else None)
    assert results[0] == results[1]
