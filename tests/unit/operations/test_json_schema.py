"""The schema for editors: whatever loads is valid by it, and what is typically wrong is not."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from cdc_tracker.config import yaml_file
from cdc_tracker.config.config import Config
from cdc_tracker.destinations import registry
from cdc_tracker.mapping.schema.shape import EventShape, Example, FileShape, Property
from cdc_tracker.operations import json_schema
from cdc_tracker.tables import Table, TableColumn
from cdc_tracker.worker.assemble import load_config
from tests.unit.test_docs import NEEDED, ROOT, mapping_files

DOCUMENT = json_schema.document()
VALIDATOR = jsonschema.Draft7Validator(DOCUMENT)


def errors(text: str, validator: jsonschema.Draft7Validator = VALIDATOR) -> list[str]:
    value = yaml_file.parse(text, Path("file.yml")).value
    return [error.message for error in validator.iter_errors(value)]


def test_it_is_a_schema_and_the_text_is_the_same() -> None:
    jsonschema.Draft7Validator.check_schema(DOCUMENT)
    assert json.loads(json_schema.text()) == DOCUMENT


@pytest.mark.parametrize("path", sorted((ROOT / "mappings").iterdir()), ids=lambda path: path.name)
def test_the_demos_mappings_are_valid(path: Path) -> None:
    assert errors(path.read_text()) == []


@pytest.mark.parametrize(("name", "text"), mapping_files(), ids=[name for name, _ in mapping_files()])
def test_every_mapping_file_of_the_documentation_is_valid(name: str, text: str) -> None:
    assert errors(text) == []


EVENT = "version: 1\nevents:\n  - name: Order Paid\n    table: shop.orders\n    user_id: new.id\n"


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("    tabel: shop.orders\n", "'tabel' was unexpected"),
        ("    on: [insert, upsert]\n", "is not valid"),
        ("    on: []\n", "[] should be non-empty"),
        ("    type: tarck\n", "'tarck' is not one of"),
        ("    when: [a]\n", "is not valid"),
        ("    properties: [new.a]\n", "is not valid"),
        ("    properties: {a: null}\n", "is not valid"),
        ("    properties: {a: [new.a]}\n", "is not valid"),
        ("    properties: {a: {value: new.a, minimun: 0}}\n", "is not valid"),
        ("    properties: {a: {value: new.a, required: 'yes'}}\n", "is not valid"),
        ("    id: []\n", "is not valid"),
        ("    examples: [{new: {a: 1}, evnet: {}}]\n", "'evnet' was unexpected"),
        ("    backfill: true\n", "is not valid"),
        ("defaults: {user: new.id}\n", "'user' was unexpected"),
    ],
)
def test_what_is_typically_wrong_with_a_mapping_is_invalid(added: str, said: str) -> None:
    assert errors(EVENT) == []
    found = errors(EVENT + added)
    assert any(said in each for each in found), found
    with pytest.raises(ValidationError):
        FileShape.model_validate(yaml_file.parse(EVENT + added, Path("file.yml")).value)


@pytest.mark.parametrize("text", ["", "[]", "version: 1", "version: 2\nevents: []", "version: 1\nevents: {}"])
def test_what_is_no_file_of_ours_is_invalid(text: str) -> None:
    assert errors(text) != []


# Whatever loads. Most values are right, each alone; what does not load as a whole says nothing.

WRONG = st.sampled_from([None, [], {}, True, 3, "", [None], {"a": 1}])
EXPRESSIONS = st.sampled_from(["new.a", "2", "'x'", 3, True, Decimal("2.50")])
TEXTS = st.sampled_from(["", "a", "Order Paid"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 300) | st.decimals(-9, 9, places=2) | TEXTS
ROWS = st.dictionaries(st.sampled_from(["id", "a b"]), SCALARS | st.lists(SCALARS, max_size=2), max_size=2)
RULES = st.deferred(lambda: objects(Property, ("value",)) | objects(Property, ("const",)) | EXPRESSIONS)
MEMBERS = st.dictionaries(st.sampled_from(["a", "b c"]), RULES, max_size=2)
OPERATIONS = st.sampled_from(["insert", "update", "delete"])
ALLOWED: dict[tuple[type[BaseModel], str], st.SearchStrategy[Any]] = {
    (EventShape, "name"): st.sampled_from(["Order Paid", "x" * 200, {"value": "'a' if new.b else 'c'"}]),
    (EventShape, "key"): st.none() | st.just("a"),
    (EventShape, "table"): st.sampled_from(["shop.orders", '"a.b".c', 'a."b"', "a.b.c"]),
    (EventShape, "on"): OPERATIONS | st.lists(OPERATIONS, min_size=1, max_size=3),
    (EventShape, "let"): st.dictionaries(TEXTS, EXPRESSIONS, max_size=2),
    (EventShape, "type"): st.sampled_from(["track", "identify", "group", "alias", "page", "screen"]),
    (EventShape, "id"): EXPRESSIONS | st.lists(EXPRESSIONS, min_size=1, max_size=16),
    (EventShape, "destinations"): TEXTS | st.lists(TEXTS, max_size=2),
    (EventShape, "backfill"): st.sampled_from([{}, {"where": "true"}, None]),
    (EventShape, "special_values"): st.sampled_from(["text", "null", "reject"]),
    (EventShape, "timezone"): st.sampled_from(["Europe/Berlin", "UTC", None]),
    (EventShape, "examples"): st.lists(
        st.deferred(lambda: objects(Example, ("new", "event")) | objects(Example, ("old", "rejected"))), max_size=2
    ),
    (Property, "type"): st.sampled_from(["string", "number", "integer", "boolean", "any", None]),
    (Property, "const"): ROWS | SCALARS,
    (Property, "required"): st.booleans(),
    (Property, "pii"): st.booleans(),
    (Property, "enum"): st.lists(SCALARS, min_size=1, max_size=3) | st.none(),
    (Property, "pattern"): st.sampled_from(["^a$", "", None]),
    (Property, "items"): st.deferred(lambda: objects(Property)),
    (Example, "op"): OPERATIONS | st.none(),
    (Example, "new"): ROWS,
    (Example, "old"): ROWS,
    (Example, "event"): ROWS,
    (Example, "no_event"): st.sampled_from([True, None]),
    (Example, "rejected"): TEXTS,
}
ALLOWED |= {(EventShape, name): MEMBERS for name in ("properties", "traits", "context")} | {(Property, "properties"): MEMBERS}
ALLOWED |= {(Property, name): st.integers(-5, 5) | st.decimals(-5, 5, places=1) | st.none() for name in ("minimum", "maximum")}
ALLOWED |= {(Property, name): st.integers(0, 5) | st.none() for name in ("min_length", "max_length")}
ALLOWED |= {(model, "description"): TEXTS for model in (EventShape, Property, Example)}


def objects(model: type[BaseModel], always: tuple[str, ...] = ()) -> st.SearchStrategy[dict[str, Any]]:
    """With the keys that there must be, and up to two others."""
    others = [name for name in model.model_fields if name not in always]

    def values(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        known = {name: ALLOWED.get((model, name), EXPRESSIONS) for name in (*always, *names)}
        right = st.fixed_dictionaries(known)
        wrong = st.fixed_dictionaries({name: each | WRONG for name, each in known.items()})
        return st.one_of(right, right, right, wrong)

    return st.lists(st.sampled_from(others), max_size=2, unique=True).flatmap(values)


PROPERTIES = objects(Property, ("value",)) | objects(Property)
EVENTS = objects(EventShape, ("name", "table"))


def valid_if_it_loads(file: dict[str, Any]) -> bool:
    """Whether it loads."""
    try:
        FileShape.model_validate(file)
    except ValidationError:
        return False
    assert [error.message for error in VALIDATOR.iter_errors(file)] == []
    return True


def test_whatever_event_loads_is_valid() -> None:
    loaded = []

    @given(EVENTS)
    @settings(max_examples=400, deadline=None)
    def each(event: dict[str, Any]) -> None:
        loaded.append(valid_if_it_loads({"version": 1, "events": [event]}))

    each()
    assert sum(loaded) > 100


def test_whatever_property_loads_is_valid() -> None:
    loaded = []

    @given(PROPERTIES)
    @settings(max_examples=400, deadline=None)
    def each(rules: dict[str, Any]) -> None:
        loaded.append(valid_if_it_loads({"version": 1, "events": [{"name": "A", "table": "a.b", "properties": {"a": rules}}]}))

    each()
    assert sum(loaded) > 100


# The configuration

CONFIG = """\
version: 1
source:
  {url: "${DATABASE_URL:-postgresql://a@b/c}", max_wal: 20GB, heartbeat: 30, failover: "${FAILOVER:-false}", plugin: pgoutput}
data_dir: ./data
journal: {retention: {age: 7d, size: "${SIZE:-10GB}"}}
mappings: [mappings/]
destinations:
  events: {type: jsonl, path: out, start: 2026-01-31}
  shop: {type: segment, write_key: "${KEY:-k}", in_flight: 4, events: {except: ["type:identify"]}, dry_run: "yes"}
http: {port: null}
drain_timeout: 30s
log: {level: debug}
"""


def test_a_configuration_that_loads_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors(CONFIG) == []
    (tmp_path / "cdc-tracker.yml").write_text(CONFIG)
    for name in ("DATABASE_URL", "SIZE", "KEY", "FAILOVER"):
        monkeypatch.delenv(name, raising=False)
    assert load_config(tmp_path / "cdc-tracker.yml").destinations["shop"].dry_run


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1", "version: 2"),
        ("plugin: pgoutput", "plugin: pgoutptu"),
        ("max_wal: 20GB", "max_wal: much"),
        ("heartbeat: 30", "hartbeat: 30"),
        ("path: out", "pth: out"),
        ("type: jsonl", "type: json"),
        ("in_flight: 4", "in_flight: 400"),
        ("except:", "exept:"),
        ("port: null", "port: 70000"),
        ("level: debug", "level: loud"),
        ("  shop:", "  The Shop:"),
        ("log:", "logs:"),
    ],
)
def test_what_is_typically_wrong_with_a_configuration_is_invalid(old: str, new: str) -> None:
    assert old in CONFIG
    assert errors(CONFIG.replace(old, new)) != []


@pytest.mark.parametrize("kind", registry.names())
def test_the_settings_that_every_destination_needs_are_valid(kind: str) -> None:
    file = {"version": 1, "source": {"url": "x"}, "destinations": {"one": {"type": kind, **NEEDED[kind]}}}
    assert [error.message for error in VALIDATOR.iter_errors(file)] == []
    file["destinations"]["one"]["no_such_setting"] = 1  # type: ignore[index]
    assert [error.message for error in VALIDATOR.iter_errors(file)] != []


# What an editor shows


def test_every_key_of_a_mapping_file_has_a_text_for_editors() -> None:
    for name in ("EventShape", "Property", "Example"):
        keys = DOCUMENT["definitions"][name]["properties"]
        assert [key for key, rules in keys.items() if not rules.get("description")] == []
    assert "default" not in DOCUMENT["definitions"]["EventShape"]["properties"]["when"]
    assert Config.model_fields.keys() == DOCUMENT["definitions"]["Config"]["properties"].keys()


def table(name: str, *columns: str) -> Table:
    made = tuple(TableColumn(each, 20, "bigint", True, False, False, 20, "bigint") for each in columns)
    return Table(0, "shop", name, "r", "p", True, "d", True, True, False, -1, True, True, ("shop", name), made)


def test_tables_and_columns_are_offered_and_other_tables_are_invalid() -> None:
    document = json_schema.document([table("orders", "id", "user id"), table("users", "id")])
    validator = jsonschema.Draft7Validator(document)
    assert errors(EVENT, validator) == []
    assert errors(EVENT.replace("shop.orders", "shop.ordres"), validator) != []
    assert errors(EVENT.replace("shop.orders", "'shop.\"orders\"'"), validator) == []  # another way to write it
    event = document["definitions"]["EventShape"]
    offered = {each["if"]["properties"]["table"]["const"]: each["then"]["properties"]["user_id"] for each in event["allOf"]}
    assert offered == {"shop.orders": {"examples": ["new.id", 'new["user id"]']}, "shop.users": {"examples": ["new.id"]}}
