"""What the worker does not go on from by itself: exit code 3, and a text that says what happened and which command mends it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.scene import JSONL, Scene, segment
from tests.postgres import Database, Server, fresh_database, launch
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Answer
from tests.worker import until


def _stopped(scene: Scene, *said: str) -> str:
    """The worker ends with 3 and says all that; every command that it names exists. What it said."""
    ended = scene.worker.ended("run")
    assert ended.returncode == 3, ended.stderr
    for words in said:
        assert words in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    for command, flags in set(re.findall(r"`cdc-tracker ([a-z-]+)((?: --[a-z-]+)*)`", ended.stderr)):
        known = scene.worker.ended(command, "--help")
        assert known.returncode == 0 and all(flag in known.stdout for flag in flags.split()), f"{command}{flags} does not exist"
    return ended.stderr


def _ran(scene: Scene, rows: int = 3) -> None:
    """The worker has worked once."""
    items.insert(scene.database, rows)
    with scene.running():
        scene.await_all()


def _goes_on(scene: Scene) -> None:
    """It runs, and what is written from now on arrives."""
    with scene.running():
        n = items.mark(scene.database)
        for destination in scene.worker.settings.destinations:
            until(lambda to=destination: scene.has(to, n), f"{destination} has {n}")  # type: ignore[misc]


def _lose(scene: Scene, store: str) -> None:
    files = list(scene.worker.settings.data.glob(f"{store}.sqlite*"))
    assert files
    for path in files:
        path.unlink()


@pytest.fixture
def scene(database: Database, tmp_path: Path, plugin: str) -> Scene:
    return Scene(database, tmp_path, plugin, {"events": JSONL})


@pytest.mark.invariant(10)
@pytest.mark.servers("pg18")
def test_a_dropped_slot(scene: Scene) -> None:
    _ran(scene)
    scene.database.execute(f"SELECT pg_drop_replication_slot('{scene.slot}')")
    _stopped(scene, f"the replication slot {scene.slot} is gone", "`cdc-tracker repair`")
    scene.worker.call("repair", "--yes")
    _goes_on(scene)


@pytest.mark.invariant(10)
@pytest.mark.servers("pg15")
def test_a_slot_that_somebody_else_has_read_from(scene: Scene, plugin: str) -> None:
    _ran(scene)
    items.insert(scene.database, 10)
    function = "pg_logical_slot_get_binary_changes" if plugin == "pgoutput" else "pg_logical_slot_get_changes"
    options = f", 'proto_version', '1', 'publication_names', '{scene.slot}'" if plugin == "pgoutput" else ""
    assert scene.database.value(f"SELECT count(*) FROM {function}('{scene.slot}', NULL, NULL{options})")
    _stopped(scene, "recreated, or another process reads from it", "`cdc-tracker repair`")


@pytest.mark.invariant(10)
@pytest.mark.servers("pg18")
def test_a_slot_that_was_made_anew(scene: Scene, plugin: str) -> None:
    _ran(scene)
    items.insert(scene.database, 10)
    scene.database.execute(f"SELECT pg_drop_replication_slot('{scene.slot}')")
    scene.database.execute(f"SELECT pg_create_logical_replication_slot('{scene.slot}', '{plugin}')")
    _stopped(scene, "recreated, or another process reads from it", "`cdc-tracker repair`")


@pytest.mark.invariant(10)
@pytest.mark.servers("pg18")
def test_a_lost_state_store(scene: Scene) -> None:
    _ran(scene)
    _lose(scene, "state")
    _stopped(scene, "the state store knows nothing of the source", "setup --help")
    scene.worker.call("setup", "--adopt", "--yes")
    _goes_on(scene)


@pytest.mark.servers("pg18")
def test_a_lost_journal_is_read_again_from_the_slot(database: Database, tmp_path: Path) -> None:
    with SegmentServer() as vendor:
        scene = Scene(database, tmp_path, "auto", {"segment": segment(vendor)}, drain_timeout="0s")
        scene.segment = vendor
        vendor.always(Answer(503))
        items.insert(database, 20)
        with scene.running():
            until(lambda: len(vendor.requests) > 0, "the destination was tried")
        _lose(scene, "journal")
        vendor.always(None)
        with scene.running():
            scene.await_all()
        scene.check()


@pytest.mark.servers("pg18")
def test_a_lost_journal_costs_nothing_where_all_of_it_was_delivered(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL}, source={"heartbeat": "200ms"})
    items.insert(database, 20)
    with scene.running():
        scene.await_all()
        written = database.value("SELECT pg_current_wal_lsn()")  # heartbeats carry the slot past the checkpoint
        query = f"SELECT confirmed_flush_lsn > '{written}' FROM pg_replication_slots WHERE slot_name = '{scene.slot}'"
        until(lambda: database.value(query) is True, "the slot is confirmed past the last change")
    _lose(scene, "journal")
    with scene.running():
        items.insert(database, 5)
        scene.await_all()
    scene.check()


@pytest.mark.servers("pg18")
def test_a_lost_journal_that_was_confirmed_is_a_gap(database: Database, tmp_path: Path) -> None:
    with SegmentServer() as vendor:
        scene = Scene(database, tmp_path, "auto", {"segment": segment(vendor)}, source={"ack": "journaled"}, drain_timeout="0s")
        scene.segment = vendor
        _ran(scene)
        vendor.always(Answer(503))
        asked = len(vendor.requests)
        items.insert(database, 20)
        read = database.value("SELECT pg_current_wal_lsn()")
        with scene.running():
            until(lambda: len(vendor.requests) > asked, "the destination was tried")
            until(
                lambda: (
                    database.value(
                        f"SELECT confirmed_flush_lsn >= '{read}' FROM pg_replication_slots WHERE slot_name = '{scene.slot}'"
                    )
                    is True
                ),
                "what is journaled is confirmed",
            )
        _lose(scene, "journal")
        _stopped(scene, "the journal is empty", "`cdc-tracker repair`")
        vendor.always(None)
        scene.worker.call("repair", "--yes")
        _goes_on(scene)


@pytest.fixture
def own() -> Iterator[Server]:
    with launch("pg18", max_slot_wal_keep_size="1MB", max_wal_size="32MB", min_wal_size="32MB") as server:
        yield server


def test_an_invalidated_slot(own: Server, tmp_path: Path) -> None:
    with fresh_database(own) as database:
        scene = Scene(database, tmp_path, "auto", {"events": JSONL})
        _ran(scene)
        for _ in range(4):
            database.execute("INSERT INTO shop.items (writer, note) SELECT 1, repeat('x', 1500) FROM generate_series(1, 10000)")
            database.execute("SELECT pg_switch_wal(); CHECKPOINT")
        _stopped(scene, f"the server has invalidated the replication slot {scene.slot}", "`cdc-tracker repair`")
        scene.worker.call("repair", "--yes")
        _goes_on(scene)


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


@pytest.mark.invariant(10)
def test_a_server_that_was_restored_from_a_backup(own: Server, tmp_path: Path) -> None:
    own.execute("CREATE DATABASE shop")
    database = Database(own, "shop")
    scene = Scene(database, tmp_path, "auto", {"events": JSONL})
    _ran(scene)
    own.stop()
    backup = own.root / "backup"
    _copy(own.data, backup)
    own.start()
    _ran(scene, rows=1000)
    own.stop()
    _copy(backup, own.data)
    own.start()
    _stopped(scene, "the server's WAL ends at", "was restored from a backup", "setup --new-epoch")
    # Recovered to a new timeline, its WAL grows past what we have read: only the timelines' history tells.
    own.stop()
    _copy(backup, own.data)
    with (own.data / "postgresql.conf").open("a") as file:
        file.write("restore_command = '/bin/false'\n")
    (own.data / "recovery.signal").touch()
    own.start()
    until(lambda: own.value("SELECT pg_is_in_recovery()") is False, "recovery ends")
    items.insert(database, 20_000)
    _stopped(scene, "the server left timeline 1 at", "it was restored from a backup", "setup --new-epoch")
    before = len(scene.bodies("events"))
    scene.worker.call("setup", "--new-epoch", "--yes")
    _goes_on(scene)
    ids = [body["messageId"] for body in scene.bodies("events")]
    assert len(set(ids)) == len(ids) > before
