"""The command line against real servers, as a person uses it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cdc_tracker.cli import cli
from cdc_tracker.config import load
from cdc_tracker.model import Position
from cdc_tracker.state import SourceRecord, State
from tests.postgres import Database

SCHEMA = """
CREATE SCHEMA shop;
CREATE TYPE shop.plan AS ENUM ('basic', 'pro');
CREATE TABLE shop.users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text,
                         plan shop.plan NOT NULL DEFAULT 'basic');
ALTER TABLE shop.users REPLICA IDENTITY FULL;
CREATE TABLE shop.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint NOT NULL,
                          status text NOT NULL DEFAULT 'pending', total numeric(12, 2) NOT NULL, placed timestamptz);
CREATE TABLE shop.tags (name text PRIMARY KEY);
"""
Run = Callable[..., Result]


@pytest.fixture
def place(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder beside a database with a small shop."""
    for name in [*os.environ]:
        if name.startswith("CDC_TRACKER_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("CDC_TRACKER_HTTP__PORT", "null")
    monkeypatch.setenv("CDC_TRACKER_SOURCE__SLOT", database.name)  # slots are the server's, which tests share
    monkeypatch.chdir(tmp_path)
    database.execute(SCHEMA)
    return tmp_path


@pytest.fixture
def run(place: Path) -> Run:
    def invoke(*arguments: str, code: int = 0, typed: str = "") -> Result:
        told = CliRunner().invoke(cli, arguments, input=typed, prog_name="cdc-tracker")
        assert told.exit_code == code, told.output
        return told

    return invoke


@pytest.fixture
def ready(run: Run, database: Database) -> Run:
    """After `init` and `setup`."""
    run("init", "--url", database.url)
    run("setup")
    return run


@contextlib.contextmanager
def running_worker() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "cdc_tracker", "run"], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def events(place: Path) -> list[dict[str, Any]]:
    files = sorted(place.glob("events-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def opened(place: Path) -> State:
    return State.open(load(place / "cdc-tracker.yml").state_url)


def record_of(place: Path) -> SourceRecord:
    with opened(place) as state:
        record = state.source("main")
    assert record is not None
    return record


def deliver_everything(place: Path, count: int) -> None:
    """Run the worker until so many events have arrived and their checkpoint is stored."""
    with running_worker():
        wait_for(lambda: len(events(place)) >= count)


# init


@pytest.mark.servers("pg15", "pg18")
def test_what_init_writes_loads_and_passes_check(run: Run, place: Path, database: Database) -> None:
    told = run("init", "--url", database.url)
    assert "cdc-tracker setup" in told.output
    assert sorted(path.name for path in (place / "mappings").iterdir()) == ["orders.yml", "tags.yml", "users.yml"]
    mappings = load(place / "cdc-tracker.yml").load_mappings()
    assert mappings.keys() == ["Order Created", "User Created", "User Plan Changed"]
    assert "Nothing would stop a run" in run("check").output
    run("setup")
    assert "Nothing would stop a run" in run("check").output


@pytest.mark.servers("pg18")
def test_init_leaves_personal_columns_and_unlogged_old_values_as_comments(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    users = (place / "mappings" / "users.yml").read_text()
    assert "# email: {value: new.email, type: string}" in users
    assert "when: new.plan != old.plan" in users
    orders = (place / "mappings" / "orders.yml").read_text()
    assert "ALTER TABLE shop.orders REPLICA IDENTITY FULL;" in orders
    assert "events: []" in (place / "mappings" / "tags.yml").read_text()


@pytest.mark.servers("pg18")
def test_what_init_commented_out_holds_once_it_is_taken_in(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    path = place / "mappings" / "orders.yml"
    head, _, commented = path.read_text().partition("  # - name: Order Status Changed\n")
    lines = ["  - name: Order Status Changed", *(f"  {line.removeprefix('  # ')}" for line in commented.splitlines())]
    path.write_text(head + "\n".join(lines) + "\n")
    assert "REPLICA IDENTITY FULL" in run("check", code=1).output
    database.execute("ALTER TABLE shop.orders REPLICA IDENTITY FULL")
    run("check")


@pytest.mark.servers("pg18")
def test_init_maps_odd_names(run: Run, place: Path, database: Database) -> None:
    database.execute(
        'CREATE TABLE shop."Odd Table" ("User Id" int PRIMARY KEY, "class" text, "it\'s ""x"": #1" text, "état" text, '
        "user_id int NOT NULL, doubled int GENERATED ALWAYS AS (user_id * 2) STORED, raw bytea, body jsonb, list int[]);"
        'CREATE SCHEMA crm; CREATE TABLE crm.orders (id int PRIMARY KEY, customer_id uuid, "ORDER" text);'
    )
    run("init", "--url", database.url)
    mappings = load(place / "cdc-tracker.yml").load_mappings()
    assert {"Odd Table Created", "Crm Order Created", "Shop Order Created"} <= set(mappings.keys())
    [odd] = mappings.for_table("shop.Odd Table")
    assert {"User Id", "class", 'it\'s "x": #1', "état", "body", "list"} <= set(odd.new_columns)
    assert not {"doubled", "raw"} & set(odd.new_columns)
    run("check")


@pytest.mark.servers("pg18")
def test_init_overwrites_only_when_told_to(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url, "--schema", "shop")
    config = place / "cdc-tracker.yml"
    config.write_text("mine")
    told = run("init", "--url", database.url, code=2)
    assert "exist already, and nothing was written" in told.output
    assert config.read_text() == "mine"
    run("init", "--url", database.url, "--force")
    assert config.read_text() != "mine"
    assert "There are: shop" in run("init", "--url", database.url, "--schema", "sales", "--force", code=3).output


# check


@pytest.mark.servers("pg18")
def test_check_finds_what_would_stop_a_run(run: Run, place: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init", "--url", database.url)
    path = place / "mappings" / "orders.yml"
    path.write_text(path.read_text().replace("new.total", "new.totall"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("CDC_TRACKER_HTTP__PORT", str(taken.getsockname()[1]))
        config = place / "cdc-tracker.yml"
        hook = "  hook: {type: webhook, url: 'http://127.0.0.1:1/', secret: ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw']}\n"
        config.write_text(config.read_text().replace("destinations:\n", "destinations:\n" + hook))
        found = json.loads(run("check", "--json", code=1).output)
    errors = [f"{each['where']} {each['key']} {each['message']}" for each in found["findings"] if each["severity"] == "error"]
    assert not found["ok"]
    assert len(errors) == 3
    assert any("has no column 'totall'; did you mean 'total'" in error for error in errors)
    assert any("destinations.hook" in error for error in errors)
    assert any("http port" in error for error in errors)
    assert "whsec_" not in json.dumps(found)


@pytest.mark.servers("pg18")
def test_check_tells_every_mistake_in_the_configuration(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    config = place / "cdc-tracker.yml"
    config.write_text(config.read_text().replace("data_dir:", "datadir:"))
    told = run("check", code=1)
    assert "datadir: is not a known key; did you mean 'data_dir'?" in " ".join(told.output.split())


@pytest.mark.servers("pg18")
def test_check_says_that_the_server_is_away(run: Run, place: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init", "--url", database.url)
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:open-sesame@127.0.0.1:1/shop")
    for command in ("check", "setup", "status", "teardown"):
        told = CliRunner().invoke(cli, [command, *(["--yes"] if command == "teardown" else [])])
        assert told.exit_code in {1, 3}
        assert "sesame" not in told.output
        assert "Traceback" not in told.output


# setup and teardown


@pytest.mark.servers("pg15", "pg18")
def test_setup_makes_everything_once(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    told = run("setup")
    assert "cdc_tracker.outbox" in told.output
    record = record_of(place)
    assert record.system_id == database.value("SELECT system_identifier::text FROM pg_control_system()")
    assert (record.database, record.slot, record.epoch) == (database.name, database.name, 1)
    with opened(place) as state:
        checkpoint = state.checkpoint("main", "events")
    assert checkpoint is not None
    assert checkpoint.position == Position(record.created_lsn, -1)
    assert f"{database.name}: is there" in run("setup").output
    assert record_of(place) == record


@pytest.mark.servers("pg18")
def test_setup_keeps_up_with_the_mappings_and_destinations(ready: Run, place: Path, database: Database) -> None:
    database.execute("CREATE TABLE shop.carts (id int PRIMARY KEY, user_id int NOT NULL)")
    text = "version: 1\nevents:\n  - {name: Cart Created, table: shop.carts, user_id: new.user_id}\n"
    (place / "mappings" / "carts.yml").write_text(text)
    assert "shop.carts" in ready("check", code=1).output
    config = place / "cdc-tracker.yml"
    config.write_text(config.read_text().replace("destinations:\n", "destinations:\n  more: {type: memory}\n"))
    told = ready("setup").output
    assert "shop.carts" in told
    assert "checkpoint    more: at " in told
    ready("check")


@pytest.mark.servers("pg15", "pg18")
def test_the_printed_sql_is_what_setup_would_have_run(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    script = run("setup", "--print-sql").output
    assert database.value("SELECT count(*) FROM pg_publication") == 0
    with database.connect() as connection:
        for statement in split(script):
            connection.execute(statement.encode())
    assert "adopt" in run("setup", code=3).output
    run("setup", "--adopt", "--yes")
    run("check")


def split(script: str) -> Iterator[str]:
    """The slot cannot be made in a transaction that has written, as several statements in one go would be."""
    before, marker, slot = script.partition("-- 3. the slot")
    assert marker
    yield before
    yield marker + slot


@pytest.mark.servers("pg18")
def test_a_table_that_cannot_be_captured_stops_setup_before_the_slot(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    database.execute("CREATE TABLE shop.log (user_id int, what text)")
    text = "version: 1\nevents:\n  - {name: Log Changed, table: shop.log, on: update, user_id: new.user_id}\n"
    (place / "mappings" / "log.yml").write_text(text)
    told = run("setup", code=3)
    assert "REPLICA IDENTITY FULL" in told.output
    assert database.value(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{database.name}'") == 0


@pytest.mark.servers("pg18")
def test_a_dropped_slot_is_made_anew_only_when_told_to(ready: Run, place: Path, database: Database) -> None:
    before = record_of(place)
    database.execute(f"SELECT pg_drop_replication_slot('{database.name}')")
    assert "`cdc-tracker repair`" in ready("setup", code=3).output
    assert "`cdc-tracker repair`" in ready("check", code=1).output
    assert "does not exist on the server" in ready("status", code=1).output
    assert "Make the slot" in ready("setup", "--recreate-slot", code=1, typed="n\n").output
    ready("setup", "--recreate-slot", "--yes")
    after = record_of(place)
    assert after.namespace == before.namespace
    assert after.created_lsn > before.created_lsn
    ready("check")


@pytest.mark.servers("pg18")
def test_a_lost_state_store_is_made_good_by_adopting_the_slot(ready: Run, place: Path, database: Database) -> None:
    before = record_of(place)
    (place / "data" / "state.sqlite").unlink()
    assert "--adopt" in ready("setup", code=3).output
    ready("setup", "--adopt", "--yes")
    assert record_of(place) == before
    assert "nothing to adopt" in ready("setup", "--adopt", "--yes", code=3).output


@pytest.mark.servers("pg18")
def test_a_new_epoch_begins_with_new_ids_and_clean_checkpoints(ready: Run, place: Path, database: Database) -> None:
    database.execute("INSERT INTO shop.users (email) VALUES ('a')")
    deliver_everything(place, 1)
    before = record_of(place)
    ready("setup", "--new-epoch", "--yes")
    after = record_of(place)
    assert (after.epoch, before.epoch) == (2, 1)
    assert after.namespace != before.namespace
    ready("check")
    database.execute("INSERT INTO shop.users (email) VALUES ('b')")
    deliver_everything(place, 2)
    first, second = events(place)
    assert (first["userId"], second["userId"]) == ("1", "2")


@pytest.mark.servers("pg18")
def test_a_lost_journal_is_given_up_by_accepting_the_gap(ready: Run, place: Path, database: Database) -> None:
    """As after `ack: journaled`, where the slot is past what was delivered: here it is moved past it."""
    assert "no gap" in ready("setup", "--accept-gap", "--yes", code=3).output
    database.execute("INSERT INTO shop.users (email) VALUES ('a')")
    deliver_everything(place, 1)
    database.execute("INSERT INTO shop.users (email) VALUES ('lost')")
    for file in (place / "data").glob("journal.sqlite*"):
        file.unlink()
    database.execute(f"SELECT pg_replication_slot_advance('{database.name}', pg_current_wal_lsn())")
    with opened(place) as state:
        end = int(str(database.value("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")))
        state.confirm("main", end, end)
    assert "`cdc-tracker repair`" in ready("setup", code=3).output
    ready("setup", "--accept-gap", "--yes")
    ready("check")
    database.execute("INSERT INTO shop.users (email) VALUES ('b')")
    deliver_everything(place, 2)
    assert [event["userId"] for event in events(place)] == ["1", "3"]


@pytest.mark.servers("pg15", "pg18")
def test_teardown_removes_what_setup_made(ready: Run, place: Path, database: Database) -> None:
    told = ready("teardown", code=1, typed="n\n")
    assert "Remove the slot" in told.output
    ready("check")
    ready("teardown", "--yes")
    assert database.value("SELECT count(*) FROM pg_publication") == 0
    assert database.value(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{database.name}'") == 0
    assert database.value("SELECT to_regclass('cdc_tracker.outbox') IS NOT NULL") is True
    with opened(place) as state:
        assert state.source("main") is None
    ready("setup")
    ready("teardown", "--yes", "--drop-outbox")
    assert database.value("SELECT to_regclass('cdc_tracker.outbox') IS NULL") is True


# run, status, rewind, ledger


@pytest.mark.servers("pg15", "pg18")
def test_the_way_of_a_change_from_run_to_rewind(ready: Run, place: Path, database: Database) -> None:
    with running_worker():
        database.execute("INSERT INTO shop.users (email) VALUES ('a'), ('b'); UPDATE shop.users SET plan = 'pro' WHERE id = 1")
        database.execute("SELECT cdc_tracker.track('Hello', '7')")
        wait_for(lambda: len(events(place)) == 4)
        wait_for(lambda: not json.loads(CliRunner().invoke(cli, ["status", "--json"]).output)["problems"])
        seen = json.loads(ready("status", "--json").output)
        assert seen["slot"]["active_pid"]
        assert {role["role"] for role in seen["roles"]} == {"capture", "deliver:events"}
        assert "all is well" in ready("status").output
        assert "running" in ready("teardown", "--yes", code=3).output
        ready("check")
        ready("setup")

        plan = json.loads(ready("rewind", "events", "--to", "earliest", "--dry-run", "--json").output)
        assert plan["by_mapping"] == {"User Created": 2, "User Plan Changed": 1, "outbox": 1}
        told = ready("rewind", "events", "--to", "earliest", "--yes", "--yes-duplicates").output
        assert "4 events would go again" in told
        assert "The running worker goes back at once" in told
        wait_for(lambda: len(events(place)) == 8)
    made = events(place)
    assert made[:4] == made[4:]
    [row] = [row for row in json.loads(ready("ledger", "--json").output) if row["mapping"] == "User Created"]
    assert (row["matched"], row["delivered"], row["replayed"], row["pending"]) == (2, 2, 2, 0)
    assert "capture is stopped" in ready("status", code=1).output


@pytest.mark.servers("pg18")
def test_a_rewind_without_a_worker_waits_for_the_next_run(ready: Run, place: Path, database: Database) -> None:
    database.execute("INSERT INTO shop.users (email) VALUES ('a')")
    deliver_everything(place, 1)
    assert "1 event would go again" in ready("rewind", "events", "--to", "earliest", "--dry-run").output
    with opened(place) as state:
        checkpoint = state.checkpoint("main", "events")
        assert checkpoint is not None
        assert checkpoint.rewind_to is None
    assert ready("rewind", "events", "--to", "earliest", code=1, typed="n\n").exit_code == 1
    assert "when `cdc-tracker run` starts" in ready("rewind", "events", "--to", "earliest", "--yes", "--yes-duplicates").output
    deliver_everything(place, 2)
    assert [event["messageId"] for event in events(place)] == [events(place)[0]["messageId"]] * 2


@pytest.mark.servers("pg18")
def test_a_rewind_to_a_time_begins_with_the_first_commit_from_then_on(ready: Run, place: Path, database: Database) -> None:
    database.execute("INSERT INTO shop.users (email) VALUES ('before')")
    database.execute("SELECT pg_sleep(0.01)")
    between = str(database.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"))
    database.execute("INSERT INTO shop.users (email) VALUES ('after'), ('after')")
    deliver_everything(place, 3)
    plan = json.loads(ready("rewind", "events", "--to", between, "--dry-run", "--json").output)
    assert plan["events"] == 2
    lsn = plan["to"]
    assert json.loads(ready("rewind", "events", "--to", lsn, "--dry-run", "--json").output)["events"] == 2


@pytest.mark.servers("pg18")
def test_a_rewind_beyond_the_journal_is_refused_with_the_horizon(ready: Run, place: Path, database: Database) -> None:
    assert "journal is empty" in ready("rewind", "events", "--to", "earliest", code=3).output
    database.execute("INSERT INTO shop.users (email) VALUES ('a')")
    deliver_everything(place, 1)
    first = json.loads(ready("status", "--json", code=1).output)["journal"]
    for target in ("30d", "0/1"):
        told = ready("rewind", "events", "--to", target, "--yes", code=3).output
        assert first["first"] in told
        assert first["first_time"] in told
    assert "only goes back" in ready("rewind", "events", "--to", "FFFF/0", "--yes", code=3).output
    assert "did you mean 'events'" in ready("rewind", "event", "--to", "1h", code=2).output
    assert len(events(place)) == 1


@pytest.mark.servers("pg18")
def test_a_dead_letter_is_delivered_once_its_mapping_is_mended(ready: Run, place: Path, database: Database) -> None:
    path = place / "mappings" / "orders.yml"
    whole = path.read_text()
    path.write_text(whole.replace("{value: new.total, type: number}", "{value: new.total, type: number, maximum: 10}"))
    database.execute("INSERT INTO shop.orders (user_id, total) VALUES (3, 9.50), (4, 99.90)")
    with running_worker():
        wait_for(lambda: "above_maximum" in CliRunner().invoke(cli, ["dead-letters", "list"]).output)
    [letter] = json.loads(ready("dead-letters", "list", "--json").output)
    assert (letter["mapping"], letter["field"]) == ("Order Created", "properties.total")
    shown = json.loads(ready("dead-letters", "show", str(letter["id"]), "--raw", "--json").output)
    assert shown["changes"][0]["after"]["total"] == "99.90"
    assert "99.90" in ready("dead-letters", "show", str(letter["id"]), "--raw").output
    path.write_text(whole)
    ready("dead-letters", "retry", str(letter["id"]))
    deliver_everything(place, 2)
    assert [event["properties"]["total"] for event in events(place)] == [9.5, 99.9]
    assert ready("dead-letters", "list").output == "No dead letters.\n"


# preview


@contextlib.contextmanager
def later(database: Database, statement: str) -> Iterator[None]:
    """The statement, again and again, until something has seen it: a preview takes a moment to open its slot."""
    done = threading.Event()

    def write() -> None:
        while not done.wait(0.3):
            database.execute(statement)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.mark.servers("pg15", "pg18")
def test_preview_shows_events_and_leaves_nothing_behind(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    with later(database, "INSERT INTO shop.users (email) VALUES ('a'); DELETE FROM shop.users"):
        told = run("preview", "--count", "2", "--seconds", "20", "--json")
    insert, delete = lines(told.output)
    assert (insert["op"], insert["table"], delete["op"], delete["events"]) == ("c", "shop.users", "d", [])
    assert insert["events"][0]["event"] == "User Created"
    assert "2 changes, 1 event, 0 rejected. Nothing was delivered." in told.output
    assert database.value("SELECT count(*) FROM pg_publication") == 0
    assert database.value(f"SELECT count(*) FROM pg_replication_slots WHERE database = '{database.name}'") == 0
    assert not (place / "data").exists()


@pytest.mark.servers("pg15", "pg18")
def test_preview_beside_a_set_up_source_gives_the_ids_of_a_run(ready: Run, place: Path, database: Database) -> None:
    with later(database, "INSERT INTO shop.users (email) VALUES ('a')"):
        [shown, *_] = lines(ready("preview", "--count", "1", "--seconds", "20", "--json").output)
    deliver_everything(place, 1)
    assert shown["events"][0] in events(place)


@pytest.mark.servers("pg15", "pg18")
def test_preview_raw_prints_debeziums_envelope(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    database.execute("INSERT INTO shop.users (email) VALUES ('a')")
    with later(database, "UPDATE shop.users SET plan = 'pro'; INSERT INTO shop.tags VALUES (gen_random_uuid())"):
        told = run("preview", "--raw", "--count", "1", "--seconds", "20", "--table", "shop.users")
    [envelope] = lines(told.output)
    assert set(envelope) == {"before", "after", "source", "op", "ts_ms"}
    assert envelope["after"] == {"id": 1, "email": "a", "plan": "pro"}
    assert (envelope["before"]["email"], envelope["op"], envelope["source"]["table"]) == ("a", "u", "users")


@pytest.mark.servers("pg18")
def test_preview_removes_the_publication_of_one_that_was_killed(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    database.execute("CREATE PUBLICATION cdc_tracker_preview_999999999; CREATE PUBLICATION cdc_tracker_preview_999999999_inserts")
    run("preview", "--seconds", "0.2")
    assert database.value("SELECT count(*) FROM pg_publication") == 0


@pytest.mark.servers("pg18")
def test_preview_tells_what_a_run_would_reject(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    path = place / "mappings" / "orders.yml"
    path.write_text(path.read_text().replace("{value: new.total, type: number}", "{value: new.total, type: number, maximum: 10}"))
    with later(database, "INSERT INTO shop.orders (user_id, total) VALUES (4, 99.90)"):
        told = run("preview", "--count", "1", "--seconds", "20")
    assert "✗ Order Created: above_maximum (properties.total" in told.output
    assert "1 rejected" in told.output


@pytest.mark.servers("pg18")
def test_status_watched_goes_on_until_it_is_interrupted(ready: Run, place: Path, database: Database) -> None:
    command = [sys.executable, "-m", "cdc_tracker", "status", "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert [each["destinations"][0]["rate"] for each in seen] == [0.0, 0.0]
    assert seen[1]["time"] > seen[0]["time"]
