"""Warnings about mappings that can run and likely do not do what was meant; and beside each what is written so on purpose."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from cdc_tracker.mapping import findings, lints
from cdc_tracker.model import Relation
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.tables import Reference, Table
from tests.unit.mapping.shop import OIDS, catalogued, mappings, relation

COLUMNS = {
    "shop.orders": {
        "id": "int8",
        "user_id": "int8",
        "state": "text",
        "paid": "bool",
        "note": "text",
        "kind": "text",
        "total_cents": "int8",
        "refunded_cents": "int8",
        "in_minor_units": "int8",
        "price": "numeric",
        "email": "text",
        "email_verified": "bool",
        "ship_address": "text",
        "address_id": "int8",
        "product_name": "text",
        "metadata": "jsonb",
        "created_at": "timestamptz",
        "updated_at": "timestamptz",
        "paid_at": "timestamptz",
        "lock_version": "int4",
        "number": "int4",
    },
    "shop.users": {
        "id": "int8",
        "name": "text",
        "email": "text",
        "phone": "int8",
        "invited_by": "int8",
        "seen_at": "timestamptz",
    },
    "shop.tasks": {"id": "uuid", "title": "text", "assignee": "int8", "owner_id": "int8", "checked_by": "int8"},
    "shop.notes": {"id": "int8", "author_id": "int8", "body": "text"},
    "shop.members": {"team_id": "int8", "user_id": "int8", "role": "text"},
    "shop.profiles": {"id": "int8", "user_id": "int8", "nickname": "text"},
    "shop.hits": {"id": "uuid", "at": "timestamptz", "user_id": "int8", "ip": "text"},
    "shop.log": {"user_id": "int8", "what": "text"},
}
KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "shop.orders": (("id",), ("number",)),
    "shop.members": (("team_id", "user_id"),),
    "shop.hits": (("at", "id"),),
    "shop.log": (),
}
REFERENCES = {
    ("shop.tasks", "assignee"): "shop.users",
    ("shop.profiles", "user_id"): "shop.users",
    ("shop.users", "invited_by"): "shop.users",
    ("shop.members", "user_id"): "shop.users",
    ("shop.orders", "address_id"): "shop.addresses",
}


def table(name: str) -> Table:
    schema, _, short = name.partition(".")
    described = relation("f", COLUMNS[name])
    keys = KEYS.get(name, (("id",),))
    facts: dict[str, Any] = {
        column: {
            "primary_key": any(column in key for key in keys[:1]),
            "references": Reference(REFERENCES[name, column], "id") if (name, column) in REFERENCES else None,
        }
        for column in COLUMNS[name]
    }
    found = catalogued(Relation(schema, short, described.columns, "f"), **facts)
    return msgspec.structs.replace(found, unique_keys=keys)


TABLES = {name: table(name) for name in COLUMNS}


def told(*events: dict[str, Any], known: bool = True) -> list[str]:
    """The findings of a file with these events. What an event does not say is enough to load it."""
    shapes = [
        {"name": "Order Paid", "key": str(number), "table": "shop.orders", "user_id": "new.user_id", **event}
        for number, event in enumerate(events)
    ]
    loaded = mappings(json.dumps({"version": 1, "events": shapes}))
    found = [
        each
        for name in loaded.tables()
        for each in lints.of_table(loaded.for_table(name), TABLES[name] if known else None, codec)
    ]
    found += lints.of_all(loaded)
    assert {problem.severity for problem in found} <= {"warning"}
    return [str(problem) for problem in found]


ON = ["insert", "update"]


@pytest.mark.parametrize(
    ("event", "mended"),
    [
        ({"on": "update", "when": "new.state == 'paid'"}, "entered(new.state, 'paid')"),
        ({"on": ON, "when": "'paid' == new.state"}, "entered(new.state, 'paid')"),
        ({"on": ON, "when": "None != new.paid_at"}, "None != new.paid_at and old.paid_at is None"),
        ({"on": ON, "when": "new.state in ['paid', 'sent']"}, "entered(new.state, 'paid', 'sent')"),
        ({"on": ON, "when": "new.kind != 'test' and new.state == 'paid'"}, "entered(new.state, 'paid')"),
        ({"on": ON, "when": "new.paid_at is not None"}, "new.paid_at is not None and old.paid_at is None"),
        ({"on": ON, "when": "not (new.paid_at is None)"}, "Write not new.paid_at is None and changed(new.paid_at, old.paid_at)"),
        ({"on": ON, "when": "new.refunded_cents > 0"}, "changed(new.refunded_cents, old.refunded_cents)"),
        ({"on": ON, "when": "new.paid"}, "changed(new.paid, old.paid)"),
        ({"on": ON, "when": "new.paid == True"}, "entered(new.paid, True)"),
        ({"on": ON, "when": "lower(new.state) == 'paid'"}, "changed(new.state, old.state)"),
        ({"on": ON, "when": "starts_with(new.state, 'paid')"}, "changed(new.state, old.state)"),
        ({"on": ON, "when": "new.state == 'paid'", "id": ["new.id", "new.updated_at"]}, "entered(new.state, 'paid')"),
        ({"on": ON, "when": "new.state == 'paid'", "id": ["new.id", "lsn"]}, "entered(new.state, 'paid')"),
    ],
)
def test_a_state_where_a_change_is_meant(event: dict[str, Any], mended: str) -> None:
    [found] = told(event)
    assert "asks for a state, not for the change to it" in found
    assert mended in found
    assert told(event, known=False) == [found]


@pytest.mark.parametrize(
    "event",
    [
        {"on": "insert", "when": "new.state == 'paid'"},
        {"on": ON, "when": "new.state == 'paid' and old.state != 'paid'"},
        {"on": ON, "when": "entered(new.state, 'paid')"},
        {"on": ON, "when": "changed(new.state, old.state) and new.state == 'paid'"},
        {"on": ON, "when": "op == 'insert' and new.state == 'paid'"},
        {"on": ON, "when": "new.state == 'paid'", "id": ["new.id"]},
        {"on": ON, "when": "new.state == 'paid'", "id": ["new.id", "new.state"]},
        {"on": ON, "when": "new.state == 'paid'", "name": "Order Updated"},
        {"on": ON, "when": "new.kind != 'test'"},
        {"on": ON, "when": "new.paid_at is None and new.kind not in ['test']"},
        {"on": ON, "when": "not starts_with(new.note, 'cron.') and not new.paid"},
        {"on": ON, "when": "new.state == 'paid'", "type": "identify"},
        {"on": ON, "when": "new.state == 'paid'", "type": "group", "group_id": "new.id"},
        {"on": ON},
        {"on": "delete", "when": "old.state == 'paid'", "user_id": "old.user_id"},
    ],
)
def test_a_condition_that_is_meant_as_it_is_written(event: dict[str, Any]) -> None:
    assert told(event) == []


@pytest.mark.parametrize(
    "event",
    [
        {"id": ["new.user_id"]},
        {"id": ["new.user_id", "new.kind"]},
        {"id": ["string(new.user_id)"]},
        {"id": ["'order'"]},
        {"on": "delete", "user_id": "old.user_id", "id": ["old.user_id"]},
        {"table": "shop.members", "id": ["new.user_id"]},
        {"on": "update", "when": "new.refunded_cents > old.refunded_cents", "id": ["new.user_id"]},
        {"type": "identify", "id": ["new.user_id"]},
    ],
)
def test_an_id_that_several_rows_share(event: dict[str, Any]) -> None:
    [found] = told(event)
    assert "give one event: the id holds neither the row's key nor anything that changes" in found
    assert "Add the key, new." in found
    assert told(event, known=False) == []


@pytest.mark.parametrize(
    "event",
    [
        {"id": ["new.id"]},
        {"id": ["new.number"]},  # unique, too
        {"id": ["f'order-{new.id}'", "new.kind"]},
        {"id": ["new.user_id", "new.created_at"]},
        {"id": ["new.user_id", "date(new.created_at)"]},  # once a user and day
        {"id": ["new.user_id", "committed_at"]},
        {"id": ["lsn"]},
        {"on": "update", "when": "new.refunded_cents > old.refunded_cents", "id": ["new.user_id", "new.refunded_cents"]},
        {"id": ["new.user_id"], "name": "First Order Placed"},
        {"table": "shop.members", "id": ["new.team_id", "new.user_id"]},
        {"table": "shop.hits", "id": ["new.id"]},  # a partition's key has the time besides
        {"table": "shop.log", "id": ["new.user_id"]},  # a table without any key
        {"on": "delete", "user_id": "old.user_id", "id": ["old.id"]},
    ],
)
def test_an_id_that_tells_events_apart(event: dict[str, Any]) -> None:
    assert told(event) == []


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"on": "update", "id": ["new.id"]}, "a row may be updated again and again"),
        ({"on": ON, "id": ["new.id"], "when": "new.kind != 'test'"}, "a row may be updated again and again"),
        ({"on": "update", "id": ["new.id"], "when": "changed(new.state, old.state)"}, "such as new.state"),
        ({"on": "update", "id": ["new.id"], "when": "new.refunded_cents > old.refunded_cents"}, "such as new.refunded_cents"),
        ({"on": "update", "id": ["new.id"], "when": "new.kind == 'a' and new.note != old.note"}, "such as new.note"),
        ({"on": ON, "id": ["new.id"], "type": "identify", "traits": {"kind": "new.kind"}}, "again and again"),
    ],
)
def test_the_id_of_a_row_for_an_event_that_repeats(event: dict[str, Any], words: str) -> None:
    [found] = told(event)
    assert words in found
    assert "every event after the first is taken for the same one" in found


@pytest.mark.parametrize(
    "event",
    [
        {"on": "insert", "id": ["new.id"]},
        {"on": ON, "id": ["new.id"], "when": "new.state == 'paid' and old.state != 'paid'"},
        {"on": ON, "id": ["new.id"], "when": "changed(new.state, old.state) and new.state == 'paid'"},
        {"on": "update", "id": ["new.id"], "when": "entered(new.state, 'paid')"},
        {"on": "update", "id": ["new.id"], "when": "new.paid_at is not None and old.paid_at is None"},
        {"on": "update", "id": ["new.id", "new.updated_at"]},
        {"on": "update", "id": ["new.id", "new.lock_version"]},
        {"on": "update", "id": ["new.id", "xid"]},
        {"on": "update", "id": ["new.id", "new.note"], "when": "new.note != old.note"},
        {"on": "delete", "id": ["old.id"], "user_id": "old.user_id"},
        {"on": ON, "id": ["new.id"], "name": "Cart Activated"},
    ],
)
def test_an_event_that_happens_once_a_row_or_has_an_id_for_each_time(event: dict[str, Any]) -> None:
    assert told(event) == []


def test_spellings_of_one_name_are_told_once() -> None:
    deleted = {"on": "delete", "user_id": "old.user_id"}
    [found] = told(
        {"name": "Order paid"},
        {"name": "Order Paid", "on": "update"},
        {"name": "order-paid", **deleted},
    )
    assert "three spellings of one event's name" in found
    assert all(name in found for name in ("'Order paid' (shop.yml:1)", "'Order Paid'", "'order-paid'"))
    assert "such as 'Order Paid'" in found
    [found] = told({"name": "Übersicht Geöffnet"}, {"name": "übersicht_geöffnet", "table": "shop.users", "user_id": "new.id"})
    assert "two spellings" in found


@pytest.mark.parametrize(
    "events",
    [
        ({"name": "Order Paid"}, {"name": "Order Paid", "on": "update"}),
        ({"name": "Order Paid"}, {"name": "Orders Paid", "on": "update"}),
        ({"name": "Plan 1.0"}, {"name": "Plan 11", "on": "update"}),
        ({"name": "Order Paid"}, {"name": "order paid", "on": "update", "type": "identify"}),
    ],
)
def test_names_that_are_the_same_or_differ_in_letters(events: tuple[dict[str, Any], ...]) -> None:
    assert told(*events) == []


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"properties": {"kind": "new.kind", "Kind": "new.note"}}, "'kind' and 'Kind'"),
        ({"properties": {"order_id": "new.id", "orderId": "new.number"}}, "'order_id' and 'orderId'"),
        ({"properties": {"o": {"properties": {"a-b": "new.kind", "a_b": "new.note"}}}}, "'a-b' and 'a_b'"),
        ({"context": {"Page": "new.kind", "page": "new.note"}}, "'Page' and 'page'"),
    ],
)
def test_properties_of_one_event_that_differ_in_spelling_only(event: dict[str, Any], words: str) -> None:
    [found] = told(event)
    assert f"{words} differ only in case or punctuation" in found


def test_properties_of_two_events_or_levels_may_be_spelled_as_they_are() -> None:
    assert told({"properties": {"kind": "new.kind"}}, {"on": "update", "properties": {"Kind": "new.kind"}}) == []
    assert told({"properties": {"kind": {"properties": {"Kind": "new.kind"}}, "kind2": "new.note"}}) == []


@pytest.mark.parametrize(
    "events",
    [
        ({"when": "new.kind == 'a'"}, {"when": 'new.kind   ==  "a"'}),
        ({}, {"on": ON, "properties": {"kind": "new.kind"}}),
        ({"destinations": ["one"]}, {}),
        ({"type": "identify"}, {"type": "identify"}),
    ],
)
def test_one_event_declared_twice(events: tuple[dict[str, Any], ...]) -> None:
    [found] = told(*events)
    assert "the same insert of shop.orders gives 'Order Paid' at shop.yml:1, too: two events for one change" in found


@pytest.mark.parametrize(
    "events",
    [
        ({"when": "new.kind == 'a'"}, {"when": "new.kind == 'b'"}),
        ({"on": "insert"}, {"on": "update"}),
        ({"destinations": ["one"]}, {"destinations": ["two"]}),
        ({"user_id": "new.user_id"}, {"user_id": "new.number"}),  # the buyer's and the seller's
        ({"name": "Order Paid"}, {"name": "Order Placed"}),
        ({}, {"table": "shop.members"}),
        ({"type": "identify"}, {}),
    ],
)
def test_events_that_share_a_name_but_not_the_change(events: tuple[dict[str, Any], ...]) -> None:
    assert told(*events) == []


@pytest.mark.parametrize(
    ("name", "value", "column"),
    [
        ("revenue", "new.total_cents", "new.total_cents"),
        ("value", "new.total_cents - new.refunded_cents", "new.total_cents"),
        ("unit_price", "round(new.total_cents)", "new.total_cents"),
        ("amount", "new.total_cents / 100 + new.refunded_cents", "new.refunded_cents"),
        ("orderValue", "coalesce(new.in_minor_units, 0)", "new.in_minor_units"),
        ("price", "new.total_cents if new.paid else 0", "new.total_cents"),
        ("amount", "new.total_cents * 2", "new.total_cents"),
        ("price", "{'price': new.total_cents}", "new.total_cents"),
    ],
)
def test_cents_sent_as_money(name: str, value: str, column: str) -> None:
    [found] = told({"properties": {name: {"value": value, "type": "number"}}})
    assert f"{name} is sent in cents: {column} is not divided" in found
    assert f"Write {column} / 100" in found
    assert told({"properties": {"order": {"properties": {name: value}}}}, known=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("revenue", "new.total_cents / 100"),
        ("revenue", "round(new.total_cents / 100, 2)"),
        ("revenue", "new.total_cents * 0.01"),
        ("revenue", "(new.total_cents - new.refunded_cents) / 100"),
        ("revenue", "new.price"),
        ("revenue_cents", "new.total_cents"),
        ("total_cents", "new.total_cents"),
        ("value", "'large' if new.total_cents > 100000 else 'small'"),
        ("price", "new.total_cents > 100"),
        ("refunded", "new.refunded_cents"),
    ],
)
def test_cents_divided_or_named_so(name: str, value: str) -> None:
    assert told({"properties": {name: value}}) == []


def test_cents_in_an_object_that_an_expression_makes() -> None:
    [found] = told({"properties": {"lines": "[{'sku': new.kind, 'price': new.total_cents, 'cents': new.total_cents}]"}})
    assert "price is sent in cents: new.total_cents is not divided" in found


def test_cents_are_known_by_the_name_of_a_domain() -> None:
    cents = catalogued(relation("f", {"id": "int8", "user_id": "int8", "paid": "int8"}), paid={"type_name": "billing.cents"})
    loaded = mappings(json.dumps({"version": 1, "events": [_event(properties={"revenue": "new.paid"})]}))
    [found] = findings(loaded, {"shop.orders": cents}, codec)
    assert "new.paid is not divided" in found.message


def _event(**event: Any) -> dict[str, Any]:
    return {"name": "Order Paid", "table": "shop.orders", "user_id": "new.user_id", **event}


USERS = {"name": "User Known", "table": "shop.users", "user_id": "new.id"}


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"properties": {"mail": "new.email"}}, "new.email as properties.mail"),
        ({"properties": {"mail": {"value": "lower(trim(new.email))", "type": "string"}}}, "new.email as properties.mail"),
        ({"properties": {"to": "f'mailto:{new.email}'"}}, "new.email as properties.to"),
        ({"properties": {"to": {"properties": {"address": "new.ship_address"}}}}, "new.ship_address as properties.to.address"),
        ({"properties": {"to": "{'mail': new.email}"}}, "new.email as properties.to"),
        ({"context": {"ip": "new.ip"}, "table": "shop.hits"}, "new.ip as context.ip"),
        ({**USERS, "type": "identify", "traits": {"name": "new.name", "phone": "new.phone"}}, "new.phone as traits.phone"),
        ({"on": "delete", "user_id": "old.user_id", "properties": {"mail": "old.email"}}, "old.email as properties.mail"),
        ({"user_id": "new.email"}, "user_id is new.email, which looks personal"),
        ({"user_id": "lower(new.email)"}, "user_id is new.email, which looks personal"),
        ({"anonymous_id": "new.ip", "table": "shop.hits"}, "anonymous_id is new.ip"),
        ({"properties": {"mail": "new.email", "all": "new.metadata"}}, "new.metadata may hold more"),
    ],
)
def test_what_looks_personal_and_is_sent_as_it_is(event: dict[str, Any], words: str) -> None:
    [found] = told(event)
    assert words in found


@pytest.mark.parametrize(
    "event",
    [
        {"properties": {"mail": {"value": "new.email", "pii": True}}},
        {"properties": {"mail": "sha256(lower(trim(new.email)))"}},
        {"properties": {"mail": "md5(new.email)"}},
        {"properties": {"to": {"pii": True, "properties": {"mail": "new.email"}}}},
        {"properties": {"domain": "split(new.email, '@')[1]", "length": "length(new.email)"}},
        {"properties": {"has_mail": "new.email is not None", "verified": "new.email_verified"}},
        {"properties": {"kind": "'guest' if new.email is None else 'known'"}},
        {"properties": {"product": "new.product_name", "address": "new.address_id"}},
        {"properties": {"all": "new.metadata"}},
        {"user_id": "sha256(new.email)"},
        {"when": "ends_with(new.email, '@example.com')"},
        {"id": ["new.id", "new.email"]},
    ],
)
def test_what_is_marked_hashed_or_says_nothing_of_a_person(event: dict[str, Any]) -> None:
    assert told(event) == []


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"table": "shop.tasks", "user_id": "new.id"}, "assignee (→ shop.users.id)"),
        ({"table": "shop.tasks", "user_id": "string(new.id)"}, "user_id: new.assignee"),
        ({"table": "shop.orders", "user_id": "new.id"}, "user_id (by its name a person)"),
        ({"table": "shop.notes", "user_id": "new.id"}, "author_id (by its name a person)"),
        ({"table": "shop.profiles", "user_id": "new.id"}, "user_id (→ shop.users.id)"),
    ],
)
def test_a_user_id_that_is_the_rows_own(event: dict[str, Any], words: str) -> None:
    [found] = told({"name": "Thing Made", **event})
    assert words in found
    assert told({"name": "Thing Made", **event}, known=False) == []


@pytest.mark.parametrize(
    "event",
    [
        {"table": "shop.users", "user_id": "new.id"},
        {"table": "shop.tasks", "user_id": "new.assignee"},
        {"table": "shop.tasks", "user_id": "coalesce(new.assignee, new.owner_id)"},
        {"table": "shop.tasks", "user_id": "f'task-{new.id}'"},
        {"table": "shop.orders", "user_id": "new.number"},
        {"table": "shop.orders", "user_id": None, "anonymous_id": "new.id"},
        {"table": "shop.tasks", "type": "group", "group_id": "new.id", "user_id": "new.assignee"},
    ],
)
def test_a_user_id_that_is_a_persons(event: dict[str, Any]) -> None:
    assert told({"name": "Thing Made", **event}) == []


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            {"on": "update", "let": {"done": "new.state == 'paid'"}, "when": "done and new.kind != 'a'"},
            "entered(new.state, 'paid')",
        ),
        ({"let": {"who": "string(new.user_id)", "part": "who"}, "id": ["part"]}, "with the same user_id"),
        ({"let": {"a": "new.total_cents - 1", "b": "a + a"}, "properties": {"revenue": "b"}}, "new.total_cents is not divided"),
        ({"let": {"mail": "lower(new.email)"}, "properties": {"x": "mail"}}, "new.email as properties.x"),
    ],
)
def test_what_let_names_is_seen(event: dict[str, Any], words: str) -> None:
    [found] = told(event)
    assert words in found


def test_let_names_different_things_in_two_events() -> None:
    first, second = ({"let": {"big": f"new.number > {least}"}, "when": "big"} for least in (1, 2))
    assert told(first, second) == []
    assert len(told(first, first)) == 1


def test_names_of_names_of_names_are_looked_at_once() -> None:
    let = {"v0": "new.number + 1", **{f"v{n}": f"v{n - 1} + v{n - 1}" for n in range(1, 19)}}
    assert told({"let": let, "when": "v18 > 3", "properties": {"price": "v18"}}) == []


def test_every_kind_of_column_of_these_tests_is_known() -> None:
    assert {kind for columns in COLUMNS.values() for kind in columns.values()} <= OIDS.keys()
