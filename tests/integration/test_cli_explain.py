"""`explain`, `events` and mappings that never match, with a real server and a worker that is killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.printable import printable
from tests.crash.scene import JSONL
from tests.hostile import TEXTS
from tests.postgres import Database
from tests.worker import ROOT, Worker, end, until

SCHEMA = """
CREATE SCHEMA shop;
CREATE TYPE shop.plan AS ENUM ('basic', 'pro');
CREATE TABLE shop.orders (id bigint PRIMARY KEY, user_id bigint NOT NULL, status text, amount numeric(12, 2), email text,
                          "Ship To" text, plan shop.plan, details jsonb, note text);
ALTER TABLE shop.orders REPLICA IDENTITY FULL;
CREATE TABLE shop.parcels (id bigint PRIMARY KEY, status text);
"""
MAPPING = """
version: 1
events:
  - name: Order Completed
    table: shop.orders
    on: [insert, update]
    when: |
      new.status == 'complete' and old.status != 'complete'
      and (length(new.details['email']) > 100 or new.email is None or new.status == 'complete')
    user_id: new.user_id
    properties:
      order_id: new.id
      total: {value: new.amount, type: number, maximum: 100}
      contact: {value: new."Ship To", pii: true}
      plan: new.plan
  - name: Parcel Returned
    table: shop.parcels
    on: [insert, update]
    when: new.status == 'returned'
    user_id: string(new.id)
""".replace('new."Ship To"', "\"new['Ship To']\"")
SECRETS = ("ada@example.com", "Secret Lane", "+49 170 1234567")
ORDERS = """
INSERT INTO shop.orders SELECT n, 3, 'pending', 9.50, 'ada@example.com', 'Secret Lane 1', 'pro',
    '{"email": "ada@example.com", "phone": "+49 170 1234567", "sku": "A"}' FROM generate_series(1, 100) n;
UPDATE shop.orders SET status = 'completed' WHERE id <= 90;
UPDATE shop.orders SET status = 'complete' WHERE id IN (91, 92);
UPDATE shop.orders SET status = 'complete', amount = 500 WHERE id = 93;
"""


class Shop:
    """A worker's folder beside a database, and the commands run in it."""

    def __init__(self, database: Database, folder: Path, plugin: str = "auto", **parts: Any) -> None:
        database.execute(SCHEMA)
        self.database = database
        slot = f"s_{database.name}"
        destinations = {"events": JSONL, "other": {**JSONL, "path": "out/other.jsonl", "sent_ledger": "30d"}}
        self.worker = Worker(
            folder, url=database.url, mapping=MAPPING, plugin=plugin, slot=slot, destinations=destinations, **parts
        )
        self.mapping = folder / "mappings" / "events.yml"
        self.worker.call("setup", "--yes")

    def explain(self, *arguments: str) -> dict[str, Any]:
        [found] = json.loads(self.worker.call("explain", *arguments, "--json"))["mappings"]
        assert isinstance(found, dict)
        return found

    def journaled(self, changes: int) -> None:
        until(lambda: self.explain("Order Completed", "--limit", "0")["changes"] >= changes, "all changes are journaled")

    def stages(self) -> set[str]:
        shown = self.explain("Order Completed")["shown"]
        return {fate["stage"] for each in shown if each["outcome"] == "event" for fate in each["destinations"]}

    @contextmanager
    def following(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        command = self.worker.command("events", "--follow", *arguments)
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            yield process
        finally:
            end(process, signal.SIGKILL)


def line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The next line of standard output, waited for within a minute."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready, "it prints nothing"
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


@pytest.mark.servers("pg15", "pg18")
def test_explain_says_which_part_was_false_and_where_the_events_got_to(database: Database, plugin: str, tmp_path: Path) -> None:
    shop = Shop(database, tmp_path, plugin)
    process = shop.worker.start()
    database.execute(ORDERS)
    shop.journaled(193)
    end(process, signal.SIGKILL)
    found = shop.explain("Order Completed", "--limit", "1000")
    assert found["summary"] == (
        "193 changes, 190 not new.status == 'complete', 1 rejected as above_maximum (properties.total), 2 events"
    )
    typo = next(each for each in found["shown"] if each["op"] == "update" and each["outcome"] == "condition")
    assert typo["not"] == "new.status == 'complete'"
    assert typo["values"]["new.status"] == "completed"
    assert typo["values"]["new.details"] == {"sku": "A", "email": "•••", "phone": "•••"}
    texts = [shop.worker.call("explain", "Order Completed", "--limit", "1000"), json.dumps(found, ensure_ascii=False)]
    texts += [shop.worker.call("events", "--limit", "100", *json_) for json_ in ((), ("--json",))]
    for text in texts:
        assert not [secret for secret in SECRETS if secret in text], "a personal value is shown"
        assert "•••" in text
    assert "properties.contact" in texts[2]
    with shop.worker.running():
        until(lambda: shop.stages() <= {"passed", "sent"}, "both destinations have both events")
        rejected = next(each for each in shop.explain("Order Completed")["shown"] if each["outcome"] == "rejected")
        assert {each["stage"] for each in rejected["destinations"]} == {"parked"}
    fates = shop.explain("Order Completed", "--key", "id=91")["shown"][-1]["destinations"]
    sent = {fate["destination"]: fate["stage"] for fate in fates}
    assert sent == {"events": "passed", "other": "sent"}
    ledger = json.loads(shop.worker.call("ledger", "--by", "mapping", "--destination", "events", "--json"))
    counted = {row["mapping"]: row["matched"] for row in ledger}
    assert counted == {"Order Completed": 3, "Parcel Returned": 0}
    [event] = [each for each in shop.worker.events() if each["properties"]["order_id"] == 91]
    shown = shop.explain("Order Completed", "--lsn", event["context"]["source"]["lsn"])["shown"]
    assert [each["message_id"] for each in shown if each["outcome"] == "event"] == [event["messageId"]]


@pytest.mark.servers("pg15")
def test_hostile_and_huge_rows_are_explained_safely(database: Database, tmp_path: Path) -> None:
    shop = Shop(database, tmp_path)
    rows = [text for text in TEXTS.values() if "\0" not in text]
    with shop.worker.running():
        for number, text in enumerate(rows):
            with database.server.connect(database.name) as connection:
                insert = "INSERT INTO shop.orders (id, user_id, status, note) VALUES (%s, 3, %s, %s)"
                connection.execute(insert, [number, text, text])
        database.execute("INSERT INTO shop.orders (id, user_id, status, note) VALUES (1000, 3, repeat('é', 9000000), 'x')")
        shop.journaled(len(rows) + 1)
    told = shop.worker.call("explain", "Order Completed", "--limit", "1000")
    assert told == printable(told)
    assert max(map(len, told.splitlines())) < 300
    found = shop.explain("Order Completed", "--limit", "1000")
    *others, huge = found["shown"]
    assert [each["values"]["new.status"] for each in others] == rows
    assert (huge["reason"], huge["failed"][0]["part"]) == ("value_too_large", "new.status == 'complete'")
    assert "source.max_row" in huge["missing"]["new.status"]


@pytest.mark.servers("pg15")
def test_events_follows_the_journal_until_it_is_interrupted_or_nobody_reads(database: Database, tmp_path: Path) -> None:
    shop = Shop(database, tmp_path)
    complete = "INSERT INTO shop.orders (id, user_id, status, amount) VALUES ({0}, 3, 'complete', 1)"
    with shop.worker.running(), shop.following("Order Completed", "--json") as following:
        for number in range(3):
            database.execute(complete.format(number))
            assert line(following)["row"]["new"]["id"] == number
        following.send_signal(signal.SIGINT)
        output, errors = following.communicate(timeout=60)
        assert (following.returncode, output, errors) == (0, b"", b"")
    words = " ".join(shop.worker.command("events", "--from", "earliest", "--follow", "--json"))
    piped = subprocess.Popen(["bash", "-c", f"{words} | head -n 1"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert json.loads(piped.stdout.readline())["row"]["new"]["id"] == 0  # type: ignore[union-attr]
        with shop.worker.running():
            deadline = time.monotonic() + 60
            while piped.poll() is None and time.monotonic() < deadline:
                database.execute(complete.format(time.time_ns()))
                time.sleep(0.2)
        assert piped.communicate(timeout=60)[1] == b"", "it ends without complaint when its reader has gone"
    finally:
        end(piped, signal.SIGKILL)


@pytest.mark.servers("pg15")
def test_events_of_the_outbox_are_shown_and_explain_refuses_its_table(database: Database, tmp_path: Path) -> None:
    shop = Shop(database, tmp_path, source={"outbox": {}})
    with shop.worker.running():
        database.execute("""
            SELECT cdc_tracker.track('Said', 'u-1', '{"email": "ada@example.com", "plan": "pro"}');
            INSERT INTO cdc_tracker.outbox (event, user_id, properties) VALUES ('Written', 'u-2', '{"phone": "+49 170 1234567"}');
            INSERT INTO shop.orders (id, user_id, status, amount) VALUES (1, 3, 'complete', 1)
        """)
        until(lambda: len(shop.worker.call("events", "--json").splitlines()) == 3, "all three are journaled")
    said, written = map(json.loads, shop.worker.call("events", "outbox", "--json").splitlines())
    assert (said["event"]["event"], said["event"]["properties"], said["row"]["new"]) == (
        "Said",
        {"email": "•••", "plan": "pro"},
        None,
    )
    assert (written["event"]["properties"], written["row"]["new"]["properties"]) == ({"phone": "•••"}, {"phone": "•••"})
    assert "+49" not in shop.worker.call("events")
    shop.mapping.write_text(MAPPING.replace("shop.parcels", "cdc_tracker.outbox").replace("new.status == 'returned'", "True"))
    refused = shop.worker.ended("explain", "Parcel Returned")
    assert (refused.returncode, "cdc_tracker.outbox is the outbox" in refused.stderr) == (3, True)


@pytest.mark.servers("pg15")
def test_a_mapping_that_never_matched_is_named_until_it_does(database: Database, tmp_path: Path) -> None:
    shop = Shop(database, tmp_path)

    def never() -> dict[str, str]:
        found: dict[str, str] = json.loads(shop.worker.ended("status", "--json").stdout)["never_matched"]
        return found

    with shop.worker.running() as process:
        until(lambda: never().keys() == {"Order Completed", "Parcel Returned"}, "both are in force")
        since = never()
        database.execute("INSERT INTO shop.parcels VALUES (1, 'returned'); INSERT INTO shop.orders (id, user_id) VALUES (1, 3)")
        until(lambda: never().keys() == {"Order Completed"}, "one has matched")
        shop.mapping.write_text(MAPPING.replace("name: Parcel Returned", "name: Parcel Returned\n    key: back"))
        process.send_signal(signal.SIGHUP)
        until(lambda: never().keys() == {"Order Completed", "back"}, "another key is another mapping")
        assert never()["Order Completed"] == since["Order Completed"], "the other is in force since then"
        end(process, signal.SIGKILL)
    with shop.worker.running() as process:
        database.execute("INSERT INTO shop.parcels VALUES (2, 'returned')")
        until(lambda: never().keys() == {"Order Completed"}, "it has matched after a kill")
        assert never()["Order Completed"] == since["Order Completed"]
        shop.mapping.write_text(MAPPING[: MAPPING.index("  - name: Parcel")])
        process.send_signal(signal.SIGHUP)
        listed = ["ledger", "--mapping", "back", "--json", "--since", "2020-01-01"]
        until(lambda: "unmatched_since" not in shop.worker.call(*listed), "it is not in force any more")
