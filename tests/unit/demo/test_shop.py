"""The shop's transactions and the oracle's SQL, on a real server."""

from __future__ import annotations

import json
import random
from collections import Counter
from importlib import resources
from pathlib import Path

import psycopg
import pytest

from cdc_tracker.demo import oracle
from cdc_tracker.demo.traffic import RolledBack, Traffic
from tests.postgres import Database

# What the till needs of the outbox; the real one is in sql/ and is used by the whole demo.
OUTBOX = """
CREATE SCHEMA cdc_tracker;
CREATE TABLE cdc_tracker.outbox (type text, event text, user_id text, properties jsonb);
CREATE FUNCTION cdc_tracker.track(text, text, jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION cdc_tracker.identify(text, jsonb) RETURNS void LANGUAGE sql AS '';
"""


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute(resources.files("cdc_tracker.demo").joinpath("schema.sql").read_text() + OUTBOX)
    return database


def _trade(shop: Database, transactions: int, seed: int = 3) -> int:
    """How many were rolled back."""
    put_back = 0
    with shop.connect() as connection:
        traffic = Traffic(connection, seed, random.Random(seed))
        for _ in range(transactions):
            try:
                traffic.transact()
            except RolledBack:
                put_back += 1
    return put_back


def _as_event(fact: oracle.Fact) -> dict[str, object]:
    said = "traits" if fact.type == "identify" else "properties"
    named = {"event": fact.name} if fact.name else {}
    told = dict(fact.properties)
    ids = {"userId": fact.user_id, "anonymousId": told.pop("anonymousId", None)}
    return {"type": fact.type, **named, **ids, said: told}


@pytest.mark.servers("pg18")
def test_the_same_seed_gives_the_same_shop(shop: Database) -> None:
    _trade(shop, 150)
    first = oracle.expected(shop.url).facts
    shop.execute("DROP SCHEMA shop CASCADE; DROP SCHEMA cdc_tracker CASCADE")
    shop.execute(resources.files("cdc_tracker.demo").joinpath("schema.sql").read_text() + OUTBOX)
    _trade(shop, 150)
    again = oracle.expected(shop.url).facts
    assert Counter(str(one) for one in first.elements()) == Counter(str(one) for one in again.elements())


@pytest.mark.servers("pg18")
def test_every_kind_of_event_happens_and_what_was_rolled_back_is_not_called_for(shop: Database) -> None:
    put_back = _trade(shop, 400)
    wanted = oracle.expected(shop.url)
    assert put_back > 0
    assert {name for _, name in wanted.telling} == {
        *("", "Signed Up", "Account Deleted", "Order Created", "Order Paid", "Order Refunded", "Product Ordered"),
        *("Subscription Started", "Subscription Renewed", "Subscription Cancelled"),
        *("Welcome Mail Sent", "Parcel Shipped", "Newsletter Opened", "Ticket Opened"),
    }
    created = sum(count for one, count in wanted.facts.items() if one.name == "Order Created")
    assert created == shop.value("SELECT count(*) FROM shop.orders")


@pytest.mark.servers("pg18")
def test_a_file_with_all_of_it_passes_and_one_without_the_last_line_does_not(shop: Database, tmp_path: Path) -> None:
    _trade(shop, 150)
    wanted = oracle.expected(shop.url)
    file = tmp_path / "events.jsonl"
    lines = [json.dumps(_as_event(one), default=float) + "\n" for one in wanted.facts.elements()]
    file.write_text("".join(lines))
    assert oracle.compare("events", wanted, oracle.in_jsonl([file])).good
    file.write_text("".join(lines[:-1]))
    assert oracle.compare("events", wanted, oracle.in_jsonl([file])).lost == 1


@pytest.mark.servers("pg18")
def test_a_text_outside_the_row_is_not_in_the_updates_of_the_shop(shop: Database) -> None:
    """What makes the demo's unchanged TOAST values real: the long texts lie in the TOAST table."""
    _trade(shop, 100)
    with psycopg.connect(shop.url) as connection:
        row = connection.execute(
            "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'shop.users'::regclass"
        ).fetchone()
    assert row is not None
    assert row[0] > 0
