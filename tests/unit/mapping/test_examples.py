"""`test-mappings`: examples run without a database."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_tracker.mapping import ExampleResult, run_examples
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import mappings, one
from tests.unit.mapping.test_files import DESIGN

HASH = "d648b243a3e817eaa3309e00e183483f2867baadf522099f0c2121770536b25a"  # SHA-256 of a@b.c
ROW = {
    "id": 7,
    "user_id": 3,
    "status": "paid",
    "amount": "9.50",
    "email": None,
    "paid_at": "2026-01-05T10:00:00+01:00",
    "items": [{"sku": "A", "qty": 2}],
}
MAPPED: dict[str, Any] = {
    "on": ["insert", "update", "delete"],
    "when": "op == 'delete' or new.status == 'paid' and old.status != 'paid'",
    "user_id": "coalesce(new.user_id, old.user_id)",
    "timestamp": "new.paid_at",
    "properties": {
        "order_id": "new.id",
        "revenue": {"value": "new.amount", "type": "number", "minimum": 0},
        "skus": "[i['sku'] for i in new.items]",
    },
}
EVENT = {"userId": "3", "timestamp": "2026-01-05T09:00:00Z", "properties": {"order_id": 7, "revenue": 9.5, "skus": ["A"]}}


def run(*examples: dict[str, Any], **more: Any) -> list[ExampleResult]:
    return run_examples(mappings(one(**{**MAPPED, **more}, examples=list(examples))), codec)


def differences(example: dict[str, Any], **more: Any) -> list[str]:
    (result,) = run(example, **more)
    assert result.passed is not bool(result.differences)
    return result.differences


def test_the_example_of_the_format_passes() -> None:
    example = f"""
    examples:
      - old: {{status: pending}}
        new: {{id: 7, user_id: 3, status: paid, amount: "9.50", email: " A@b.c ", paid_at: 2026-01-05 10:00:00, items: []}}
        event:
          event: Order Paid
          userId: "3"
          timestamp: "2026-01-05T10:00:00Z"
          properties: {{order_id: 7, revenue: 9.50, products: [], email_hash: {HASH}}}
"""
    (result,) = run_examples(mappings(DESIGN + example.lstrip("\n")), codec)
    assert result.differences == []


def test_an_update_whose_old_row_says_only_what_differs_passes() -> None:
    assert differences({"old": {"status": "new"}, "new": ROW, "event": EVENT}) == []
    assert differences({"old": {}, "new": ROW, "no_event": True}) == []


def test_the_operation_is_told_by_the_rows() -> None:
    (insert,) = run({"new": ROW, "event": {"context": {"source": {"op": "c"}}}})
    (delete,) = run(
        {"old": ROW, "event": {"context": {"source": {"op": "d"}}, "properties": {"order_id": None, "revenue": None, "skus": []}}}
    )
    (update,) = run({"new": ROW, "op": "update", "no_event": True})
    assert insert.passed and delete.passed and update.passed


def test_an_operation_that_the_mapping_is_not_for_makes_no_event() -> None:
    assert differences({"old": ROW, "no_event": True}, on="insert") == []
    assert differences({"old": ROW, "event": {}}, on="insert") == ["expected an event, got no event"]


def test_properties_are_compared_whole_and_the_rest_only_where_the_example_speaks() -> None:
    wrong = {
        "event": "Order Payed",
        "usrId": "3",
        "context": {"source": {"table": "order"}},
        "properties": {"order_id": "7", "revenue": 9.51, "skuss": ["A"]},
    }
    assert differences({"new": ROW, "event": wrong}) == [
        'event: expected "Order Payed", got "Order Paid"',
        "usrId: expected \"3\", but the event has none; did you mean 'userId'?",
        'context.source.table: expected "order", got "orders"',
        'properties.order_id: expected "7", got 7',
        "properties.revenue: expected 9.51, got 9.50",
        "properties.skuss: expected [\"A\"], got nothing; did you mean 'skus'?",
        'properties.skus: not expected, got ["A"]',
    ]


def test_true_is_not_one() -> None:
    assert differences({"new": ROW, "event": {"properties": {"x": 1}}}, properties={"x": "True"}) == [
        "properties.x: expected 1, got true"
    ]


def test_an_expected_rejection_is_compared_by_its_reason() -> None:
    bad = {**ROW, "amount": "-1"}
    assert differences({"new": bad, "rejected": "below_minimum"}) == []
    assert differences({"new": bad, "rejected": "too_long"}) == [
        "expected rejected: too_long, got rejected: below_minimum (properties.revenue: must be at least 0, but is number '-1')"
    ]
    assert differences({"new": ROW, "rejected": "too_long"})[0].startswith('expected rejected: too_long, got {"type":"track"')
    assert differences({"new": bad, "event": {}})[0].startswith("expected an event, got rejected: below_minimum")


def test_a_column_that_the_row_lacks_is_named_with_the_nearest() -> None:
    row = {("amuont" if name == "amount" else name): value for name, value in ROW.items()}
    assert differences({"new": row, "no_event": True}) == [
        "new has no column 'amount', which the mapping reads; did you mean 'amuont'?"
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"amount": "a lot"}, "new.amount is declared as a number, but 'a lot' is not one"),
        ({"paid_at": "soon"}, "new.paid_at is declared as a time, but 'soon' is not one; write it as 2026-01-31T12:00:00Z"),
    ],
)
def test_text_that_the_declared_type_cannot_be_is_told(row: dict[str, Any], told: str) -> None:
    assert differences({"new": {**ROW, **row}, "no_event": True}) == [told]


@pytest.mark.parametrize(
    ("value", "rules", "seen"),
    [
        (5, {}, 5),
        (True, {"type": "boolean"}, True),
        ("x", {}, "x"),
        ([1], {"type": "array"}, [1]),
        ({"a": 1}, {"type": "object"}, {"a": 1}),
        (None, {"type": "number"}, None),
        ("12", {"type": "integer"}, 12),
        ("12", {}, "12"),
        ("2026-01-05", {"type": "date"}, "2026-01-05"),
        ("2026-01-05 10:00:00.5+02", {"type": "timestamp"}, "2026-01-05T08:00:00.500000Z"),
    ],
)
def test_the_type_of_a_column_follows_the_value_and_what_is_declared_of_it(value: Any, rules: dict[str, Any], seen: Any) -> None:
    example = {"new": {"user_id": "u", "v": value}, "event": {"properties": {"x": seen}}}
    text = one(properties={"x": {"value": "new.v", **rules}}, examples=[example])
    (result,) = run_examples(mappings(text), codec)
    assert result.passed, result


def test_a_result_says_where_it_stands() -> None:
    (result,) = run({"new": ROW, "no_event": True, "description": "paid at once"})
    assert (result.where, result.mapping, result.index, result.description) == ("shop.yml:1", "Order Paid", 0, "paid at once")
    assert (result.expected, result.got[:8]) == ("no event", '{"type":')
    assert str(result).startswith("shop.yml:1: Order Paid, example 1: failed\n    expected no event, got {")
