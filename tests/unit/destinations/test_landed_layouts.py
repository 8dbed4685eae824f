"""Stores as the landed version wrote them, byte by byte: what is in them is taken over by the source that it belongs to."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

from cdc_tracker.model import Position
from tests.contract.kills import Holder
from tests.vendors.kafka import Broker
from tests.vendors.kit import CURSOR, Engines, Opener, batch, events, made
from tests.vendors.mariadb import MariaDb
from tests.vendors.redis import Server

HELD = Position(1_000, 1)  # of events(2)
LINES = b'{"messageId":"1"}\n{"messageId":"2"}\n'
SLOTS = (  # the second says that these lines count, the first is of before
    "63646374726b310a0000000000000002000000000000000000000000000000000000000000000000"
    "010000000000000000000000000000000000000000000000002a4f3beb",
    "63646374726b310a00000000000000030100000000000003e8000000000000000100000000000000"
    "01000000000000002400000000000000000000000000000000e071c3a2",
)


def ours(found: Position) -> bool:
    return found == HELD


@contextmanager
def bound(opener: Opener) -> Iterator[Holder]:
    with closing(cast("Holder", opener.bound(CURSOR, ours)())) as destination:
        yield destination


def gone_on(opener: Opener) -> None:
    """What is there is found by its source, which goes on from there; others find nothing."""
    with closing(cast("Holder", opener.bound(CURSOR._replace(source="orders"))())) as stranger:
        assert stranger.position() is None
    with bound(opener) as destination:
        assert destination.position() == HELD
        destination.deliver(batch(events(4)[2:]))
    with bound(opener) as destination:
        assert destination.position() == events(4)[-1].position


TABLES = [
    "CREATE TABLE tracks (message_id {key} NOT NULL, type {text} NOT NULL, event {text}, user_id {text}, anonymous_id {text}, "
    "group_id {text}, previous_id {text}, timestamp {time}, properties {text}, traits {text}, context {text}, "
    "received_at {time} DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (message_id))",
    "CREATE TABLE cdc_tracker_checkpoints (destination {key} NOT NULL, commit_lsn bigint NOT NULL, ordinal bigint NOT NULL, "
    "PRIMARY KEY (destination))",
    "INSERT INTO cdc_tracker_checkpoints VALUES ('shop', 1000, 1), ('Shop', 1, 1), ('shops', 2, 2)",
]


def test_rows_of_sqlite(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        for statement in TABLES:
            connection.execute(statement.format(key="text", text="text", time="timestamp"))
        connection.commit()
    gone_on(made("sql", tmp_path, url="sqlite:///events.db"))


def test_rows_of_mariadb(tmp_path: Path, engines: Engines) -> None:
    server: MariaDb = engines.get("mariadb")
    options = "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
    with server.fresh_database() as name:
        for statement in TABLES:
            text = statement.format(key="varchar(255)", text="longtext", time="datetime(6)").replace(
                "_TIMESTAMP", "_TIMESTAMP(6)"
            )
            server.rows(text + (f" {options}" if text.startswith("CREATE") else ""), name)
        gone_on(made("sql", tmp_path, url=server.url(name)))


def test_slots_and_lines_of_jsonl(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "shop-000001.jsonl").write_bytes(LINES)
    (out / "shop.checkpoint").write_bytes(b"".join(bytes.fromhex(slot).ljust(4096, b"\0") for slot in SLOTS))
    gone_on(made("jsonl", tmp_path, path="out"))
    assert (out / "shop-000001.jsonl").read_bytes().startswith(LINES)
    assert len((out / "shop-000001.jsonl").read_bytes().splitlines()) == 4


def test_the_log_of_parquet(tmp_path: Path) -> None:
    log = tmp_path / "lake" / "_cdc_tracker" / "shop"
    log.mkdir(parents=True)
    (log / "lock").touch()
    first: dict[str, Any] = {"sequence": 1, "token": "a", "batch": "", "position": None, "aside": "", "moves": [], "growing": {}}
    (log / "000000000001.json").write_text(json.dumps(first))
    staged = "000000000002-0-b.staged"
    path = "2026-01-02/order_paid/shop-00000000000003E8-0-2.parquet"
    second = {**first, "sequence": 2, "token": "b", "batch": "b", "position": [1000, 1], "moves": [[staged, path]]}
    (log / "000000000002.json").write_text(json.dumps(second))
    (log / staged).write_bytes(b"killed before it was moved")
    gone_on(made("parquet", tmp_path, path="lake"))
    assert (tmp_path / "lake" / path).read_bytes() == b"killed before it was moved"


def test_the_hash_of_redis(tmp_path: Path, engines: Engines) -> None:
    server: Server = engines.get("redis")
    key = f"landed-{tmp_path.name}"
    server.command("HSET", key, "token", "0a1b-7", "commit_lsn", 1000, "ordinal", 1, "aside", "")
    gone_on(made("redis", tmp_path, url=server.url, stream=f"{key}-events", state_key=key))


def test_the_record_of_kafka(tmp_path: Path, engines: Engines) -> None:
    broker: Broker = engines.get("kafka")
    topic, positions = f"landed-{tmp_path.name}", f"landed-{tmp_path.name}-positions"
    broker.make_topic(topic)
    broker.make_topic(positions)
    broker.produce(positions, b"cdc-tracker-shop", b'{"commit_lsn":1000,"ordinal":1,"aside":"","batch":"0a1b-7"}')
    gone_on(made("kafka", tmp_path, brokers=broker.url, topic=topic, checkpoint_topic=positions))
