"""What is read of a table beside what the stream tells of the same rows: texts, marks, events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from cdc_tracker.config.settings import OutboxSettings
from cdc_tracker.delivery.dead_letters import park, remake
from cdc_tracker.mapping import Mappings, load
from cdc_tracker.model import START, Event, Rejection
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.sources.postgres import slot, snapshot
from cdc_tracker.sources.postgres.connection import connect
from tests.integration.stream import Tap, agreed, decoder, every_column, flushed, tapped
from tests.integration.tables import cells, chunks, decode, reader, rows
from tests.integration.value_types import LITERALS, PREPARE
from tests.postgres import Database, Server, fresh_database, plugins

COLUMNS = {f"c{place}": type_name for place, type_name in enumerate(LITERALS)}
LOST = {"NaN", "Infinity", "-Infinity"}  # by wal2json, of these types
NUMBERS = {"float4", "float8", "numeric"}
ROW = st.fixed_dictionaries({name: st.none() | LITERALS[type_name] for name, type_name in COLUMNS.items()})


class Place(NamedTuple):
    database: Database
    connection: psycopg.Connection
    taps: Sequence[Tap]


@pytest.fixture(scope="module")
def place(server: Server) -> Iterator[Place]:
    with fresh_database(server) as database:
        columns = ", ".join(f"{name} {type_name}" for name, type_name in COLUMNS.items())
        database.execute(f"{PREPARE}; CREATE TABLE every (id serial PRIMARY KEY, gone int, {columns})")
        database.execute("ALTER TABLE every DROP COLUMN gone")
        with (
            tapped(database, plugins(server), ["public.every"]) as taps,
            connect(database.url, statement_timeout=60.0) as connection,
        ):
            yield Place(database, connection, taps)


@given(written=st.lists(ROW, min_size=6, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
def test_a_row_that_is_read_is_the_row_that_the_stream_tells(place: Place, written: list[dict[str, str | None]]) -> None:
    place.connection.execute("TRUNCATE every")
    since = flushed(place.database)
    _insert(place.connection, written)
    with reader(place.database, "public.every", list(COLUMNS)) as given:
        found = list(chunks(given, 4))
    read = rows(found)
    assert len(read) == len(written)
    for tap in place.taps:
        inserted = [change for change in tap.read(since) if change.op == "c"]
        assert [_differences(tap.plugin, one.new or {}, other) for one, other in zip(inserted, read, strict=True)] == [{}] * 6
        told = next(
            change.relation
            for segment in tap.segments(since)
            for change in decoder(segment.plugin).changes(segment, START)
            if change.op == "c"
        )
        seen = next(change.relation for chunk in found if chunk.segment for change in decode(chunk.segment))
        assert told is not None and seen is not None
        assert (seen.schema, seen.name, seen.columns) == (told.schema, told.name, told.columns)


def _insert(connection: psycopg.Connection, written: list[dict[str, str | None]]) -> None:
    values = sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(name)) for name in COLUMNS.values())
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    statement = sql.SQL("INSERT INTO every ({}) VALUES ({})").format(columns, values)
    with connection.transaction():
        for row in written:
            connection.execute(statement, [row[name] for name in COLUMNS])


def _differences(plugin: str, told: Any, read: dict[str, object]) -> dict[str, tuple[object, object]]:
    assert list(told) == list(read)
    return {
        name: (told[name], text)
        for name, text in read.items()
        if told[name] != text and not (plugin == "wal2json" and text in LOST and COLUMNS[name] in NUMBERS and told[name] is None)
    }


@pytest.fixture
def orders(database: Database) -> Database:
    database.execute(
        "CREATE SCHEMA shop;"
        "CREATE TABLE shop.orders (id int PRIMARY KEY, user_id int, status text, amount numeric(9,2), note text)"
    )
    return database


def test_marks_come_with_the_stream_in_the_order_of_commits(orders: Database) -> None:
    with tapped(orders, plugins(orders.server), ["shop.orders"]) as taps:
        with orders.connect() as connection:
            slot.heartbeat(connection)
            connection.execute("SELECT pg_logical_emit_message(true, 'cdc_tracker.watermarks', 'not ours')")
            connection.execute("SELECT pg_logical_emit_message(false, 'cdc_tracker.watermark', 'of no transaction')")
        orders.execute("INSERT INTO shop.orders VALUES (1)")
        with reader(orders, "shop.orders", job=7) as given:
            chunk = given.read(None, 10)
        orders.execute("INSERT INTO shop.orders VALUES (2)")
        found = agreed(taps)
    assert [change.op for change in found] == ["c", "m", "m", "c"]
    low, high = found[1], found[2]
    assert {low.prefix, high.prefix} == {snapshot.WATERMARK}
    assert [json.loads(str(mark.content)) for mark in (low, high)] == [{"job": 7, "mark": "low"}, {"job": 7, "mark": "high"}]
    assert found[0].position.commit_lsn < chunk.low <= low.position.commit_lsn
    assert low.position.commit_lsn < chunk.high <= high.position.commit_lsn < found[3].position.commit_lsn
    assert rows([chunk]) == [{"id": "1"}]


MAPPING = """
version: 1
events:
  - name: Order Paid
    table: shop.orders
    on: [insert, update]
    when: new.status == 'paid' and old.status != 'paid'
    user_id: new.user_id
    id: [new.id]
    properties:
      amount: {value: new.amount, type: number, minimum: 0}
      note: new.note
    backfill: {}
  - name: Order Gone
    table: shop.orders
    on: delete
    user_id: old.id
"""


def mappings(folder: Path, text: str = MAPPING) -> Mappings:
    path = folder / "orders.yml"
    path.write_text(text)
    return load([path])


def pipeline(found: Mappings) -> Pipeline:
    space = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
    return Pipeline(found, outbox=OutboxSettings(), namespace=space, database="shop", destination=None)


def test_a_row_makes_the_event_that_its_insert_made_marked_as_read(orders: Database, tmp_path: Path) -> None:
    with tapped(orders, plugins(orders.server), ["shop.orders"]) as taps:
        orders.execute(
            "INSERT INTO shop.orders VALUES (1, 3, 'paid', 9.50, E'a\\\\b\\n\\t\"ä'), "
            "(2, 3, 'open', 1, NULL), (3, 4, 'paid', 2, NULL)"
        )
        with reader(orders, "shop.orders", ["user_id", "status", "amount", "note"]) as given:
            chunk = given.read(None, 10)
        assert chunk.segment is not None
        read = pipeline(mappings(tmp_path)).results(chunk.segment, START)
        streams = [
            [made for segment in tap.segments() for made in pipeline(mappings(tmp_path)).results(segment, START)] for tap in taps
        ]
    for streamed in streams:
        assert [one.message_id for one in streamed if isinstance(one, Event)] == [
            one.message_id for one in read if isinstance(one, Event)
        ]
        for one, other in zip(streamed, read, strict=True):
            assert isinstance(one, Event) and isinstance(other, Event)
            told, seen = one.decoded(), other.decoded()
            source = seen["context"].pop("source")
            told["context"].pop("source"), told.pop("timestamp"), seen.pop("timestamp")
            assert told == seen
            assert list(source) == ["db", "schema", "table", "op", "lsn", "txId", "ts_ms", "snapshot"]
            assert (source["op"], source["snapshot"], source["txId"]) == ("r", True, 0)
    assert len(read) == 2
    assert b"snapshot" not in b"".join(one.body for one in streams[0] if isinstance(one, Event))


def test_a_column_that_is_not_there_rejects_as_in_the_stream(orders: Database, tmp_path: Path) -> None:
    text = MAPPING.replace("note: new.note", "note: new.coupon")
    orders.execute("INSERT INTO shop.orders VALUES (1, 3, 'paid', 9.50)")
    with reader(orders, "shop.orders", ["user_id", "status", "amount", "coupon"]) as given:
        chunk = given.read(None, 10)
    assert chunk.segment is not None
    [made] = pipeline(mappings(tmp_path, text)).results(chunk.segment, START)
    assert isinstance(made, Rejection)
    assert (made.reason, made.field, made.position) == ("column_missing", "properties.note", (chunk.low, 0))


def test_a_row_that_was_refused_becomes_its_event_once_it_is_let_pass(orders: Database, tmp_path: Path) -> None:
    orders.execute(
        "INSERT INTO shop.orders VALUES (1, 3, 'paid', 1, 'x'), (2, 3, 'paid', -5, E'tab\\there'), (3, 3, 'paid', -6, NULL)"
    )
    with reader(orders, "shop.orders", ["user_id", "status", "amount", "note"]) as given:
        chunk = given.read(None, 10)
    assert chunk.segment is not None
    strict, lenient = pipeline(mappings(tmp_path)), pipeline(mappings(tmp_path, MAPPING.replace(", minimum: 0", "")))
    made = strict.results(chunk.segment, START)
    rejections = [one for one in made if isinstance(one, Rejection)]
    assert [one.reason for one in rejections] == ["below_minimum"] * 2
    letters = park("main", "memory", [chunk.segment], rejections, START)
    assert [remake(letter, strict) for letter in letters] == rejections
    assert [remake(letter, lenient) for letter in letters] == lenient.results(chunk.segment, START)[1:]
    assert all(len(letter.segment) < 400 for letter in letters)


def test_the_tail_of_a_chunk_is_given_from_any_row_on(orders: Database) -> None:
    orders.execute("INSERT INTO shop.orders SELECT i, i FROM generate_series(1, 5) i")
    with reader(orders, "shop.orders", ["user_id"]) as given:
        chunk = given.read(None, 10)
    assert chunk.segment is not None
    whole = decode(chunk.segment)
    assert chunk.segment.last == whole[-1].position
    for place, change in enumerate(whole):
        assert list(snapshot.Decoder(every_column).changes(chunk.segment, change.position)) == whole[place + 1 :]
    assert cells(whole[4]) == {"id": "5", "user_id": "5"}
