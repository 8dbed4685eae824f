"""Every recipe of the documentation as SQL on a real server: from the rows of its examples to its event."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from cdc_tracker.mapping import Mapping, Mappings, compile_plan, findings, load_texts
from cdc_tracker.mapping.schema.shape import Example
from cdc_tracker.model import START, Event, Relation
from cdc_tracker.sources.postgres import catalog
from cdc_tracker.sources.postgres.values import codec
from tests.integration.stream import Tap, decoder, flushed, gather, tapped
from tests.postgres import Database, Server, fresh_database
from tests.unit.test_docs import DOCS, blocks

SCHEMA = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint NOT NULL, status text, total_cents int,
    refunded_cents int, placed_at timestamptz, time_zone text, items jsonb, tags text[]);
CREATE TABLE shop.users (id bigint PRIMARY KEY, tier smallint, used_bytes bigint, quota_bytes bigint, deleted_at timestamptz,
    name text, email text);
CREATE TABLE shop.shifts (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, worker_id bigint NOT NULL, starts_at timestamp,
    ends_at timestamp);
ALTER TABLE shop.orders REPLICA IDENTITY FULL;
ALTER TABLE shop.users REPLICA IDENTITY FULL;
"""
TABLES = ["shop.orders", "shop.users", "shop.shifts"]
RECIPES = [text for text in blocks(DOCS / "analyst/recipes.md", "yaml") if text.startswith("version: 1\n")]


class Shop(NamedTuple):
    database: Database
    connection: psycopg.Connection
    tap: Tap


@pytest.fixture(scope="module")
def shop(server: Server) -> Iterator[Shop]:
    with fresh_database(server) as database:
        database.execute(SCHEMA)
        with tapped(database, ["pgoutput"], TABLES) as taps, database.connect() as connection:
            connection.execute("SET timezone = 'UTC'")
            yield Shop(database, connection, taps[0])


def _written(connection: psycopg.Connection, table: str, example: Example) -> None:
    """Brings the row into the state before, then does what the example shows."""
    name = sql.Identifier(*table.split("."))
    after = example.new or {}
    before = {**after, **(example.old or {})} if example.old else None
    connection.execute(sql.SQL("DELETE FROM {}").format(name))

    def cells(row: dict[str, Any]) -> list[Any]:
        return [Jsonb(value, dumps=_json) if key == "items" else value for key, value in row.items()]

    row = before or after
    columns = sql.SQL(", ").join(map(sql.Identifier, row))
    places = sql.SQL(", ").join([sql.Placeholder()] * len(row))
    connection.execute(sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(name, columns, places), cells(row))
    if before:
        set_to = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(key)) for key in after)
        connection.execute(sql.SQL("UPDATE {} SET {}").format(name, set_to), cells(after))


def _json(value: Any) -> str:
    return json.dumps(value, default=lambda each: float(each) if isinstance(each, Decimal) else str(each))


def _events(shop: Shop, mapping: Mapping, example: Example) -> list[Event]:
    """What the mapping makes of the last change."""
    since = flushed(shop.database)
    _written(shop.connection, mapping.table, example)
    plans = {}

    def wanted(relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        made = compile_plan(Mappings((mapping,)), relation, codec, space=uuid.UUID(int=0), database="d", destination=None)
        plans[relation.table] = made
        return (made.new_columns, made.old_columns) if made else None

    segments = gather(shop.tap.frames(since), shop.tap.builder())
    changes = [change for segment in segments for change in decoder("pgoutput", wanted).changes(segment, START)]
    last = changes[-1]
    plan = plans[mapping.table]
    assert plan is not None and plan.problems == ()
    found = [function(last) for function in plan.by_op.get(last.op, ())]
    assert all(each is None or isinstance(each, Event) for each in found), found
    return [each for each in found if isinstance(each, Event)]


@pytest.mark.parametrize("text", RECIPES, ids=[text.partition("name: ")[2].partition("\n")[0] for text in RECIPES])
def test_a_recipe_makes_of_real_rows_what_its_examples_say(shop: Shop, text: str) -> None:
    mappings = load_texts({"recipes.yml": text})
    tables = catalog.tables(shop.connection, mappings.tables())
    assert findings(mappings, tables, codec) == []
    for mapping in mappings.all:
        assert mapping.examples
        for example in mapping.examples:
            events = _events(shop, mapping, example)
            if example.no_event:
                assert events == []
                continue
            assert len(events) == 1 and example.event is not None
            body = events[0].decoded()
            expected = {key: value for key, value in example.event.items() if key != "messageId"}  # of another source
            assert {key: body[key] for key in expected} == expected


def test_there_are_recipes_of_every_kind() -> None:
    assert len(RECIPES) >= 11
    titles = {"Transitions", "Once per user", "Money", "Time zones", "Soft deletes", "Arrays"}
    page = Path(DOCS / "analyst/recipes.md").read_text()
    assert all(f"\n## {title}\n" in page for title in titles)
