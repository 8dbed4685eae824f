"""Mappings against a table as it is."""

from __future__ import annotations

import json

from cdc_tracker.errors import Problem
from cdc_tracker.mapping import findings
from cdc_tracker.model import Column, Relation
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import catalogued, mappings, one, relation


def found(text: str, table: Relation) -> list[Problem]:
    return findings(mappings(text), {table.table: catalogued(table)}, codec)


def told(text: str, table: Relation) -> list[tuple[str, str, str]]:
    return [(problem.severity, problem.key, problem.message) for problem in found(text, table)]


def test_a_mapping_that_fits_has_no_problems() -> None:
    text = one(
        on=["insert", "update", "delete"],
        user_id="coalesce(new.id, old.id)",
        properties={"x": {"value": "new.qty", "type": "integer"}},
    )
    assert told(text, relation("d")) == []


def test_everything_that_is_wrong_is_told_once() -> None:
    text = one(
        on=["insert", "update"],
        when="old.status != new.status",
        user_id="new.usr_id",
        properties={"x": {"value": "new.status", "type": "number"}, "y": "new.items"},
    )
    assert told(text, relation("d")) == [
        ("error", "events[0].user_id", "column 1: shop.orders has no column 'usr_id'; did you mean 'user_id'?"),
        ("error", "events[0].properties.x", "is declared as number, but 'new.status' is string"),
        (
            "error",
            "events[0].when",
            "old.status is not logged: shop.orders has REPLICA IDENTITY DEFAULT, which logs key columns only",
        ),
    ]


def test_what_has_one_cause_in_a_table_is_told_once() -> None:
    text = one(
        on="update",
        when="old.status != new.status and old.gift",
        user_id="new.usr_id",
        id=["new.id", "new.usr_id"],
        properties={"x": "old.qty", "y": "new.items"},
    )
    identity = "shop.orders has REPLICA IDENTITY DEFAULT, which logs key columns only"
    assert told(text, relation("d")) == [
        (
            "error",
            "events[0].user_id",
            "column 1: shop.orders has no column 'usr_id'; did you mean 'user_id'?; also at shop.yml:1: events[0].id[1]",
        ),
        (
            "error",
            "events[0].when",
            f"old.status, old.gift and old.qty are not logged: {identity}; also at shop.yml:1: events[0].properties.x",
        ),
    ]


def test_large_values_of_a_table_are_told_once() -> None:
    both = json.loads(one(on="update", properties={"x": "new.items"}))
    both["events"] += json.loads(one(name="Order Sent", on="update", properties={"x": "new.tags"}))["events"]
    assert told(json.dumps(both), relation("d")) == [
        (
            "warning",
            "Order Paid, Order Sent",
            "a large value of items or tags is not logged by an update that leaves it alone; "
            "the event is then rejected as unchanged_toast",
        )
    ]


def test_large_columns_matter_to_updates_without_full_identity_only() -> None:
    text = one(on="update", properties={"x": "new.items"})
    assert len(told(text, relation("d"))) == 1
    assert told(text, relation("f")) == []
    assert told(one(on="insert", properties={"x": "new.items"}), relation("d")) == []


def test_a_table_that_is_not_mapped_has_no_problems() -> None:
    assert told(one(), Relation("shop", "users", ())) == []


def test_the_hint_quotes_odd_names() -> None:
    table = Relation("Shop", 'or"ders', (Column("id", 20, True), Column("user_id", 20, False)), "d")
    text = one(table='Shop.or"ders', on="delete", user_id="old.user_id")
    (problem,) = found(text, table)
    assert problem.hint == 'ALTER TABLE "Shop"."or""ders" REPLICA IDENTITY FULL;'
