"""`setup` and `teardown` against real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result

from cdc_tracker.model import Position
from tests.integration.folder import Run, deliver_everything, events, opened, record_of
from tests.postgres import Database


@pytest.mark.servers("pg15", "pg18")
def test_setup_makes_everything_once(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    told = run("setup")
    assert "cdc_tracker.outbox" in told.output
    record = record_of(place)
    assert record.system_id == database.value("SELECT system_identifier::text FROM pg_control_system()")
    assert (record.database, record.slot, record.epoch) == (database.name, database.name, 1)
    with opened(place) as state:
        checkpoint = state.checkpoints.get("main", "events")
    assert checkpoint is not None
    assert checkpoint.position == Position(record.created_lsn, -1)
    assert f"{database.name}: exists" in run("setup").output
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


@pytest.mark.servers("pg15", "pg18")
def test_the_printed_sql_has_old_values_logged_that_mappings_read(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    (place / "mappings" / "orders.yml").write_text(
        "version: 1\nevents:\n"
        "  - {name: Order Paid, table: shop.orders, on: update, user_id: new.user_id, when: 'changed(new.status, old.status)'}\n"
        '  - {name: Order Gone, key: "x\\nDROP TABLE shop.tags; --", table: shop.orders, on: delete, user_id: old.user_id}\n'
    )
    assert "old.status and old.user_id are not logged" in told(run("check", code=1))
    script = run("setup", "--print-sql").output
    assert f"-- Order Paid reads old.status ({place}/mappings/orders.yml:3)\n" in script
    assert script.count("REPLICA IDENTITY FULL;") == 1
    with database.connect() as connection:
        for statement in split(script):
            connection.execute(statement.encode())
    assert database.value("SELECT count(*) FROM shop.tags") == 0
    run("setup", "--adopt", "--yes")
    run("check")
    assert "REPLICA IDENTITY" not in run("setup", "--print-sql").output


def told(result: Result) -> str:
    return " ".join(result.output.split())


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
    assert "Recreates the slot" in ready("setup", "--recreate-slot", code=1, typed="n\n").output
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
        state.sources.confirm("main", end, end)
    assert "`cdc-tracker repair`" in ready("setup", code=3).output
    ready("setup", "--accept-gap", "--yes")
    ready("check")
    database.execute("INSERT INTO shop.users (email) VALUES ('b')")
    deliver_everything(place, 2)
    assert [event["userId"] for event in events(place)] == ["1", "3"]


@pytest.mark.servers("pg15", "pg18")
def test_teardown_removes_what_setup_made(ready: Run, place: Path, database: Database) -> None:
    told = ready("teardown", code=1, typed="n\n")
    assert "Removes the slot" in told.output
    ready("check")
    assert "no terminal to answer on, and nothing was changed" in ready("teardown", code=2).output
    ready("check")
    ready("teardown", "--yes")
    assert database.value("SELECT count(*) FROM pg_publication") == 0
    assert database.value(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{database.name}'") == 0
    assert database.value("SELECT to_regclass('cdc_tracker.outbox') IS NOT NULL") is True
    with opened(place) as state:
        assert state.sources.get("main") is None
    ready("setup")
    ready("teardown", "--yes", "--drop-outbox")
    assert database.value("SELECT to_regclass('cdc_tracker.outbox') IS NULL") is True
