"""What the worker confirms to the server, and when: the WAL on the primary's disk depends on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_tracker.delivery.points import bare_changes
from cdc_tracker.model import START, Lsn, Position, parse_lsn
from cdc_tracker.state import CaptureReport
from tests.crash import items
from tests.crash.scene import JSONL, Scene, segment
from tests.postgres import Database, fresh_database, launch
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Answer, Slow
from tests.worker import end, until

MB = 1000**2


def _slot(scene: Scene, column: str) -> Lsn:
    return parse_lsn(str(scene.database.value(f"SELECT {column} FROM pg_replication_slots WHERE slot_name = '{scene.slot}'")))


def _end(database: Database) -> Lsn:
    return parse_lsn(str(database.value("SELECT pg_current_wal_lsn()")))


def _retained(scene: Scene) -> int:
    """Bytes that the slot keeps. A checkpoint first: it writes the record by which a slot may let go of older WAL."""
    scene.database.execute("CHECKPOINT")
    return _end(scene.database) - _slot(scene, "restart_lsn")


@pytest.fixture(scope="module")
def own() -> Iterator[Database]:
    """A database on a server that nobody else works on."""
    with launch("pg16", wal_sender_timeout="1s", max_wal_size="64MB") as server, fresh_database(server) as database:
        yield database


@pytest.fixture
def quiet(own: Database) -> Iterator[Database]:
    with fresh_database(own.server) as database:
        yield database


def test_a_dead_destination_fills_no_disk_and_gets_everything_later(quiet: Database, tmp_path: Path) -> None:
    with SegmentServer() as vendor:
        port = int(vendor.url.rpartition(":")[2])
        destinations = {"events": JSONL, "segment": segment(vendor)}
    scene = Scene(quiet, tmp_path, "auto", destinations, source={"max_wal": "4MB", "heartbeat": "500ms"})
    scene.tune(**{"capture.loop__VITALS": 0.2})
    with scene.running():
        for _ in range(10):
            quiet.execute("INSERT INTO shop.items (writer, note) SELECT 1, repeat('x', 1500) FROM generate_series(1, 1000) g")
        scene.await_all("events")  # connections to the other one are refused
        with SegmentServer(port=port) as vendor:
            scene.segment = vendor
            vendor.always(Answer(503))
            items.insert(quiet, 100)
            scene.await_all("events")
            until(lambda: _retained(scene) < 4 * MB, "the slot lets go of the WAL", pause=0.3)
            assert scene.checkpoint("segment").position.commit_lsn < _slot(scene, "confirmed_flush_lsn")
            assert not vendor.events
            vendor.always(None)
            scene.await_all(seconds=120)
            scene.check()


def _alarms(scene: Scene) -> str:
    with scene.state() as state:
        return str(state.reports.last("main", "capture", CaptureReport).alarms)


def test_a_journal_over_its_size_holds_no_wal_back(quiet: Database, tmp_path: Path) -> None:
    with SegmentServer() as vendor:
        parts = {"source": {"max_wal": "4MB", "heartbeat": "500ms"}, "journal": {"retention": {"size": "100KB"}}}
        scene = Scene(quiet, tmp_path, "auto", {"segment": segment(vendor)}, drain_timeout="0s", **parts)
        scene.segment = vendor
        scene.tune(**{"capture.loop__VITALS": 0.2, "capture.loop__TRIM": 0.2})
        vendor.always(Answer(503))
        note = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 60) WHERE g > 0)"
        with scene.running():
            until(scene.streams, "it streams")
            items.insert(quiet, 1)
            until(lambda: len(vendor.requests) > 0, "the destination was tried")
            for _ in range(6):
                quiet.execute(f"INSERT INTO shop.items (writer, note) SELECT 1, {note} FROM generate_series(1, 1500) g")
            until(lambda: "still needs all of it" in _alarms(scene), "the journal is over its size")
            until(lambda: _retained(scene) < 5 * MB, "the slot lets go of the WAL all the same", pause=0.3)
            assert not vendor.events
            assert "nothing that a" not in _alarms(scene)
            vendor.always(None)
            scene.await_all(seconds=120)
        scene.check()


def test_a_transaction_that_is_open_for_long_is_told_as_what_holds_the_wal(quiet: Database, tmp_path: Path) -> None:
    scene = Scene(quiet, tmp_path, "auto", {"events": JSONL}, source={"max_wal": "4MB", "heartbeat": "500ms"})
    scene.tune(**{"capture.loop__VITALS": 0.2})
    with quiet.connect() as holder, scene.running():
        until(scene.streams, "it streams")
        holder.execute("BEGIN; INSERT INTO shop.items (writer, note) VALUES (2, 'open')")
        for _ in range(4):
            quiet.execute("INSERT INTO shop.items (writer, note) SELECT 1, repeat('x', 1500) FROM generate_series(1, 1000) g")
        scene.await_all("events")
        until(lambda: "for a transaction that is open" in _alarms(scene), "it says what holds it", pause=0.3)
        assert "delivered or not" not in _alarms(scene)
        holder.execute("COMMIT")
        until(lambda: _retained(scene) < 4 * MB and "max_wal" not in _alarms(scene), "the WAL goes, and the alarm", pause=0.3)
        scene.await_all()
    scene.check()


@pytest.mark.invariant(3)
def test_a_destination_that_sleeps_causes_no_reconnect(own: Database, quiet: Database, tmp_path: Path) -> None:
    with SegmentServer() as vendor:
        scene = Scene(quiet, tmp_path, "auto", {"segment": segment(vendor)})
        scene.segment = vendor
        vendor.always(Slow(10))  # 10 × wal_sender_timeout
        query = (
            "SELECT r.pid || ' ' || r.backend_start FROM pg_stat_replication r JOIN pg_replication_slots s ON active_pid = r.pid "
            f"WHERE s.slot_name = '{scene.slot}'"
        )
        with scene.running():
            until(scene.streams, "it streams")
            walsender = quiet.value(query)
            items.insert(quiet, 10)
            until(lambda: len(vendor.requests) == 1, "the request is there")
            until(lambda: len(vendor.events) == 10, "the request is answered")
            assert quiet.value(query) == walsender is not None
            vendor.always(None)
            scene.await_all()
        scene.check()


@pytest.mark.invariant(2)
@pytest.mark.parametrize("busy", ["another table", "another database"])
def test_idle_tables_on_a_busy_cluster_hold_no_wal(own: Database, quiet: Database, tmp_path: Path, busy: str) -> None:
    scene = Scene(quiet, tmp_path, "auto", {"events": JSONL}, source={"heartbeat": "0s"})
    with scene.running():
        until(scene.streams, "it streams")
        scene.await_all()
        place = quiet if busy == "another table" else own
        place.execute("CREATE TABLE IF NOT EXISTS noise (t text)")
        for _ in range(5):
            place.execute("INSERT INTO noise SELECT repeat('x', 500) FROM generate_series(1, 4000)")
        written = _end(quiet)
        until(lambda: _slot(scene, "confirmed_flush_lsn") >= written, "the slot is confirmed past what is not ours")
        until(lambda: _retained(scene) < MB, "the slot keeps next to nothing", pause=0.3)
        assert scene.checkpoint("events").position.commit_lsn < written  # no change of ours moved it


@pytest.mark.invariant(2)
def test_a_heartbeat_moves_the_slot_of_an_idle_database(quiet: Database, tmp_path: Path) -> None:
    scene = Scene(quiet, tmp_path, "auto", {"events": JSONL}, source={"heartbeat": "200ms"})
    with scene.running():
        until(scene.streams, "it streams")
        for _ in range(3):
            confirmed = _slot(scene, "confirmed_flush_lsn")
            until(lambda before=confirmed: _slot(scene, "confirmed_flush_lsn") > before, "the slot moves")  # type: ignore[misc]
    assert scene.ledger("events")["matched"] == 0


@pytest.mark.invariant(1)
@pytest.mark.parametrize("ack", ["delivered", "journaled"])
def test_confirmed_never_passes_what_is_durable(quiet: Database, tmp_path: Path, ack: str) -> None:
    with SegmentServer() as vendor:
        destinations = {"segment": segment(vendor, batch_events=200)}
        scene = Scene(quiet, tmp_path, "auto", destinations, source={"ack": ack, "heartbeat": "300ms"})
        scene.segment = vendor
        scene.tune(**{"capture.loop__FEEDBACK": 0.02})
        vendor.always(Slow(0.05))
        samples: list[tuple[Lsn, Position]] = []
        process = scene.worker.start()
        try:
            until(scene.streams, "it streams")
            with items.writing(quiet, pause=0.02), scene.stores() as (state, journal):
                ends = time.monotonic() + 5
                while time.monotonic() < ends:
                    confirmed = _slot(scene, "confirmed_flush_lsn")
                    durable = journal.end() if ack == "journaled" else state.checkpoints.all("main")["segment"].position
                    samples.append((confirmed, durable or START))
            vendor.always(None)
            scene.await_all()
        finally:
            end(process)
        with scene.stores() as (_, journal):
            changes = [
                change.position
                for part in journal.read(START, 10**6)
                for change in bare_changes(part, Position(part.first.commit_lsn, part.first.ordinal - 1))
            ]
    assert len({confirmed for confirmed, _ in samples}) > 5  # it moved while we looked
    for confirmed, durable in samples:
        passed = [position for position in changes if durable < position and position.commit_lsn < confirmed]
        assert not passed, f"confirmed {confirmed:X}, durable up to {durable}, and {passed[0]} is neither"
    scene.check()
