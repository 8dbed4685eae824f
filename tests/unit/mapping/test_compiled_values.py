"""Values in events: the same JSON whichever way they are made, checked by the rules of their properties."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_tracker import envelope
from cdc_tracker.model import Event, Position, Text, canonical
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import (
    COLUMNS,
    OIDS,
    ROW,
    SPACE,
    TRANSACTION,
    D,
    event,
    one,
    outcome,
    prop,
    rejection,
    x_of,
)

make_id = envelope.id_maker(SPACE)


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
