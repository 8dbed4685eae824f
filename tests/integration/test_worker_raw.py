"""Raw changes and row keys, from the database to a real broker."""

from __future__ import annotations

import json
import signal
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.model import START
from cdc_tracker.pipeline import whole_changes
from cdc_tracker.pipeline.debezium_envelope import as_envelope
from tests.crash import items
from tests.crash.scene import JSONL, Scene
from tests.postgres import Database
from tests.vendors.kafka import Broker
from tests.vendors.kit import Engines
from tests.worker import Worker, end, until

SCHEMA = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id int PRIMARY KEY, user_id int, amount numeric, note text);
CREATE TABLE shop."Users" (name text PRIMARY KEY, born date);
ALTER TABLE shop."Users" REPLICA IDENTITY FULL;
"""
MAPPING = """
version: 1
events:
  - name: Order Created
    table: shop.orders
    on: [insert]
    user_id: new.user_id
    properties: {amount: {value: new.amount, type: number}}
  - name: User Removed
    table: shop.Users
    on: [delete]
    user_id: old.name
    destinations: [events]
"""
KEY_COLUMNS = {"shop.Users": ["name"]}
WORK = (  # one transaction each
    """INSERT INTO shop.orders SELECT g, 70 + g, g + 0.10, repeat(md5(g::text), 300) FROM generate_series(1, 3) g;
    INSERT INTO shop."Users" VALUES ('größe "7"', '1999-12-31');""",
    "UPDATE shop.orders SET amount = 12345678901234567.123456789 WHERE id = 1",
    "UPDATE shop.orders SET id = 20 WHERE id = 2",
    "INSERT INTO cdc_tracker.outbox (event, user_id, properties) VALUES ('Boxed', '5', '{}'); DELETE FROM cdc_tracker.outbox;",
    "SELECT cdc_tracker.track('Tracked', '6', '{}')",
    """DELETE FROM shop.orders WHERE id = 3; UPDATE shop."Users" SET born = NULL; DELETE FROM shop."Users";""",
    "TRUNCATE shop.orders",
)
ORDERS = [  # key, operation; a tombstone has none
    ({"id": 1}, "c"),
    ({"id": 2}, "c"),
    ({"id": 3}, "c"),
    ({"id": 1}, "u"),
    ({"id": 20}, "u"),
    ({"id": 2}, None),
    ({"id": 3}, "d"),
    ({"id": 3}, None),
    (None, "t"),
]
USER = {"name": 'größe "7"'}


@pytest.fixture
def broker(engines: Engines) -> Broker:
    found: Broker = engines.get("kafka")
    return found


def kafka(broker: Broker, topic: str, **more: Any) -> dict[str, Any]:
    return {"type": "kafka", "brokers": broker.url, "topic": topic, "transactional_id": topic, "start": "earliest", **more}


def worker_of(folder: Path, database: Database, plugin: str, destinations: dict[str, dict[str, Any]]) -> Worker:
    database.execute(SCHEMA)
    parts: dict[str, Any] = {"source": {"outbox": {}}, "log": {"format": "text"}}
    worker = Worker(
        folder, url=database.url, mapping=MAPPING, plugin=plugin, slot=f"s_{database.name}", destinations=destinations, **parts
    )
    worker.call("setup", "--yes")
    return worker


@contextmanager
def previewing(worker: Worker, count: int) -> Iterator[list[str]]:
    """`preview --raw` at work; its lines are there at the end, when it has shown so many changes."""
    lines: list[str] = []
    command = worker.command("preview", "--raw", "--count", str(count), "--seconds", "60")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert any("Waiting for changes" in line for line in process.stderr)
        yield lines
        lines += process.stdout.read().splitlines()


def keyed(messages: list[Any]) -> list[tuple[Any, str | None]]:
    return [
        (json.loads(message.key()) if message.key() else None, json.loads(message.value())["op"] if message.value() else None)
        for message in messages
    ]


@pytest.mark.servers("pg15", "pg18")
def test_every_operation_of_every_captured_table_arrives_as_preview_shows_it(
    database: Database, plugin: str, tmp_path: Path, broker: Broker
) -> None:
    base = f"t-{uuid.uuid4().hex[:12]}"
    topics = {table: f"{base}.{table}" for table in ("shop.orders", "shop.Users", "cdc_tracker.outbox")}
    for topic in topics.values():
        broker.make_topic(topic)
    raw = kafka(broker, base + ".{schema}.{table}", format="debezium", key_columns=KEY_COLUMNS)
    worker = worker_of(tmp_path / "w", database, plugin, {"raw": raw, "events": JSONL})
    with worker.running():
        with previewing(worker, 13) as shown:
            for work in WORK:
                database.execute(work)
        until(lambda: len(broker.messages(topics["shop.orders"])) == len(ORDERS), "the last change is there")
    found = {table: broker.messages(topic) for table, topic in topics.items()}
    assert keyed(found["shop.orders"]) == ORDERS
    assert keyed(found["shop.Users"]) == [(USER, "c"), (USER, "u"), (USER, "d"), (USER, None)]
    assert keyed(found["cdc_tracker.outbox"])[0][1] == "c"
    for table, messages in found.items():
        of_table = [line for line in shown if as_table(line) == table]
        assert [message.value().decode() for message in messages if message.value()] == of_table
    assert b"12345678901234567.123456789" in found["shop.orders"][3].value()
    names = {event["event"] for event in worker.events()}
    assert {"Order Created", "User Removed", "Boxed", "Tracked"} == names


def as_table(line: str) -> str:
    source = json.loads(line)["source"]
    return f"{source.get('schema')}.{source.get('table')}"


def delivered(worker: Worker) -> dict[str, int]:
    rows = json.loads(worker.call("ledger", "--destination", "raw", "--json"))
    return {row["mapping"]: row["delivered"] for row in rows}


@pytest.mark.servers("pg18")
def test_raw_changes_are_counted_replayed_by_table_and_their_keys_are_checked(
    database: Database, tmp_path: Path, broker: Broker
) -> None:
    topic = f"t-{uuid.uuid4().hex[:12]}"
    broker.make_topic(topic)
    worker = worker_of(tmp_path / "w", database, "pgoutput", {"raw": kafka(broker, topic, format="debezium"), "events": JSONL})
    checked = worker.ended("check").stdout
    assert "destinations.raw.key_columns: {shop.Users: [name]}" in " ".join(checked.split())
    with worker.running():
        for work in WORK:
            database.execute(work)
        until(lambda: any(op == "t" for _, op in keyed(broker.messages(topic))), "the last change is there")
        until(lambda: delivered(worker).get("raw:shop.orders") == 7, "it is counted")
        assert {"raw:shop.orders", "raw:shop.Users", "raw:cdc_tracker.outbox"} == set(delivered(worker))
        arguments = ("replay", "raw", "--from", "earliest", "--yes", "--yes-duplicates", "--json")
        assert "no table 'shop.user'" in worker.ended(*arguments, "--events", "shop.user").stderr
        told = json.loads(worker.call(*arguments, "--events", "shop.Users", "--detach"))
        assert told["by_mapping"] == {"raw:shop.Users": 3}
        until(lambda: json.loads(worker.call("jobs", "show", str(told["job"]), "--json"))["state"] == "done", "replayed")
        values = [message.value() for message in broker.messages(topic) if message.value()]
        assert sorted(map(values.count, values)) == [1] * (len(values) - 6) + [2] * 6
        refused = worker.ended(
            "diff", "--mappings", str(worker.folder / "mappings"), "--from", "earliest", "--destination", "raw"
        )
        assert "no mapping makes any difference" in refused.stderr


@pytest.mark.servers("pg18")
@pytest.mark.parametrize("mode", ["event", "debezium"])
def test_killed_workers_leave_each_change_once_and_in_the_order_of_its_row(
    database: Database, tmp_path: Path, broker: Broker, mode: str
) -> None:
    topic = f"t-{uuid.uuid4().hex[:12]}"
    broker.make_topic(topic, partitions=3)
    settings = kafka(broker, topic, key="row", format=mode, key_columns={"shop.items": ["id"]})
    scene = Scene(database, tmp_path / "w", "auto", {"kafka": settings})
    scene.tune(**{"delivery.loop__READ": 1, "delivery.loop__COMMIT": 0})
    with items.writing(database, writers=2, pause=0.1):
        for _ in range(4):
            with scene.running() as process:
                before = scene.checkpoint("kafka").position
                until(lambda b=before: scene.checkpoint("kafka").position > b, "it delivers")  # type: ignore[misc]  # bound now
                end(process, signal.SIGKILL)
    mark = items.mark(database)
    with scene.running(), scene.stores() as (_, journal):
        until(lambda: _holds(broker, topic, mark), f"the mark {mark}", pause=0.5)
        segments = journal.read(START, 1_000_000)
    changes = [json.loads(as_envelope(change, database.name)) for segment in segments for change in whole_changes(segment)]
    messages = [(message.key(), message.value() and json.loads(message.value())) for message in broker.messages(topic)]
    tombstones = sum(value is None for _, value in messages)
    assert tombstones == (sum(change["op"] == "d" for change in changes) if mode == "debezium" else 0)
    assert tombstones or mode == "event"
    assert _by_row((key, _source(value)) for key, value in messages if value) == _by_row(
        (b'{"id":%d}' % (change["after"] or change["before"])["id"], change["source"]) for change in changes
    )


def _source(value: dict[str, Any]) -> Any:
    return value["source"] if "source" in value else value["context"]["source"]


def _by_row(pairs: Iterable[tuple[bytes, Any]]) -> dict[bytes, list[Any]]:
    found: dict[bytes, list[Any]] = {}
    for key, source in pairs:
        found.setdefault(key, []).append(source)
    return found


def _holds(broker: Broker, topic: str, mark: int) -> bool:
    return any(b'"n":%d' % mark in (message.value() or b"") for message in broker.messages(topic))
