"""Workers whose destinations hold their checkpoints: two sources, what is taken back or removed under them, an upgrade."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.scene import JSONL, Scene, sql
from tests.postgres import Database, Server, fresh_database
from tests.worker import until

pytestmark = pytest.mark.servers("pg18")  # no server makes a difference to what comes after the mapping


def rows(file: Path, query: str = "SELECT message_id FROM tracks") -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        try:
            return [row[0] for row in connection.execute(query)]
        except sqlite3.OperationalError:  # not made yet
            return []


@contextmanager
def counted(scene: Scene, destination: str, number: int) -> Iterator[None]:
    """After so many rows more, which the destination has, and the state knows it."""
    before = scene.ledger(destination)["delivered"]
    items.insert(scene.database, number)
    until(lambda: scene.ledger(destination)["delivered"] == before + number, f"{destination} is sent {number}")
    yield


@pytest.mark.invariant(5)
@pytest.mark.parametrize("name", ["main", "orders"])
def test_two_sources_write_to_one_destination(database: Database, pg18: Server, tmp_path: Path, plugin: str, name: str) -> None:
    """Also two of the same name, as it is where each has its own state."""
    file = tmp_path / "sql.db"
    with fresh_database(pg18) as second:
        one = Scene(database, tmp_path / "one", plugin, {"sql": sql(tmp_path)})
        other = Scene(second, tmp_path / "other", plugin, {"sql": sql(tmp_path)}, source={"name": name})
        for expected in (50, 100):
            with one.running(), other.running():
                items.insert(database, 20)
                items.insert(second, 30)
                until(lambda expected=expected: len(rows(file)) == expected, f"{expected} rows are there")  # type: ignore[misc]
    assert len(set(rows(file, "SELECT destination FROM cdc_tracker_checkpoints"))) == 2


def test_a_destination_that_is_taken_back_while_the_worker_runs_is_sent_again_what_it_lacks(
    database: Database, tmp_path: Path, plugin: str
) -> None:
    scene = Scene(database, tmp_path, plugin, {"sql": sql(tmp_path)})
    file, backup = tmp_path / "sql.db", tmp_path / "backup.db"
    with scene.running():
        with counted(scene, "sql", 50), closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        with counted(scene, "sql", 50):
            for each in tmp_path.glob("sql.db*"):
                each.unlink()
            backup.rename(file)
        items.insert(database, 10)
        until(lambda: len(rows(file)) == 110, "everything is there again")
        assert "the destination was restored: it is sent again what it lacks" in scene.worker.log
        assert "was restored" in scene.worker.call("status")


def test_files_that_are_removed_while_the_worker_runs_are_written_again(database: Database, tmp_path: Path, plugin: str) -> None:
    scene = Scene(database, tmp_path, plugin, {"events": JSONL})
    with scene.running():
        with counted(scene, "events", 50):
            shutil.rmtree(tmp_path / "out")
        items.insert(database, 10)
        until(lambda: len(scene.worker.lines()) == 60, "everything is there again")
        assert "the destination was restored: it is sent again what it lacks" in scene.worker.log
    scene.check()


def test_files_that_are_removed_while_no_worker_runs_are_missed_and_left_so(
    database: Database, tmp_path: Path, plugin: str
) -> None:
    """Somebody may have wanted that."""
    scene = Scene(database, tmp_path, plugin, {"events": JSONL})
    with scene.running(), counted(scene, "events", 50):
        pass
    shutil.rmtree(tmp_path / "out")
    with scene.running(), counted(scene, "events", 10):
        assert len(scene.worker.lines()) == 10
        assert "the destination is empty although it was sent events before" in scene.worker.log
        assert "is empty although" in scene.worker.call("status")


def test_files_of_the_landed_version_are_gone_on_with(database: Database, tmp_path: Path, plugin: str) -> None:
    scene = Scene(database, tmp_path, plugin, {"events": JSONL, "sql": sql(tmp_path)})
    with scene.running(), counted(scene, "events", 50):
        until(lambda: scene.ledger("sql")["delivered"] == 50, "the database has them")
    os.truncate(tmp_path / "out" / "events.checkpoint", 8192)  # it had two slots and nothing behind them
    with closing(sqlite3.connect(tmp_path / "sql.db")) as connection:
        connection.execute("UPDATE cdc_tracker_checkpoints SET destination = 'sql'")
        connection.commit()
    with scene.running():
        items.insert(database, 20)
        scene.await_all()
    scene.check()
    assert [path.name for path in (tmp_path / "out").glob("*.jsonl")] == ["events-000001.jsonl"]
    assert "although it was sent events before" not in scene.worker.log
