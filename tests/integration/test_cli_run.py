"""`run`, `status`, `rewind` and `ledger` against real servers."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from cdc_tracker.cli import cli
from tests.integration.folder import Run, deliver_everything, events, opened, running_worker, wait_for
from tests.postgres import Database


@pytest.mark.servers("pg15", "pg18")
def test_the_way_of_a_change_from_run_to_rewind(ready: Run, place: Path, database: Database) -> None:
    with running_worker():
        database.execute("INSERT INTO shop.users (email) VALUES ('a'), ('b'); UPDATE shop.users SET plan = 'pro' WHERE id = 1")
        database.execute("SELECT cdc_tracker.track('Hello', '7')")
        wait_for(lambda: len(events(place)) == 4)
        wait_for(lambda: not json.loads(CliRunner().invoke(cli, ["status", "--json"]).output)["problems"])
        seen = json.loads(ready("status", "--json").output)
        assert seen["slot"]["active_pid"]
        assert {role["role"] for role in seen["roles"]} == {"supervisor", "capture", "deliver:events"}
        assert "all is well" in ready("status").output
        assert "running" in ready("teardown", "--yes", code=3).output
        ready("check")
        ready("setup")

        plan = json.loads(ready("rewind", "events", "--to", "earliest", "--dry-run", "--json").output)
        assert plan["by_mapping"] == {"User Created": 2, "User Plan Changed": 1, "outbox": 1}
        told = ready("rewind", "events", "--to", "earliest", "--yes", "--yes-duplicates").output
        assert "4 events would be sent again" in told
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
    assert "1 event would be sent again" in ready("rewind", "events", "--to", "earliest", "--dry-run").output
    with opened(place) as state:
        checkpoint = state.checkpoints.get("main", "events")
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


@pytest.mark.servers("pg18")
@pytest.mark.parametrize(("readable_by", "mode"), [("owner", 0o600), ("group", 0o640), ("everyone", 0o644)])
def test_output_is_readable_as_configured_and_data_dir_by_its_owner_alone(
    ready: Run, place: Path, database: Database, readable_by: str, mode: int
) -> None:
    config = place / "cdc-tracker.yml"
    config.write_text(f"{config.read_text()}\nreadable_by: {readable_by}\n")
    database.execute("INSERT INTO shop.users (email) VALUES ('a')")
    deliver_everything(place, 1)
    written = [*place.glob("events-*.jsonl"), *place.glob("events*.checkpoint")]
    assert written and {stat.S_IMODE(path.stat().st_mode) for path in written} == {mode}
    for path in [place / "data", *(place / "data").rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert "is open to others" not in ready("check").output
    (place / "data").chmod(0o755)
    told = " ".join(ready("check").output.split())
    assert "is open to others on this machine (mode 755)" in told and "chmod 700" in told
