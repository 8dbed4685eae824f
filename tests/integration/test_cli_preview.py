"""`preview`, and `status` as one watches it, against real servers."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.folder import Run, deliver_everything, events
from tests.postgres import Database


@contextlib.contextmanager
def later(database: Database, statement: str) -> Iterator[None]:
    """The statement, again and again, until something has seen it: a preview takes a moment to open its slot."""
    done = threading.Event()

    def write() -> None:
        while not done.wait(0.3):
            database.execute(statement)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(60)


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


@pytest.mark.servers("pg18")
def test_preview_outlasts_a_server_that_has_nothing_to_send(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init", "--url", database.url)
    monkeypatch.setattr("cdc_tracker.sources.postgres.replication.SILENCE", 0.5)
    assert "0 changes" in run("preview", "--seconds", "6").output


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
