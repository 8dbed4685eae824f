"""Full disks, on a tmpfs of a few megabytes: needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.scene import JSONL, Scene, sql
from tests.postgres import Database
from tests.worker import until

pytestmark = pytest.mark.servers("pg18")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no tmpfs: {done.stderr}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return path


def test_a_full_disk_under_the_journal_holds_capture_back_and_nothing_else(
    database: Database, tmp_path: Path, disk: Path
) -> None:
    journal = {"url": f"sqlite:///{disk / 'journal.db'}"}
    scene = Scene(
        database, tmp_path, "auto", {"events": JSONL, "sql": sql(tmp_path)}, journal=journal, source={"heartbeat": "0s"}
    )
    with scene.running() as process:
        items.insert(database, 100)
        scene.await_all()
        walsender = database.value(f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{scene.slot}'")
        filler = _fill(disk)
        database.execute("INSERT INTO shop.items (writer, note) SELECT 1, md5(random()::text) FROM generate_series(1, 3000)")
        until(lambda: _capture(scene) == "journal unavailable", "capture says so")
        confirmed = database.value(f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{scene.slot}'")
        with scene.state() as state:
            journaled = max(checkpoint.position for checkpoint in state.checkpoints.all("main").values())
        assert confirmed is not None and int(str(confirmed).split("/")[1], 16) <= journaled.commit_lsn & 0xFFFFFFFF
        assert "disk" in scene.worker.log or "full" in scene.worker.log
        filler.unlink()
        scene.await_all()
        assert process.poll() is None
        assert database.value(f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{scene.slot}'") == walsender
    scene.check()


def test_check_finds_a_data_dir_whose_disk_is_full(database: Database, tmp_path: Path, disk: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL}, data_dir=str(disk / "data"))
    _fill(disk)
    told = scene.worker.ended("check")
    assert told.returncode == 1
    assert "cannot be written: No space left on device" in " ".join(told.stdout.split())
    assert "Free some space" in told.stdout


def _capture(scene: Scene) -> str:
    with scene.state() as state:
        return next((role.state for role in state.reports.all("main") if role.role == "capture"), "")


def test_a_full_disk_under_one_destination_holds_back_that_one_only(database: Database, tmp_path: Path, disk: Path) -> None:
    full = {"type": "jsonl", "path": str(disk / "full.jsonl")}
    scene = Scene(database, tmp_path, "auto", {"events": JSONL, "full": full})
    (tmp_path / "out").mkdir()
    with scene.running():
        items.insert(database, 100)
        scene.await_all("events")
        filler = _fill(disk)
        database.execute("INSERT INTO shop.items (writer, note) SELECT 1, 'x' FROM generate_series(1, 3000)")
        scene.await_all("events")
        until(lambda: "cannot write to" in scene.worker.log, "the destination says so")
        filler.unlink()
        until(lambda: scene.ledger("full")["delivered"] == scene.ledger("events")["delivered"], "it has caught up")
    lines = [line for path in sorted(disk.glob("full-*.jsonl")) for line in path.read_bytes().splitlines()]
    assert lines == scene.worker.lines()
    scene.check("events")
