"""Compiled mappings: which changes become events, and what each event is made of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdc_tracker import envelope
from cdc_tracker.mapping import compile_plan
from cdc_tracker.model import Event, Position, Rejection, Text
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import (
    SPACE,
    TRANSACTION,
    change,
    event,
    mappings,
    one,
    outcome,
    plan,
    prop,
    rejection,
    relation,
)

make_id = envelope.id_maker(SPACE)


# The event as a whole


@pytest.mark.invariant(7)
def test_the_json_has_its_keys_in_the_documented_order_and_is_the_same_bytes_again() -> None:
    text = one(
        anonymous_id="new.email",
        timestamp="new.paid_at",
        properties={"b": "new.id", "a": {"value": "new.amount", "type": "number"}},
        context={"channel": {"const": "server"}, "ip": "new.status"},
    )
    made = plan(text)
    first, again = (made.by_op["c"][0](change(made)) for _ in range(2))
    assert isinstance(first, Event)
    assert first == again
    assert first.body.decode() == (
        '{"type":"track","event":"Order Paid","messageId":"'
        + first.message_id
        + '","userId":"3","anonymousId":" Ann@Example.com ",'
        '"properties":{"b":7,"a":9.50},"context":{"channel":"server","ip":"paid","source":{"db":"shopdb","schema":"shop","table":"orders",'
        '"op":"c","lsn":"16/B374D000","txId":42,"ts_ms":1767607200123},"library":{"name":"cdc-tracker"}},"timestamp":"2026-01-05T10:00:00Z"}'
    )
    assert (first.type, first.mapping, first.position) == ("track", "Order Paid", Position(TRANSACTION.commit_lsn, 5))
    assert first.committed_at == TRANSACTION.committed_at


@pytest.mark.parametrize("op", ["c", "u", "d", "r"])
def test_the_source_block_is_the_envelopes(op: str) -> None:
    made = plan(one(on=["insert", "update", "delete"], user_id="'u'", id="'fixed'", backfill={}))
    row = change(made, op)
    found = made.by_op[op][0](row)
    assert isinstance(found, Event)
    expected = envelope.source_block(envelope.source_prefix("shopdb", relation()), row)
    assert f'"source":{expected},"library":{envelope.LIBRARY}' in found.body.decode()


@pytest.mark.parametrize(
    ("type_", "more", "head"),
    [
        ("track", {}, {"type": "track", "event": "Order Paid", "userId": "3"}),
        ("page", {}, {"type": "page", "name": "Order Paid", "userId": "3"}),
        ("screen", {}, {"type": "screen", "name": "Order Paid", "userId": "3"}),
        (
            "identify",
            {"traits": {"email": "new.email"}},
            {"type": "identify", "userId": "3", "traits": {"email": " Ann@Example.com "}},
        ),
        (
            "group",
            {"group_id": "new.id", "traits": {"a": "1"}},
            {"type": "group", "userId": "3", "groupId": "7", "traits": {"a": 1}},
        ),
        ("alias", {"previous_id": "new.email"}, {"type": "alias", "userId": "3", "previousId": " Ann@Example.com "}),
    ],
)
def test_each_type_of_event_carries_what_the_segment_spec_says(type_: str, more: dict[str, Any], head: dict[str, Any]) -> None:
    found = event(one(type=type_, **more))
    for key in ("messageId", "context", "timestamp"):
        del found[key]
    assert found == head


def test_the_default_id_is_of_the_mapping_and_the_change() -> None:
    made = plan(one(key="paid {x}|é"))
    row = change(made, lsn=0x16_B374D010, index=3)
    found = made.by_op["c"][0](row)
    assert isinstance(found, Event)
    assert found.message_id == make_id(envelope.default_name("paid {x}|é", row))


@pytest.mark.parametrize(
    ("ids", "values"),
    [
        (["new.id"], "[7]"),
        (["new.id + 0"], "[7]"),
        (
            ["new.id", "new.status", "new.amount", "new.token", "None"],
            '[7,"paid",9.50,"6f9619ff-8b86-d011-b42d-00cf4fc964ff",null]',
        ),
        (
            ["new.id", "string(new.status)", "new.amount + 0.00", "string(new.token)"],
            '[7,"paid",9.50,"6f9619ff-8b86-d011-b42d-00cf4fc964ff"]',
        ),
        ("new.paid_at", '["2026-01-05T10:00:00Z"]'),
        ("timestamp(new.paid_at)", '["2026-01-05T10:00:00Z"]'),
        ("new.gift", "[true]"),
        ("string(new.id)", '["7"]'),
    ],
)
def test_a_declared_id_is_of_the_values_whichever_way_they_are_made(ids: object, values: str) -> None:
    assert event(one(id=ids))["messageId"] == make_id(envelope.declared_name("Order Paid", values))


def test_a_declared_id_is_the_same_on_insert_update_and_read() -> None:
    made = plan(one(on=["insert", "update"], id=["new.id"], backfill={}))
    assert set(made.by_op) == {"c", "u", "r"}
    found = {getattr(made.by_op[op][0](change(made, op)), "message_id", None) for op in "cur"}
    assert len(found) == 1 and None not in found


def test_an_id_of_nothing_but_nulls_is_rejected() -> None:
    assert rejection(one(id=["new.id", "new.status"]), new={"id": None, "status": None}).reason == "id_missing"
    assert isinstance(outcome(one(id=["new.id", "new.status"]), new={"id": None}), Event)
    assert rejection(one(id="old.id")).reason == "id_missing"


@pytest.mark.parametrize(
    ("expression", "row", "expected"),
    [
        ("new.user_id", {}, "3"),
        ("new.token", {}, "6f9619ff-8b86-d011-b42d-00cf4fc964ff"),
        ("new.email", {"email": 'q"uote'}, 'q"uote'),
        ("new.user_id + 1", {}, "4"),
        ("new.amount", {"amount": "12.00"}, "12"),
        ("new.items[0]['sku']", {}, "A"),
        ("lower(new.email)", {}, " ann@example.com "),
    ],
)
def test_identifiers_are_text(expression: str, row: dict[str, Text], expected: str) -> None:
    assert event(one(user_id=expression), new=row)["userId"] == expected


@pytest.mark.parametrize(
    ("expression", "row", "detail"),
    [
        ("new.amount", {"amount": "9.50"}, "userId must be text or a whole number, but is number"),
        ("new.amount", {"amount": "NaN"}, "userId must be text or a whole number, but is special"),
        ("new.items", {}, "userId must be text or a whole number, but is array"),
        ("get(new.items, 0)", {}, "userId must be text or a whole number, but is object"),
    ],
)
def test_an_identifier_that_cannot_be_one_is_rejected_without_its_value(
    expression: str, row: dict[str, Text], detail: str
) -> None:
    found = rejection(one(user_id=expression), new=row)
    assert (found.reason, found.field, found.detail) == ("expression_error", "userId", detail)


def test_an_event_about_nobody_is_rejected() -> None:
    both = one(anonymous_id="new.email")
    assert rejection(both, new={"user_id": None, "email": None}).reason == "identity_missing"
    assert rejection(both, new={"user_id": None, "email": ""}).reason == "identity_missing"
    assert "userId" not in event(both, new={"user_id": None})
    assert "anonymousId" not in event(both, new={"email": ""})
    assert rejection(one(), new={"user_id": None}).field == "userId"
    group = one(type="group", group_id="new.id", anonymous_id="new.email")
    assert rejection(group, new={"id": None}).field == "groupId"
    assert rejection(group, new={"user_id": None, "email": None}).reason == "identity_missing"
    alias = one(type="alias", previous_id="new.email")
    assert rejection(alias, new={"email": None}).field == "previousId"
    assert rejection(alias, new={"user_id": None}).field == "userId"


def test_identity_from_a_row_that_is_not_there_is_rejected() -> None:
    assert rejection(one(user_id="old.user_id")).reason == "identity_missing"


# when, and operations


@pytest.mark.parametrize("op", ["c", "u"])
def test_when_decides_before_anything_else(op: str) -> None:
    text = one(on=["insert", "update"], when="new.status == 'paid' and old.status != 'paid'", properties={"x": "1 / 0"})
    assert outcome(text, op, new={"status": "new"}, old={"status": "new"}) is None
    assert rejection(text, op, old={"status": "new"}).field == "properties.x"


def test_when_that_fails_is_a_rejection() -> None:
    found = rejection(one(when="lower(new.id) == 'x'"))
    assert (found.reason, found.field, found.detail) == ("expression_error", "when", "lower() takes text, not integer")


def test_on_insert_old_is_none_and_on_delete_new_is() -> None:
    text = one(user_id="'u'", on=["insert", "update", "delete"], properties={"op": "op", "new": "new.id", "old": "old.id"})
    assert event(text, "c")["properties"] == {"op": "insert", "new": 7, "old": None}
    assert event(text, "u", old={"id": "6"})["properties"] == {"op": "update", "new": 7, "old": 6}
    assert event(text, "d", old={"id": "6"})["properties"] == {"op": "delete", "new": None, "old": 6}


def test_a_plan_has_functions_for_the_declared_operations_only() -> None:
    assert set(plan(one(on="delete", user_id="old.id")).by_op) == {"d"}
    assert set(plan(one(on=["insert", "insert"])).by_op) == {"c"}


def test_only_mappings_of_the_destination_are_in_its_plan() -> None:
    text = json.dumps(
        {
            "version": 1,
            "events": [
                {"name": "A Made", "table": "shop.orders", "user_id": "new.id", "destinations": ["lake"]},
                {"name": "B Made", "table": "shop.orders", "user_id": "new.user_id"},
            ],
        }
    )
    assert len(plan(text).by_op["c"]) == 2
    assert plan(text, destination="sea").new_columns == ("user_id",)
    assert plan(text, destination="lake").new_columns == ("id", "user_id")
    other = compile_plan(mappings(one(destinations=["lake"])), relation(), codec, space=SPACE, database="d", destination="sea")
    assert other is None


def test_wanted_columns_are_those_used_in_the_order_of_the_table() -> None:
    made = plan(one(on="update", when="old.status != new.status", properties={"a": "new.qty", "b": "old.amount", "c": "new.id"}))
    assert made.new_columns == ("id", "user_id", "status", "qty")
    assert made.old_columns == ("status", "amount")


# What cannot work is known before a row is seen


def test_an_unknown_column_is_told_with_the_nearest_and_every_matching_change_is_rejected() -> None:
    text = one(
        when="new.status == 'paid'",
        properties={"a": "new.amuont", "b": "new.qty", "c": {"value": "new.status", "type": "number"}},
    )
    made = plan(text)
    assert [(problem.key, problem.message) for problem in made.problems] == [
        ("events[0].properties.a", "column 1: shop.orders has no column 'amuont'; did you mean 'amount'?"),
        ("events[0].properties.c", "is declared as number, but 'new.status' is string"),
    ]
    assert made.new_columns == ("user_id", "status", "qty", "amuont")  # a row that has it is of another shape of the table
    found = made.by_op["c"][0](change(made))
    assert isinstance(found, Rejection)
    assert (found.reason, found.field) == ("column_missing", "properties.a")
    assert made.by_op["c"][0](change(made, new={"status": "new"})) is None


def test_an_unknown_column_in_when_rejects_every_change() -> None:
    made = plan(one(when="new.sttus == 'paid'"))
    found = made.by_op["c"][0](change(made, new={"status": "x"}))
    assert isinstance(found, Rejection) and (found.reason, found.field) == ("column_missing", "when")


@pytest.mark.parametrize(
    ("expression", "declared"),
    [
        ("new.status", "number"),
        ("new.qty", "string"),
        ("new.gift", "integer"),
        ("new.ratio", "integer"),
        ("new.paid_at", "string"),
        ("new.status", "timestamp"),
        ("new.day", "timestamp"),
        ("new.tags", "object"),
        ("lower(new.status)", "number"),
        ("new.qty > 1", "integer"),
        ("new.qty + 1", "string"),
        ("[1]", "object"),
        ("{}", "array"),
        ("f'{new.id}'", "integer"),
        ("'a' if new.gift else 'b'", "boolean"),
    ],
)
def test_a_type_that_can_never_be_right_is_known_at_compile_time(expression: str, declared: str) -> None:
    text = prop(expression, type=declared)
    assert len(plan(text).problems) == 1
    found = rejection(text)
    assert (found.reason, found.field) == ("type_mismatch", "properties.x")


def test_two_mappings_of_a_table_do_not_disturb_each_other() -> None:
    text = json.dumps(
        {
            "version": 1,
            "events": [
                {"name": "A Made", "table": "shop.orders", "user_id": "new.nope"},
                {"name": "B Made", "table": "shop.orders", "user_id": "new.id", "when": "new.gift"},
            ],
        }
    )
    made = plan(text)
    first, second = (function(change(made)) for function in made.by_op["c"])
    assert isinstance(first, Rejection) and isinstance(second, Event)
