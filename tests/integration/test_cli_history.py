"""`diff` and `rewind` against real servers, as a person uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cdc_tracker.cli import cli
from cdc_tracker.state import State
from tests.crash.scene import JSONL
from tests.postgres import Database
from tests.worker import Worker, until

SCHEMA = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id bigint PRIMARY KEY, user_id bigint NOT NULL, status text, amount numeric(12, 2), email text);
ALTER TABLE shop.orders REPLICA IDENTITY FULL;
CREATE TABLE shop.users (id bigint PRIMARY KEY, plan text);
CREATE TABLE shop.carts (id bigint PRIMARY KEY, user_id bigint);
"""
CURRENT = """
version: 1
events:
  - name: Order Placed
    table: shop.orders
    user_id: new.user_id
    properties:
      order_id: new.id
      total: {value: new.amount, type: number, maximum: 100}
      email: {value: new.email, pii: true}
  - name: Order Paid
    key: paid
    table: shop.orders
    on: [update]
    when: new.status == 'paid'
    user_id: new.user_id
    properties: {order_id: new.id}
  - name: User Created
    table: shop.users
    user_id: new.id
    destinations: [other]
"""
OTHER = {"type": "jsonl", "path": "out/other.jsonl", "fsync": False}


class Shop:
    """Orders, users and carts, what a worker journaled of them, and the command line."""

    def __init__(self, database: Database, folder: Path, plugin: str = "auto", **destination: Any) -> None:
        database.execute(SCHEMA)
        self.database, self.folder = database, folder
        self.worker = Worker(
            folder,
            url=database.url,
            mapping=CURRENT,
            plugin=plugin,
            slot=f"s_{database.name}",
            destinations={"events": {**({} if "type" in destination else JSONL), **destination}, "other": OTHER},
        )
        self.worker.call("setup", "--yes")

    def delivered(self, statement: str, events: int) -> None:
        """Run the statements, and the worker until so many events of all have arrived at `events`."""
        self.database.execute(statement)
        with self.worker.running():
            until(lambda: len(self.worker.lines()) >= events and self._settled(), "everything is delivered")

    def _settled(self) -> bool:
        ends = {str(checkpoint.position) for checkpoint in self._checkpoints()}
        return len(ends) == 1 and "0/0" not in ends

    def _checkpoints(self) -> list[Any]:
        with self.state() as state:
            return list(state.checkpoints.all("main").values())

    @contextmanager
    def state(self) -> Iterator[State]:
        with State.open(self.worker.settings.state_url) as state:
            yield state

    def counted(self, outcome: str) -> int:
        """How many events of `events` came to this."""
        with self.state() as state:
            return sum(getattr(row, outcome) for row in state.ledger.rows("main", "events"))

    def other(self, *replaced: tuple[str, str], name: str = "fixed.yml") -> str:
        """A file with other mappings: those in force with texts replaced."""
        text = CURRENT
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def diff(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.worker.call("diff", "--from", "earliest", "--json", *arguments))
        return found


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Shop:
    return Shop(database, tmp_path)


ORDERS = (
    "INSERT INTO shop.orders VALUES (1, 3, 'new', 9.50, 'a@example.com'), (2, 3, 'new', 100.01, 'b@example.com');"
    "UPDATE shop.orders SET status = 'paid' WHERE id = 1; INSERT INTO shop.users VALUES (7, 'basic')"
)
"""Order Placed once and rejected once, Order Paid once, User Created once at `other`."""


# diff


@pytest.mark.servers("pg15", "pg18")
def test_diff_shows_what_is_added_removed_and_changed_and_sends_nothing(database: Database, plugin: str, tmp_path: Path) -> None:
    shop = Shop(database, tmp_path, plugin)
    shop.delivered(ORDERS, 2)
    there = shop.worker.lines()
    fixed = shop.other(
        ("maximum: 100", "maximum: 200"), ("order_id: new.id\n", "order_id: string(new.id)\n"), ("new.status == 'paid'", "False")
    )
    found = shop.diff("--mappings", fixed)
    by_name = {each["event"]: each for each in found["events"]}
    assert {name: [each[kind] for kind in ("added", "removed", "changed", "unchanged")] for name, each in by_name.items()} == {
        "Order Placed": [1, 0, 1, 0],
        "paid": [0, 1, 0, 0],
        "User Created": [0, 0, 0, 1],
    }
    assert by_name["Order Placed"]["rejected"] == {"before": {"above_maximum": 1}, "after": {}}
    [changed] = [sample for sample in by_name["Order Placed"]["samples"] if sample["kind"] == "changed"]
    assert changed["values"] == [{"path": "properties.order_id", "old": 1, "new": "1"}]
    [added] = [sample for sample in by_name["Order Placed"]["samples"] if sample["kind"] == "added"]
    assert {"path": "properties.total", "new": 100.01} in added["values"]
    assert {"path": "properties.email", "new": "•••", "hidden": True} in added["values"]
    told = shop.worker.call("diff", "--from", "earliest", "--mappings", fixed)
    for text in ('properties.order_id  1 → "1"', "+ added", "- removed", "above_maximum (1); after: none", "Nothing was sent."):
        assert text in told
    assert "example.com" not in told
    assert shop.worker.lines() == there


@pytest.mark.servers("pg18")
def test_diff_runs_beside_the_worker_and_takes_events_destinations_and_times(shop: Shop) -> None:
    fixed = shop.other(("user_id: new.id\n", "user_id: new.id + 1\n"), ("{order_id: new.id}", "{order_id: -new.id}"))
    with shop.worker.running():
        shop.database.execute(ORDERS)
        until(lambda: len(shop.worker.lines()) >= 2, "they are delivered")
        between = str(shop.database.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"))
        shop.database.execute("UPDATE shop.orders SET amount = 10 WHERE id = 1")
        until(lambda: len(shop.worker.lines()) >= 3, "it is delivered")
        whole = shop.diff("--mappings", fixed)
        assert {each["event"]: each["changed"] for each in whole["events"]} == {"Order Placed": 0, "paid": 2, "User Created": 1}
        assert {each["event"]: each["changed"] for each in shop.diff("--mappings", fixed, "--to", between)["events"]}["paid"] == 1
        for name in ("paid", "Order Paid"):
            [paid] = shop.diff("--mappings", fixed, "--events", name)["events"]
            assert (paid["event"], paid["changed"]) == ("paid", 2)
        found = shop.diff("--mappings", fixed, "--destination", "events", "--samples", "0")["events"]
        assert ([each["event"] for each in found], [each["samples"] for each in found]) == (["Order Placed", "paid"], [[], []])
    users = shop.diff("--mappings", fixed, "--events", "User Created")["events"][0]
    assert (users["added"], users["removed"], users["changed"]) == (0, 0, 1)


@pytest.mark.servers("pg18")
def test_diff_says_what_the_journal_has_nothing_of(shop: Shop) -> None:
    shop.delivered(ORDERS, 2)
    cart = "  - {name: Cart Created, table: shop.carts, user_id: new.user_id}\n"
    gone = "  - {name: User Left, table: shop.users, on: [delete], user_id: old.id}\n"
    told = shop.worker.call("diff", "--from", "earliest", "--mappings", shop.other(("events:\n", f"events:\n{cart}{gone}")))
    assert "Cart Created: the journal has no change of shop.carts in this range. No mapping in force reads that" in told
    assert "User Left: the journal has no delete of shop.users in this range. No mapping in force reads that" in told
    assert "Both mappings make the same of it." in told


@pytest.mark.servers("pg18")
def test_diff_refuses_what_it_cannot_compare_before_it_reads(shop: Shop) -> None:
    shop.delivered(ORDERS, 2)
    fixed = shop.other()
    broken = shop.other(("new.amount", "new.amount +"), name="broken.yml")
    wrong = shop.other(("table: shop.users", "tabel: shop.users"), name="wrong.yml")
    away = shop.other(("destinations: [other]", "destinations: [othr]"), name="away.yml")
    refusals = [
        (
            ("--mappings", broken, "--mappings", wrong),
            3,
            ("broken.yml:9: events[0].properties.total", "wrong.yml:19: events[2].tabel"),
        ),
        (("--mappings", away), 3, ("away.yml:18", "did you mean 'other'")),
        (("--mappings", fixed, "--events", "Order Pad"), 2, ("did you mean 'Order Paid'",)),
        (("--mappings", fixed, "--destination", "event"), 2, ("did you mean 'events'",)),
        (("--mappings", "nowhere/"), 2, ("nowhere",)),
        (("--mappings", fixed, "--from", "yesterday"), 2, ("is not a point in history",)),
        (("--mappings", fixed, "--from", "30d"), 3, ("the journal does not reach back so far: it begins at", "`backfill`")),
        (("--mappings", fixed, "--from", "2h", "--to", "3h"), 3, ("ends before it begins",)),
    ]
    for arguments, code, texts in refusals:
        done = shop.worker.ended("diff", "--from", "earliest", *arguments)
        assert done.returncode == code, done.stderr
        for text in texts:
            assert text.lower() in done.stderr.lower()


# rewind


def _rewind(shop: Shop, *arguments: str) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(shop.worker.call("rewind", "events", "--to", "earliest", "--json", *arguments))
    return plan


def _asked_for(shop: Shop) -> bool:
    """Whether a rewind of `events` waits to be applied."""
    with shop.state() as state:
        checkpoint = state.checkpoints.get("main", "events")
    assert checkpoint is not None
    return checkpoint.rewind_to is not None


@pytest.mark.servers("pg18")
def test_a_rewind_counts_what_will_be_there_twice_and_takes_its_own_yes(shop: Shop) -> None:
    shop.delivered(ORDERS, 2)
    plan = _rewind(shop, "--dry-run")
    assert (plan["events"], plan["sent"], plan["outside_window"], plan["withheld"], plan["past_age"]) == (2, 2, 2, 0, 0)
    assert (plan["dedupe_window"], plan["age_limit"], plan["rejected_by_reason"]) == (0.0, None, {"above_maximum": 1})
    refused = shop.worker.ended("rewind", "events", "--to", "earliest", "--yes")
    assert refused.returncode == 3
    assert "2 events would be there twice" in refused.stderr
    assert "--yes-duplicates" in refused.stderr
    assert not _asked_for(shop)
    _rewind(shop, "--yes", "--yes-duplicates")
    assert _asked_for(shop)
    with shop.worker.running():
        until(lambda: len(shop.worker.lines()) == 4, "they are there again")
    assert len(set(shop.worker.lines())) == 2


@pytest.mark.servers("pg18")
def test_a_rewind_asks_by_number_and_nothing_is_changed_before_the_answers(shop: Shop) -> None:
    shop.delivered(ORDERS, 2)
    command = ["--config", str(shop.worker.config), "rewind", "events", "--to", "earliest"]
    nobody = CliRunner().invoke(cli, command)
    assert nobody.exit_code == 2 and "give --yes and --yes-duplicates" in nobody.output
    for answers, code in (("n\n", 1), ("y\nn\n", 1), ("y\ny\n", 0)):
        assert not _asked_for(shop)
        told = CliRunner().invoke(cli, command, input=answers)
        assert told.exit_code == code
        assert "Send 2 events that events may then have twice?" in told.output
    assert _asked_for(shop)


@pytest.mark.servers("pg18")
def test_a_destination_that_knows_events_again_asks_for_no_duplicates(database: Database, tmp_path: Path) -> None:
    shop = Shop(database, tmp_path, type="sql", url=f"sqlite:///{tmp_path}/events.db")
    with shop.worker.running():
        database.execute(ORDERS)
        until(lambda: shop.counted("delivered") == 2, "they are delivered")
    plan = _rewind(shop, "--yes")
    assert (plan["outside_window"], plan["dedupe_window"], plan["sent"]) == (0, None, 2)


@pytest.mark.servers("pg18")
def test_only_what_is_missing_goes_again_where_the_destination_keeps_a_sent_ledger(database: Database, tmp_path: Path) -> None:
    shop = Shop(database, tmp_path, sent_ledger="30d")
    with shop.worker.running():
        database.execute("INSERT INTO shop.orders VALUES (9, 3, 'new', 9.50, ''), (10, 3, 'new', 100.02, '')")
        until(lambda: shop.counted("delivered") == 1, "the sent-ledger begins")
        database.execute(ORDERS)
        until(lambda: (shop.counted("delivered"), shop.counted("rejected")) == (3, 2), "all are dealt with")
    mapping = tmp_path / "mappings" / "events.yml"
    mapping.write_text(CURRENT.replace("maximum: 100", "maximum: 200"))
    plan = _rewind(shop, "--only-missing", "--dry-run")
    assert (plan["events"], plan["withheld"], plan["sent"]) == (5, 3, 2)
    assert plan["outside_window"] == 1  # committed before the ledger begins: it does not know
    assert plan["sent_ledger_since"]
    refused = shop.worker.ended("rewind", "events", "--to", "earliest", "--only-missing", "--yes")
    assert refused.returncode == 3
    assert "the sent-ledger does not reach back so far" in refused.stderr
    plan = _rewind(shop, "--only-missing", "--yes", "--yes-duplicates")
    assert plan["only_missing"]
    with shop.worker.running():
        until(lambda: len(shop.worker.lines()) == 5, "those that were rejected are there")
        until(lambda: not _asked_for(shop), "it is applied")
    assert len({event["messageId"] for event in shop.worker.events()}) == 5


@pytest.mark.servers("pg18")
def test_without_a_sent_ledger_nobody_knows_what_is_missing(shop: Shop) -> None:
    shop.delivered(ORDERS, 2)
    done = shop.worker.ended("rewind", "events", "--to", "earliest", "--only-missing", "--yes")
    assert done.returncode == 3
    assert "keeps no sent-ledger" in done.stderr
    assert "destinations.events.sent_ledger" in done.stderr
    assert not _asked_for(shop)
