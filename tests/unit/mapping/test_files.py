"""Loading mapping files: every problem, with file, line, key and the nearest right name."""

from __future__ import annotations

import json
import random
import string
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_tracker.errors import MappingError
from cdc_tracker.mapping import Mappings, load, load_texts, texts
from cdc_tracker.mapping.language.parsing import parse
from tests.unit.mapping.shop import mappings, one, problems

DESIGN = """\
version: 1
defaults:
  context: {channel: {const: server}}
events:
  - name: Order Paid
    description: Money was received for an order.
    table: shop.orders
    on: [insert, update]
    when: new.status == 'paid' and old.status != 'paid'
    type: track
    user_id: new.user_id
    anonymous_id: new.email
    timestamp: new.paid_at
    id: [new.id]
    properties:
      order_id: new.id
      revenue: {value: new.amount, type: number, required: true, minimum: 0}
      products: "[{'sku': i['sku'], 'quantity': i['qty']} for i in new.items]"
      email_hash: sha256(lower(trim(new.email)))
    destinations: [mixpanel, warehouse]
    backfill: {where: "paid_at IS NOT NULL"}
"""


def test_a_mapping_exposes_what_the_other_parts_need() -> None:
    found = mappings(DESIGN)
    (mapping,) = found.all
    assert (mapping.key, mapping.name, mapping.table, mapping.type) == ("Order Paid", "Order Paid", "shop.orders", "track")
    assert mapping.description == "Money was received for an order."
    assert mapping.on == ("insert", "update")
    assert mapping.destinations == ("mixpanel", "warehouse")
    assert mapping.where == "shop.yml:5"
    assert mapping.new_columns == ("status", "paid_at", "user_id", "email", "id", "amount", "items")
    assert mapping.old_columns == ("status",)
    assert mapping.backfill is not None and mapping.backfill.where == "paid_at IS NOT NULL"
    assert found.tables() == ["shop.orders"]
    assert found.for_table("shop.orders") == [mapping]
    assert found.for_table("shop.users") == []
    assert found.warnings == ()


def test_folders_are_read_in_order_and_keys_are_unique_over_all_files(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(one(name="B Made"))
    (tmp_path / "a.yml").write_text(one(name="A Made"))
    (tmp_path / "notes.txt").write_text("no mapping")
    assert [mapping.key for mapping in load([tmp_path]).all] == ["A Made", "B Made"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.yml").write_text(one(name="A Made"))
    with pytest.raises(MappingError) as caught:
        load([tmp_path, other / "c.yml"])
    assert caught.value.problems[0].message == f"duplicate key, first defined at {tmp_path / 'a.yml'}:1"
    (other / "c.yml").write_text(one(name="A Made", key="A Made again"))
    assert len(load([tmp_path, other]).all) == 3


def test_every_problem_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("version: 1\nevents: 3\n")
    (tmp_path / "b.yml").write_text("version: 2\nevents: []\n")
    (tmp_path / "c.yml").write_text("a: [")
    with pytest.raises(MappingError) as caught:
        load([tmp_path, tmp_path / "none.yml"])
    assert [problem.where.removeprefix(f"{tmp_path}/") for problem in caught.value.problems] == [
        "a.yml:2",
        "b.yml:1",
        "c.yml:1",
        "none.yml",
    ]


def test_texts_that_were_read_before_load_as_their_files_do(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(one(name="B Made"))
    (tmp_path / "a.yml").write_text("\ufeff" + one(name="A Made"), encoding="utf-8")
    kept = texts([tmp_path])
    assert list(kept) == [str(tmp_path / "a.yml"), str(tmp_path / "b.yaml")]
    before = load([tmp_path])
    (tmp_path / "a.yml").unlink()
    assert [(each.key, each.where) for each in load_texts(kept).all] == [(each.key, each.where) for each in before.all]


def test_a_problem_in_a_text_is_told_by_its_file_s_name() -> None:
    given = {"one.yml": "version: 1\nevents: 3\n", "two.yml": "a: ["}
    with pytest.raises(MappingError) as caught:
        load_texts(given)
    assert [problem.where for problem in caught.value.problems] == ["one.yml:2", "two.yml:1"]


def test_texts_of_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_bytes(b"\xff")
    with pytest.raises(MappingError) as caught:
        texts([tmp_path, tmp_path / "none.yml"])
    assert [problem.where.removeprefix(f"{tmp_path}/") for problem in caught.value.problems] == ["a.yml:1", "none.yml"]


def test_an_empty_folder_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="contains no mapping file"):
        load([tmp_path])


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"table": "orders"}, "events[0].table: must include the schema, such as public.orders"),
        ({"usr_id": "new.a"}, "events[0].usr_id: is not a known key; did you mean 'user_id'?"),
        ({"on": ["insrt"]}, "events[0].on[0]: must be one of insert, update, delete, not 'insrt'; did you mean 'insert'?"),
        ({"on": "truncate"}, "events[0].on: must be one of insert, update, delete, not 'truncate'"),
        ({"type": "trak"}, "did you mean 'track'?"),
        (
            {"properties": {"a": {"value": "new.a", "minLength": 1}}},
            "properties.a.minLength: is not a known key; did you mean 'min_length'?",
        ),
        ({"properties": {"a": {"value": "new.a", "exclusiveMinimum": 1}}}, "is not a known key; did you mean 'minimum'?"),
        ({"properties": {"a": {"value": "new.a", "type": "int"}}}, "did you mean 'integer'?"),
        ({"properties": {"a": {"value": "new.a", "pattern": "("}}}, "properties.a.pattern: is not a valid regular expression"),
        ({"properties": {"a": {"value": "new.a", "enum": []}}}, "properties.a.enum: must list at least one value"),
        ({"properties": {"a": {"value": "new.a", "minimum": 3, "maximum": 2}}}, "has a minimum above its maximum"),
        ({"properties": {"a": {"value": "new.a", "min_length": 3, "max_length": 2}}}, "has a min_length above its max_length"),
        (
            {"properties": {"a": {"value": "new.a", "type": "string", "minimum": 3}}},
            "minimum is for number or integer, and the type is string",
        ),
        (
            {"properties": {"a": {"value": "new.a", "type": "number", "pattern": "x"}}},
            "pattern is for string, and the type is number",
        ),
        ({"properties": {"a": {"value": "new.a", "const": 1}}}, "has a fixed value (const), so value cannot be combined with it"),
        ({"properties": {"a": {"type": "string"}}}, "properties.a: has no value: declare `value`, `const`, or `properties`"),
        ({"properties": {"a": None}}, "properties.a: must be an expression"),
        ({"properties": {"a": []}}, "properties.a: must be an expression"),
        ({"properties": {"a": {"properties": {"b": {"type": "string"}}}}}, "properties.a.properties.b: has no value"),
        ({"properties": {"a": {"value": "new.a", "properties": {"b": "new.b"}}}}, "cannot have a value of its own"),
        (
            {"properties": {"a": {"value": "new.a", "items": {"properties": {"b": {"const": 1}}}}}},
            "cannot have a value of its own",
        ),
        (
            {"properties": {"a": {"properties": {"b": "new.b"}, "type": "array"}}},
            "properties is for object, and the type is array",
        ),
        ({"properties": {"a": "new.b +"}}, "events[0].properties.a: column 8: the expression is incomplete"),
        (
            {"properties": {"a": {"value": "lowr(new.b)"}}},
            "events[0].properties.a.value: column 1: there is no function 'lowr'; did you mean 'lower'?",
        ),
        ({"when": "nwe.id == 1"}, "events[0].when: column 1: there is no row 'nwe'; did you mean 'new'?"),
        ({"id": []}, "events[0].id: must contain at least 1"),
        ({"id": ["new.id", "oops"]}, "events[0].id[1]: column 1: there is no name 'oops'"),
        ({"user_id": None}, "a track event needs user_id or anonymous_id"),
        ({"user_id": None, "type": "page"}, "a page event needs user_id or anonymous_id"),
        ({"type": "group"}, "a group event needs group_id"),
        ({"type": "group", "group_id": "new.g", "user_id": None}, "a group event needs user_id or anonymous_id"),
        ({"type": "alias"}, "an alias event needs previous_id and user_id; previous_id is missing"),
        ({"type": "alias", "user_id": None, "anonymous_id": "new.a", "previous_id": "new.p"}, "user_id is missing"),
        ({"group_id": "new.g"}, "group_id: is for group events"),
        ({"previous_id": "new.g"}, "previous_id: is for alias events"),
        ({"type": "identify", "properties": {"a": "new.a"}}, "an event of type identify has traits, not properties"),
        ({"traits": {"a": "new.a"}}, "an event of type track has properties, not traits"),
        ({"backfill": {}}, "events[0].backfill: needs `id`"),
        ({"backfill": {"wher": "x"}, "id": "new.id"}, "did you mean 'where'?"),
        ({"context": {"source": {"const": 1}}}, "cannot contain source: cdc-tracker sets that"),
        ({"destinations": []}, "names no destination"),
        ({"special_values": "nul"}, "did you mean 'null'?"),
        ({"examples": [{"new": {"id": 1}}]}, "must have exactly one of event"),
        ({"examples": [{"no_event": True}]}, "needs a row"),
        ({"examples": [{"op": "delete", "new": {}, "no_event": True}]}, "a delete has old"),
        ({"name": ""}, "events[0].name: must have at least 1 characters"),
        ({"name": 5}, "events[0].name: must be text, not 5"),
    ],
)
def test_a_mistake_is_told_with_its_key_in_plain_words(event: dict[str, Any], told: str) -> None:
    found = problems(one(**event))
    assert len(found) == 1, found
    assert found[0].startswith("shop.yml:1: ")
    assert told in found[0]


def test_an_error_in_an_expression_names_the_line_of_its_key() -> None:
    text = DESIGN.replace("email_hash: sha256(", "email_hash: sha265(")
    assert problems(text) == [
        "shop.yml:19: events[0].properties.email_hash: column 1: there is no function 'sha265'; did you mean 'sha256'?\n"
        "    in: sha265(lower(trim(new.email)))"
    ]


def test_a_backfill_without_a_time_of_its_own_or_of_deletes_is_a_warning() -> None:
    timed = {"backfill": {}, "id": "new.id", "timestamp": "new.at"}
    assert mappings(one(**timed)).warnings == ()
    [untimed] = mappings(one(backfill={}, id="new.id")).warnings
    assert (untimed.key, untimed.severity) == ("events[0].backfill", "warning") and "no `timestamp`" in untimed.message
    [gone] = mappings(one(**timed, on="delete")).warnings
    assert "delete alone" in gone.message
    assert mappings(one(**timed, on=["insert", "delete"])).warnings == ()


def test_a_name_off_the_convention_is_a_warning() -> None:
    found = mappings(one(name="order_paid"))
    assert [(problem.key, problem.severity) for problem in found.warnings] == [("events[0].name", "warning")]
    assert mappings(one(name="user", type="identify")).warnings == ()


def test_defaults_hold_where_the_event_says_nothing() -> None:
    text = """
version: 1
defaults:
  on: update
  user_id: new.owner
  timestamp: new.at
  special_values: reject
  destinations: lake
  context: {a: {const: 1}, b: {const: 2}}
events:
  - {name: One Thing, table: a.b}
  - name: Two Things
    table: a.b
    on: delete
    user_id: old.x
    special_values: "null"
    destinations: [x]
    context: {b: {const: 3}, c: {const: 4}}
"""
    one_thing, two = mappings(text).all
    assert (one_thing.on, one_thing.special_values, one_thing.destinations) == (("update",), "reject", ("lake",))
    assert one_thing.new_columns == ("at", "owner")
    assert (two.on, two.special_values, two.destinations) == (("delete",), "null", ("x",))
    assert {member.name: member.rules.const for member in two.context} == {"a": 1, "b": 3, "c": 4}


def test_numbers_and_booleans_are_expressions_too() -> None:
    assert not problems(one(properties={"version": 2, "live": True, "rate": 0.5}))


def test_a_mapping_goes_to_its_destinations() -> None:
    named, every = mappings(one(destinations=["lake"])).all[0], mappings(one()).all[0]
    assert named.goes_to("lake") and not named.goes_to("sea") and named.goes_to(None)
    assert every.goes_to("sea")


# Mutations: whatever a file holds, loading gives mappings or problems.


def _mutated(text: str, seed: int) -> str:
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(text) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            text = text[:at] + text[at + chance.randint(1, 8) :]
        elif kind == 1:
            text = (
                text[:at]
                + chance.choice([*string.printable, ": ", "- ", "&a ", "*a", "<<: ", "!!map ", "{", "[", "null", "1.5"])
                + text[at:]
            )
        elif kind == 2:
            end = min(len(text), at + chance.randint(1, 60))
            text = text[:at] + text[at:end] * 2 + text[end:]
        else:
            lines = text.splitlines(keepends=True)
            chance.shuffle(lines)
            text = "".join(lines)
    return text


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_mutilated_file_gives_problems_and_never_a_traceback(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.getbasetemp() / "mutilated.yml"
    path.write_text(_mutated(DESIGN, seed), encoding="utf-8")
    try:
        assert isinstance(load([path]), Mappings)
    except MappingError as error:
        assert error.problems
        assert all(str(path) in problem.where for problem in error.problems)


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False).map(str)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_file_with_anything_in_any_place_gives_problems_and_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    document = yaml.safe_load(DESIGN.replace("on: [", '"on": ['))
    holder: Any = document
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(holder[key], dict | list) and holder[key] and data.draw(st.booleans()):
            holder = holder[key]
            continue
        holder[key] = data.draw(_ANYTHING)
        break
    path = tmp_path_factory.getbasetemp() / "anything.yml"
    path.write_text(json.dumps(deepcopy(document)))
    try:
        load([path])
    except MappingError as error:
        assert error.problems


def test_the_example_of_the_format_parses() -> None:
    assert parse("[{'sku': i['sku'], 'quantity': i['qty']} for i in new.items]").uses[0].name == "items"
