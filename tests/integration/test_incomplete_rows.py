"""Rows that do not come whole: too large, or with numbers that wal2json cannot say. What needs the missing value is parked."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest

from cdc_tracker.config.settings import OutboxSettings
from cdc_tracker.destinations.base import NOTHING_MORE, Requirements
from cdc_tracker.journal import decode as unpack
from cdc_tracker.journal import encode as pack
from cdc_tracker.mapping import load_texts
from cdc_tracker.model import START, Event, Missing, Rejection, Result, Segment
from cdc_tracker.pipeline import Pipeline, excerpts
from cdc_tracker.sources.postgres.scripts import script
from tests.integration.stream import Tap, gather, read, tapped
from tests.postgres import Database, plugins

MAPPINGS = """
version: 1
events:
  - {name: File Added, table: public.files, user_id: new.id, properties: {name: new.name}}
  - {name: Body Added, table: public.files, user_id: new.id, properties: {body: new.body}}
  - {name: File Gone, table: public.files, on: [delete], user_id: old.id, when: "old.body != None"}
  - {name: Paid, table: public.paid, on: [insert, update], user_id: new.id, properties: {amount: new.amount}}
  - {name: Rounded, table: public.paid, on: [insert, update], user_id: new.id, properties: {amount: "round(new.amount, 0)"}}
  - {name: Paid Or Not, table: public.paid, user_id: new.id, special_values: "null", properties: {amount: new.amount}}
"""
LIMIT = 20_000


def captured(tap: Tap) -> list[Segment]:
    tap.settings = tap.settings.model_copy(update={"max_row": LIMIT})
    with tap.session() as session:
        made = gather(tap.frames(), session.builder(START))
    assert all(len(segment.frames) < 2 * LIMIT for segment in made)
    return [unpack(pack(segment)) for segment in made]


def pipeline(wants: Requirements = NOTHING_MORE) -> Pipeline:
    mappings = load_texts({"m.yml": MAPPINGS})
    return Pipeline(mappings, outbox=OutboxSettings(), namespace=uuid.UUID(int=7), database="d", requirements=wants)


def told(made: Sequence[Result]) -> list[tuple[object, ...]]:
    return [
        (one.decoded()["event"], one.decoded().get("properties"))
        if isinstance(one, Event)
        else (one.mapping, one.reason, getattr(one, "field", None))
        for one in made
    ]


@pytest.mark.servers("pg15", "pg18")
def test_of_a_row_above_the_limit_only_what_needs_its_large_values_is_parked(database: Database) -> None:
    database.execute("CREATE TABLE files (id int PRIMARY KEY, name text, body bytea); ALTER TABLE files REPLICA IDENTITY FULL")
    database.execute(script("outbox"))
    database.execute(script("functions"))
    with tapped(database, plugins(database.server), ["public.files", "cdc_tracker.outbox"]) as taps:
        database.execute("INSERT INTO files VALUES (1, 'small', '\\x01')")
        database.execute("INSERT INTO files SELECT 2, 'large', decode(repeat('ab', 40000), 'hex')")
        database.execute("UPDATE files SET name = 'renamed' WHERE id = 2; DELETE FROM files WHERE id = 2")
        database.execute(
            "INSERT INTO cdc_tracker.outbox (event, user_id, properties)"
            " SELECT 'x', 'u', jsonb_build_object('v', repeat('x', 40000))"
        )
        database.execute("SELECT cdc_tracker.track('x', 'u', jsonb_build_object('v', repeat('x', 40000)))")
        database.execute("SELECT cdc_tracker.track('y', 'u'); INSERT INTO files VALUES (3, 'after', '\\x02')")
        for tap in taps:
            made = captured(tap)
            inserted, updated, deleted = read(made)[1:4]
            assert inserted.new == {"id": "2", "name": "large", "body": Missing.TOO_LARGE}
            assert updated.new == {"id": "2", "name": "renamed", "body": Missing.TOO_LARGE}
            assert deleted.old == {"id": "2", "name": "renamed", "body": Missing.TOO_LARGE}
            makes = pipeline()
            found = [one for segment in made for one in makes.results(segment, START)]
            assert told(found) == [
                ("File Added", {"name": "small"}),
                ("Body Added", {"body": "AQ=="}),
                ("File Added", {"name": "large"}),
                ("Body Added", "value_too_large", "properties.body"),
                ("File Gone", "value_too_large", "when"),
                ("outbox", "value_too_large", "properties"),
                ("outbox", "value_too_large", ""),
                ("y", None),
                ("File Added", {"name": "after"}),
                ("Body Added", {"body": "Ag=="}),
            ]
            [parked] = [one for one in found if isinstance(one, Rejection) and one.mapping == "Body Added"]
            [kept] = [excerpts(segment, {parked.position}) for segment in made if segment.first <= parked.position < segment.last]
            assert told(pipeline().results(kept[parked.position], START)) == told(
                [f for f in found if f.position == parked.position]
            )
            raw = pipeline(Requirements(raw=True))
            reasons = [getattr(one, "reason", "event") for segment in made for one in raw.results(segment, START)]
            assert reasons == ["event", *["value_too_large"] * 4, "event"]


@pytest.mark.servers("pg15")
def test_a_number_that_is_not_null_and_comes_as_null_is_parked(database: Database) -> None:
    """wal2json writes NaN and the infinities as null; pgoutput as what they are."""
    database.execute("CREATE TABLE paid (id int PRIMARY KEY, amount numeric NOT NULL, rate float8)")
    with tapped(database, plugins(database.server), ["public.paid"]) as taps:
        database.execute(
            "INSERT INTO paid VALUES (1, 9.50, 1), (2, 'NaN', 'NaN'); UPDATE paid SET amount = 'Infinity' WHERE id = 1"
        )
        database.execute("UPDATE paid SET amount = 7 WHERE id = 1")
        found = {tap.plugin: [one for segment in captured(tap) for one in pipeline().results(segment, START)] for tap in taps}
    common = [("Paid", {"amount": 9.5}), ("Rounded", {"amount": 10}), ("Paid Or Not", {"amount": 9.5})]
    end = [("Paid", {"amount": 7}), ("Rounded", {"amount": 7})]
    assert told(found["wal2json"]) == [
        *common,
        ("Paid", "special_value", "properties.amount"),
        ("Rounded", "special_value", "properties.amount"),
        ("Paid Or Not", {"amount": None}),
        ("Paid", "special_value", "properties.amount"),
        ("Rounded", "special_value", "properties.amount"),
        *end,
    ]
    assert told(found["pgoutput"])[3] == ("Paid", {"amount": "NaN"})
    assert [one.message_id for one in found["wal2json"] if isinstance(one, Event)][:3] == [
        one.message_id for one in found["pgoutput"] if isinstance(one, Event)
    ][:3]
