"""`entered`: a value that a row has now and did not have before."""

from __future__ import annotations

import inspect

import pytest

from cdc_tracker.mapping import findings
from cdc_tracker.mapping.language.expressions import SyntaxProblem
from cdc_tracker.mapping.language.parsing import parse
from cdc_tracker.model import UNCHANGED, UNLOGGED, Text
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import catalogued, computed, mappings, one, outcome, plan, rejection, relation


def entered(arguments: str, new: dict[str, Text], old: dict[str, Text] | None) -> object:
    return computed(f"entered({arguments})", new, "c" if old is None else "u", old)


@pytest.mark.parametrize(
    ("arguments", "column", "new", "old", "expected"),
    [
        ("new.status, 'paid'", "status", "paid", "open", True),
        ("new.status, 'paid'", "status", "paid", None, True),
        ("new.status, 'paid'", "status", "paid", "paid", False),
        ("new.status, 'paid'", "status", "open", "paid", False),
        ("new.status, 'paid', 'sent'", "status", "sent", "open", True),
        ("new.status, 'paid', 'sent'", "status", "sent", "paid", False),
        ("new.status, None", "status", None, "paid", True),
        ("new.status, None", "status", None, None, False),
        ("new.status, None, ''", "status", "", None, False),
        ("new.gift, True", "gift", "t", "f", True),
        ("new.gift, True", "gift", "t", "t", False),
        ("new.qty, 3", "qty", "3", "2", True),
        ("new.amount, 9.5", "amount", "9.50", "9.5", False),
        ("new.amount, 9.5, 10", "amount", "10.00", "9", True),
        ("lower(trim(new.status)), 'paid'", "status", " PAID", "paid", False),
        ("lower(trim(new.status)), 'paid'", "status", " PAID", "open", True),
        ("new.items[0]['sku'], 'A'", "items", '[{"sku":"A"}]', "[]", True),
        ("new.status, lower('PAID')", "status", "paid", "open", True),
        ("new.status, new.email, new.status", "status", "paid", "open", True),
        ("new.qty > 2, True", "qty", "3", "2", True),
        ("new.qty > 2, True", "qty", "4", "3", False),
        ("length([t for t in new.tags if t != '']), 2", "tags", "{a,b}", "{a}", True),
    ],
)
def test_it_is_true_once_a_value_is_there_that_was_not(arguments: str, column: str, new: Text, old: Text, expected: bool) -> None:
    assert entered(arguments, {column: new}, {column: old}) is expected
    assert computed(f"not entered({arguments})", {column: new}, "u", {column: old}) is not expected
    assert computed(f"[entered({arguments}) for each in [1]]", {column: new}, "u", {column: old}) == [expected]


@pytest.mark.parametrize("op", ["c", "r"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("new.status, 'paid'", True),
        ("new.status, 'open'", False),
        ("nullif(new.status, 'paid'), None", True),
        ("new.qty, None", False),
    ],
)
def test_a_row_that_did_not_exist_has_had_no_value(op: str, arguments: str, expected: bool) -> None:
    text = one(on=["insert", "update"], id=["new.id"], backfill={}, when=f"entered({arguments})")
    assert (outcome(text, op) is not None) is expected


def test_nothing_enters_a_row_that_is_gone() -> None:
    assert computed("entered(new.status, 'paid')", None, "d") is False
    assert computed("entered(new.status, None)", None, "d") is False


def test_an_old_value_that_is_not_known_rejects_only_if_it_is_needed() -> None:
    text = one(on="update", when="entered(new.status, 'paid')")
    assert outcome(text, "u", {"status": "open"}, {"status": UNLOGGED}, "d") is None
    found = rejection(text, "u", {"status": "paid"}, {"status": UNLOGGED}, "d")
    assert (found.reason, found.field) == ("old_not_logged", "when") and "old.status" in found.detail
    found = rejection(text, "u", {"status": UNCHANGED}, {"status": "x"}, "d")
    assert (found.reason, found.field) == ("unchanged_toast", "when") and "new.status" in found.detail
    looped = one(on="update", when="any([entered(new.status, s) for s in ['paid']])")
    assert rejection(looped, "u", {"status": "paid"}, {"status": UNLOGGED}, "d").reason == "old_not_logged"


def test_it_counts_as_a_use_of_the_old_column() -> None:
    text = one(on="update", when="entered(lower(new.status), 'paid')")
    assert mappings(text).all[0].old_columns == ("status",)
    assert plan(text).old_columns == ("status",)
    tables = {"shop.orders": catalogued(relation("d"))}
    [problem] = [found for found in findings(mappings(text), tables, codec) if found.severity == "error"]
    assert "old.status is not logged" in problem.message


def test_a_column_and_constants_are_compared_as_text() -> None:
    source = inspect.getsource(plan(one(on="update", when="entered(new.qty, 1, 2)")).by_op["u"][0])
    assert "if not ((new[1] in new_qty_values) and (old[0] in old_qty_values))" in source.replace("not in", "in")


@pytest.mark.parametrize(
    ("expression", "message", "column"),
    [
        ("entered(new.status)", r"wrong number of arguments \(1\): entered\(new.x, value, …\)", 1),
        ("entered(old.status, 'paid')", "must name a column of new, and none of old", 9),
        ("entered(new.status != old.status, True)", "must name a column of new, and none of old", 9),
        ("entered(entered(new.status, 'a'), True)", "must name a column of new, and none of old", 9),
        ("entered('paid', new.status)", "must name a column of new, and none of old", 9),
        ("entered", r"is a function: entered\(new.x", 1),
    ],
)
def test_what_has_no_before_is_refused(expression: str, message: str, column: int) -> None:
    with pytest.raises(SyntaxProblem, match=message) as caught:
        parse(expression)
    assert caught.value.column == column


def test_a_loop_variable_may_have_the_name_of_a_function() -> None:
    assert computed("[entered for entered in new.tags]") == ["x", "y"]
    with pytest.raises(SyntaxProblem, match="'lower' is a loop variable here"):
        parse("[lower(lower) for lower in new.tags]")
