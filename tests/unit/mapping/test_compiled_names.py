"""Whatever stands in a mapping file, no text of it becomes code, and every event is valid JSON."""

from __future__ import annotations

import json
import uuid
from typing import Any

import msgspec
import pytest

from cdc_tracker import envelope
from cdc_tracker.mapping import compile_plan
from cdc_tracker.model import Codec, Event, Rejection, canonical
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import (
    COLUMNS,
    SPACE,
    change,
    mappings,
    one,
    outcome,
    plan,
    prop,
    relation,
)

make_id = envelope.id_maker(SPACE)


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
