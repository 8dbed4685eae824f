"""What a value cannot be, or a row does not carry: special numbers, times out of range, unlogged and unchanged cells."""

from __future__ import annotations

import pytest

from cdc_tracker.model import UNCHANGED, UNLOGGED, Text
from tests.unit.mapping.shop import (
    ROW,
    TRANSACTION,
    event,
    one,
    plan,
    prop,
    rejection,
    relation,
    x_of,
)

# Values that Python and JSON cannot hold


@pytest.mark.parametrize("wrap", ["{}", "coalesce({}, None)"])
@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("amount", "NaN"),
        ("ratio", "-Infinity"),
        ("paid_at", "infinity"),
        ("paid_at", "10000-01-01 00:00:00+00"),
        ("local_at", "0044-03-15 12:00:00 BC"),
        ("day", "-infinity"),
        ("day", "0044-03-15 BC"),
        ("day", "12026-01-05"),
    ],
)
def test_special_values_follow_their_policy(wrap: str, column: str, text: str) -> None:
    def mapped(policy: str, **rules: object) -> str:
        return one(special_values=policy, properties={"x": {"value": wrap.format(f"new.{column}"), **rules}})

    row: dict[str, Text] = {column: text}
    assert x_of(mapped("text"), row) == text
    assert x_of(mapped("null"), row) is None
    assert rejection(mapped("reject"), new=row).reason == "special_value"
    assert rejection(mapped("null", required=True), new=row).reason == "required_missing"
    for policy in ("text", "null", "reject"):
        assert x_of(mapped(policy)) not in (None, text)


def test_special_values_within_lists_follow_their_policy() -> None:
    row: dict[str, Text] = {"moments": '{infinity,"2026-01-05 10:00:00+00"}'}
    assert x_of(one(special_values="null", properties={"x": "new.moments"}), row) == [None, "2026-01-05T10:00:00Z"]
    assert rejection(one(special_values="reject", properties={"x": "new.moments"}), new=row).reason == "special_value"
    assert x_of(one(properties={"x": "new.moments"}), row)[0] == "infinity"


@pytest.mark.parametrize(
    ("expression", "row", "expected"),
    [
        ("new.paid_at", {}, "2026-01-05T10:00:00Z"),
        ("new.paid_at", {"paid_at": "2026-01-05 10:00:00.25+00"}, "2026-01-05T10:00:00.250000Z"),
        ("new.paid_at", {"paid_at": None}, TRANSACTION.timestamp),
        ("new.local_at", {}, "2026-01-05T10:00:00.500000Z"),
        ("new.day", {}, "2026-01-05T00:00:00Z"),
        ("new.status", {"status": "2026-01-05T10:00:00+02:00"}, "2026-01-05T08:00:00Z"),
        ("new.status", {"status": None}, TRANSACTION.timestamp),
        ("coalesce(new.paid_at, new.local_at)", {}, "2026-01-05T10:00:00Z"),
        ("old.paid_at", {}, TRANSACTION.timestamp),
        ("committed_at", {}, TRANSACTION.timestamp),
    ],
)
def test_the_time_of_an_event_is_utc_and_by_default_that_of_the_commit(
    expression: str, row: dict[str, Text], expected: str
) -> None:
    assert event(one(timestamp=expression), new=row)["timestamp"] == expected


@pytest.mark.parametrize("expression", ["new.paid_at", "coalesce(new.paid_at, None)"])
def test_a_time_that_is_none_follows_the_policy(expression: str) -> None:
    row: dict[str, Text] = {"paid_at": "infinity"}
    assert rejection(one(timestamp=expression), new=row).reason == "timestamp_invalid"
    assert rejection(one(timestamp=expression, special_values="reject"), new=row).reason == "special_value"
    assert event(one(timestamp=expression, special_values="null"), new=row)["timestamp"] == TRANSACTION.timestamp


def test_text_that_is_no_time_is_rejected() -> None:
    assert rejection(one(timestamp="new.status")).reason == "timestamp_invalid"


# Cells that the row does not carry


@pytest.mark.invariant(8)
@pytest.mark.parametrize(
    "text",
    [
        one(on="update", properties={"x": "new.status"}),
        one(on="update", properties={"x": {"value": "new.status", "required": True, "enum": ["a"]}}),
        one(on="update", properties={"x": "lower(new.status)"}),
        one(on="update", properties={"x": "[new.status for i in new.items]"}),
        one(on="update", properties={"x": "{'a': new.status, 'b': new.status}"}),
        one(on="update", when="new.status == 'paid'"),
        one(on="update", when="new.status in ('paid', 'sent')"),
        one(on="update", when="new.status is not None"),
        one(on="update", user_id="new.status"),
        one(on="update", id="new.status"),
        one(on="update", timestamp="new.status"),
    ],
)
def test_an_unchanged_toast_value_is_rejected_where_it_is_needed(text: str) -> None:
    found = rejection(text, "u", new={"status": UNCHANGED})
    assert found.reason == "unchanged_toast"
    assert "new.status" in found.detail


@pytest.mark.parametrize("column", ["items", "tags", "raw", "amount"])
def test_a_large_value_of_any_kind_may_be_unchanged(column: str) -> None:
    for expression in (f"new.{column}", f"string(new.{column})"):
        assert rejection(prop(expression), "u", new={column: UNCHANGED}).reason == "unchanged_toast"


def test_an_unchanged_value_that_is_not_needed_does_no_harm() -> None:
    text = one(on="update", properties={"x": "1 if new.id == 7 else new.status", "y": "new.id == 7 or new.status == 'a'"})
    assert event(text, "u", new={"status": UNCHANGED})["properties"] == {"x": 1, "y": True}


@pytest.mark.parametrize(
    "text",
    [
        one(on="update", when="old.status != 'paid'"),
        one(on="update", when="changed(old.qty, new.qty)"),
        one(on="update", when="old.qty > 1"),
        one(on="update", when="old.gift"),
        one(on="update", properties={"x": "old.paid_at"}),
        one(on="update", properties={"x": "old.status"}),
        one(on="update", user_id="old.user_id"),
        one(on="update", timestamp="old.paid_at"),
    ],
)
def test_an_old_value_that_was_not_logged_is_rejected_and_told_beforehand(text: str) -> None:
    unlogged: dict[str, Text] = {name: UNLOGGED for name in ROW if name != "id"}
    assert rejection(text, "u", old=unlogged, identity="d").reason == "old_not_logged"
    found = plan(text, relation("d")).problems
    assert len(found) == 1
    assert "is not logged: shop.orders has REPLICA IDENTITY DEFAULT" in found[0].message
    assert found[0].hint == "ALTER TABLE shop.orders REPLICA IDENTITY FULL;"
    assert plan(text, relation("f")).problems == ()


def test_the_key_is_logged_under_default_identity() -> None:
    assert plan(one(on="delete", user_id="old.id"), relation("d")).problems == ()
    assert plan(one(on="delete", user_id="old.id"), relation("n")).problems
    assert event(one(on="delete", user_id="old.id"), "d")["userId"] == "7"
