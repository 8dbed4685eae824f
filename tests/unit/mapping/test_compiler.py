"""Events as the compiled functions make them, and what they reject."""

from __future__ import annotations

import json
import uuid
from typing import Any

import msgspec
import pytest

from cdc_tracker import envelope
from cdc_tracker.mapping import compile_plan
from cdc_tracker.model import UNCHANGED, UNLOGGED, Codec, Event, Position, Rejection, Text, canonical
from cdc_tracker.source.values import codec
from tests.unit.mapping.shop import (
    COLUMNS,
    OIDS,
    ROW,
    SPACE,
    TRANSACTION,
    D,
    change,
    event,
    mappings,
    one,
    outcome,
    plan,
    rejection,
    relation,
)

make_id = envelope.id_maker(SPACE)


def prop(value: object, **rules: object) -> str:
    """A mapping with one property x."""
    return one(user_id="'u'", on=["insert", "update", "delete"], properties={"x": {"value": value, **rules} if rules else value})


def x_of(text: str, new: dict[str, Text] | None = None, **more: Any) -> Any:
    return event(text, new=new, **more)["properties"]["x"]


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


# Values: the text's way and the value's way give the same JSON

SAMPLES: list[tuple[str, str]] = [
    ("id", "9223372036854775807"),
    ("qty", "-1"),
    ("status", 'a "quoted" \\ line\nü\u2028\x01'),
    ("amount", "0.00000001"),
    ("amount", "-0.5"),
    ("amount", "123456789012345678901234567890.1234567890"),
    ("amount", "NaN"),
    ("amount", "-Infinity"),
    ("ratio", "1e+20"),
    ("ratio", "-0"),
    ("ratio", "Infinity"),
    ("gift", "f"),
    ("paid_at", "2026-01-05 10:00:00.12+00"),
    ("paid_at", "infinity"),
    ("paid_at", "0044-03-15 12:00:00+00 BC"),
    ("paid_at", "10000-01-01 00:00:00+00"),
    ("local_at", "2026-01-05 10:00:00.000001"),
    ("day", "-infinity"),
    ("items", '{"b": [1, 2.50, null, true], "a": "ü"}'),
    ("tags", '{"a,b",NULL,"q\\"uote"}'),
    ("moments", "{infinity}"),
    ("raw", "\\x00ff"),
    ("token", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"),
]


@pytest.mark.parametrize(("column", "text"), SAMPLES)
@pytest.mark.parametrize("op", ["c", "u"])
def test_a_bare_column_gives_the_json_of_its_value(column: str, text: str, op: str) -> None:
    kind = codec(OIDS[COLUMNS[column]])
    for expression in (f"new.{column}", f"coalesce(new.{column}, None)"):
        found = outcome(prop(expression), op, new={column: text})
        assert isinstance(found, Event)
        value = str(kind.load(text)) if kind.kind == "uuid" else kind.load(text)
        assert f'"properties":{{"x":{canonical(value)}}}' in found.body.decode()


@pytest.mark.parametrize("column", sorted(COLUMNS.keys() - {'Odd "name"'}))
@pytest.mark.parametrize("op", ["c", "u"])
def test_null_in_an_optional_property_is_json_null(column: str, op: str) -> None:
    assert event(prop(f"new.{column}"), op, new={column: None})["properties"] == {"x": None}


@pytest.mark.parametrize("wrap", ["{}", "coalesce({}, None)"])
@pytest.mark.parametrize(
    ("column", "row", "rules", "reason", "value_type", "detail"),
    [
        ("amount", None, {"required": True}, "required_missing", "null", "is required, but is null"),
        ("amount", "-0.01", {"minimum": 0}, "below_minimum", "number", "must be at least 0, but is number"),
        ("amount", "9.99", {"minimum": 10}, "below_minimum", "number", "must be at least 10"),
        ("amount", "10.01", {"maximum": 10}, "above_maximum", "number", "must be at most 10"),
        ("amount", "NaN", {"type": "number"}, "type_mismatch", "special", "must be a number, but is special"),
        ("amount", "9.50", {"type": "integer"}, "type_mismatch", "number", "must be an integer, but is number"),
        ("ratio", "-0.1", {"minimum": 0}, "below_minimum", "number", "must be at least 0"),
        ("qty", "0", {"minimum": 1}, "below_minimum", "integer", "must be at least 1, but is integer"),
        ("qty", "11", {"maximum": 10}, "above_maximum", "integer", "must be at most 10"),
        ("qty", "3", {"enum": [1, 2]}, "not_in_enum", "integer", "must be one of those declared"),
        ("amount", "9.51", {"enum": [9.5]}, "not_in_enum", "number", "must be one of those declared"),
        (
            "status",
            "sent",
            {"enum": ["paid", None]},
            "not_in_enum",
            "string",
            "must be one of those declared, but is string 'sent'",
        ),
        ("status", "Paid", {"pattern": "^[a-z]+$"}, "pattern_mismatch", "string", "must match its pattern, but is string 'Paid'"),
        ("status", "ab", {"min_length": 3}, "too_short", "string", "must have a length of at least 3"),
        ("status", "abcd", {"max_length": 3}, "too_long", "string", "must have a length of at most 3"),
        ("tags", "{a}", {"min_length": 2}, "too_short", "array", "must have a length of at least 2"),
        ("paid_at", "infinity", {"type": "timestamp"}, "type_mismatch", "special", "must be a timestamp"),
        ("items", "{}", {"type": "array"}, "type_mismatch", "object", "must be an array, but is object {}"),
        ("items", "[1]", {"type": "object"}, "type_mismatch", "array", "must be an object"),
        ("items", "3", {"type": "string"}, "type_mismatch", "integer", "must be a string"),
        ("items", "true", {"type": "integer"}, "type_mismatch", "boolean", "must be an integer, but is boolean true"),
        ("items", "true", {"minimum": 0}, "type_mismatch", "boolean", "must be a number"),
        ("items", '"1"', {"type": "number"}, "type_mismatch", "string", "must be a number"),
    ],
)
def test_a_value_that_breaks_a_rule_is_rejected(
    wrap: str, column: str, row: Text, rules: dict[str, Any], reason: str, value_type: str, detail: str
) -> None:
    found = rejection(prop(wrap.format(f"new.{column}"), **rules), new={column: row})
    assert (found.reason, found.value_type, found.field) == (reason, value_type, "properties.x")
    assert found.detail.startswith(detail)
    assert (found.mapping, found.position, found.committed_at) == (
        "Order Paid",
        Position(TRANSACTION.commit_lsn, 5),
        TRANSACTION.committed_at,
    )
    assert found.event_id == make_id(f"Order Paid|{0x16_B374D000:X}|0")


@pytest.mark.parametrize("wrap", ["{}", "coalesce({}, None)"])
@pytest.mark.parametrize(
    ("column", "row", "rules", "value"),
    [
        ("amount", "0", {"type": "number", "minimum": 0, "required": True}, 0),
        ("amount", "10.00", {"minimum": 10, "maximum": 10}, D("10.00")),
        ("amount", "5.00", {"type": "integer"}, D("5.00")),
        ("amount", "9.50", {"enum": [9.5]}, D("9.50")),
        ("ratio", "0", {"minimum": 0, "type": "number"}, 0),
        ("qty", "2", {"type": "number", "enum": [1, 2]}, 2),
        ("gift", "t", {"type": "boolean", "enum": [True]}, True),
        ("status", "xpaidx", {"type": "string", "pattern": "paid", "min_length": 6, "max_length": 6}, "xpaidx"),
        ("status", None, {"type": "string", "pattern": "paid", "min_length": 6, "enum": ["a"]}, None),
        ("token", ROW["token"], {"type": "string", "max_length": 36}, ROW["token"]),
        ("paid_at", ROW["paid_at"], {"type": "timestamp", "required": True}, "2026-01-05T10:00:00Z"),
        ("local_at", ROW["local_at"], {"type": "timestamp"}, "2026-01-05T10:00:00.500000"),
        ("day", ROW["day"], {"type": "date"}, "2026-01-05"),
        ("tags", ROW["tags"], {"type": "array", "items": {"type": "string"}, "max_length": 2}, ["x", "y"]),
        ("raw", ROW["raw"], {"type": "string"}, "YWI="),
        ("items", '{"a": 1}', {"type": "object"}, {"a": 1}),
        ("items", "null", {"type": "object"}, None),
        ("items", "5", {"type": "any"}, 5),
    ],
)
def test_a_value_that_keeps_its_rules_goes_out_as_it_is(
    wrap: str, column: str, row: Text, rules: dict[str, Any], value: object
) -> None:
    assert x_of(prop(wrap.format(f"new.{column}"), **rules), {column: row}) == value


def test_a_fixed_value_needs_no_row() -> None:
    text = one(properties={"a": {"const": {"b": [1, None, "ü{x}"]}}, "c": {"const": None}})
    assert event(text)["properties"] == {"a": {"b": [1, None, "ü{x}"]}, "c": None}


def test_an_object_is_made_of_its_properties() -> None:
    nested = {
        "sum": {"value": "new.amount", "type": "number"},
        "who": {"properties": {"mail": "trim(new.email)", "fixed": {"const": 1}}},
    }
    assert x_of(one(properties={"x": {"type": "object", "properties": nested}})) == {
        "sum": D("9.50"),
        "who": {"mail": "Ann@Example.com", "fixed": 1},
    }
    nested["sum"] = {"value": "new.amount", "minimum": 10}
    assert rejection(one(properties={"x": {"properties": nested}})).field == "properties.x.sum"


ITEMS = {
    "value": "new.items",
    "type": "array",
    "items": {
        "type": "object",
        "required": True,
        "properties": {
            "sku": {"type": "string", "required": True, "pattern": "^[A-Z]$"},
            "qty": {"type": "number", "minimum": 1},
        },
    },
}


@pytest.mark.parametrize(
    ("items", "reason", "field"),
    [
        ('[{"sku": "A"}, {"sku": "b"}]', "pattern_mismatch", "properties.x[1].sku"),
        ('[{"qty": 1}]', "required_missing", "properties.x[0].sku"),
        ('[{"sku": "A", "qty": 0.5}]', "below_minimum", "properties.x[0].qty"),
        ('[{"sku": "A", "qty": "1"}]', "type_mismatch", "properties.x[0].qty"),
        ("[3]", "type_mismatch", "properties.x[0]"),
        ("[null]", "required_missing", "properties.x[0]"),
        ("{}", "type_mismatch", "properties.x"),
    ],
)
def test_elements_and_members_of_a_value_are_checked_where_they_stand(items: str, reason: str, field: str) -> None:
    found = rejection(one(properties={"x": ITEMS}), new={"items": items})
    assert (found.reason, found.field) == (reason, field)


def test_elements_that_pass_go_out_whole() -> None:
    assert x_of(one(properties={"x": ITEMS}), {"items": '[{"sku": "A", "qty": null, "more": 1}]'}) == [
        {"sku": "A", "qty": None, "more": 1}
    ]


@pytest.mark.parametrize(
    "text",
    [
        one(properties={"x": {"value": "new.status", "enum": ["a"], "pii": True}}),
        one(properties={"x": {"value": "upper(new.status)", "enum": ["a"], "pii": True}}),
        one(properties={"x": {"pii": True, "properties": {"y": {"value": "new.status", "enum": ["a"]}}}}),
        one(properties={"x": {"pii": True, "properties": {"y": {"value": "new.status", "pattern": "^a$"}}}}),
        one(properties={"x": {"pii": True, "value": "[new.status]", "items": {"enum": ["a"]}}}),
        one(properties={"x": {"pii": True, "value": "{'y': new.status}", "properties": {"y": {"max_length": 1}}}}),
        one(properties={"x": "int(new.status)"}),
        one(properties={"x": "timestamp(new.status)"}),
        one(properties={"x": "json(new.status)"}),
        one(when="new.status < 5"),
        one(user_id="[new.status]"),
    ],
)
def test_a_rejection_shows_no_private_value(text: str) -> None:
    found = rejection(text, new={"status": "s3cret"})
    assert "s3cret" not in str(found).lower()


def test_a_shown_value_is_cut() -> None:
    found = rejection(prop("new.status", enum=["a"]), new={"status": "x" * 500})
    assert len(found.detail) < 150
    assert len(rejection(prop("new.items", type="object"), new={"items": str(list(range(999)))}).detail) < 150


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
    assert made.new_columns == ("user_id", "status", "qty")
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


# Names and texts of the file never become code

NASTY = [
    "'",
    '"',
    "\\",
    "{",
    "}",
    "{m}",
    "{{",
    "%s",
    "\n",
    "\\N{DIGIT ONE}",
    "'''",
    '"""',
    "{c.new}",
    "\x00",
    "é\u2028",
    "#",
    "k1",
    "__import__('os')",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_no_text_of_a_file_becomes_code(nasty: str) -> None:
    text = one(
        name=f"A{nasty}",
        key=f"k{nasty}",
        properties={
            f"p{nasty}": {"const": nasty},
            f"q{nasty}": {"value": repr(nasty)},
            "r": {"value": "new.status", "enum": [nasty]},
        },
        context={f"c{nasty}": "new.id"},
        id=[repr(nasty)],
    )
    table = relation(columns={"id": "int8", "user_id": "int8", "status": "text"})
    made = compile_plan(mappings(text), table, codec, space=SPACE, database=f"d{nasty}", destination=None)
    assert made is not None and not made.problems
    found = made.by_op["c"][0](change(made, new={"status": nasty}))
    assert isinstance(found, Event)
    decoded = found.decoded()
    assert decoded["event"] == f"A{nasty}"
    assert found.mapping == f"k{nasty}"
    assert decoded["properties"] == {f"p{nasty}": nasty, f"q{nasty}": nasty, "r": nasty}
    assert decoded["context"][f"c{nasty}"] == 7
    assert decoded["context"]["source"]["db"] == f"d{nasty}"
    assert found.message_id == make_id(envelope.declared_name(f"k{nasty}", canonical([nasty])))


@pytest.mark.parametrize("nasty", ["'", '"', "\\", "{", "a b", "é", "class", "", "x;y", "__deleted"])
def test_a_column_may_have_any_name(nasty: str) -> None:
    table = relation(columns={"id": "int8", "user_id": "int8", nasty: "text"})
    made = plan(one(properties={"x": f"new[{nasty!r}]", "y": f"lower(new[{nasty!r}])"}, when=f"new[{nasty!r}] != 'b'"), table)
    found = made.by_op["c"][0](change(made, new={nasty: "A"}))
    assert isinstance(found, Event)
    assert found.decoded()["properties"] == {"x": "A", "y": "a"}


def test_a_value_used_several_times_is_made_once() -> None:
    calls: list[str] = []

    def counting(oid: int) -> Codec:
        kind = codec(oid)

        def load(text: str) -> Any:
            calls.append(text)
            return kind.load(text)

        return kind._replace(load=load) if kind.kind == "json" else kind

    text = one(properties={"a": "new.items[0]['sku']", "b": "new.items[1]['sku']", "c": "length(new.items)"})
    made = compile_plan(mappings(text), relation(), counting, space=SPACE, database="d", destination=None)
    assert made is not None
    assert isinstance(made.by_op["c"][0](change(made)), Event)
    assert len(calls) == 1


def test_text_that_no_server_prints_is_a_rejection_and_no_exception() -> None:
    for column in ("amount", "paid_at", "day", "items", "ratio", "qty"):
        for text in ("", "x", "{", "-"):
            for rules in ({}, {"minimum": 1}, {"type": "timestamp"}, {"enum": ["a"]}):
                made = outcome(prop(f"new.{column}", **rules), new={column: text})
                assert isinstance(made, Event | Rejection)


def test_events_are_valid_json_with_each_key_once() -> None:
    made = outcome(one(properties={name.replace('"', ""): f"new[{name!r}]" for name in COLUMNS}))
    assert isinstance(made, Event)
    pairs: list[list[str]] = []
    json.loads(made.body, object_pairs_hook=lambda found: pairs.append([key for key, _ in found]))
    assert all(len(keys) == len(set(keys)) for keys in pairs)
    assert msgspec.json.decode(made.body)
    assert uuid.UUID(made.message_id).version == 5
