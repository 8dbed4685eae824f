"""A transaction that is cut in two at every row, and one that is far larger than memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.scene import JSONL, Scene, die, sql
from tests.postgres import Database
from tests.worker import peak_memory, roles, until

ROWS = 6
MILLION = 1_000_000
PEAK_MB = 150


@pytest.mark.servers("pg15")
def test_restart_at_every_row_of_a_copy_gives_each_row_once(database: Database, tmp_path: Path, plugin: str) -> None:
    scene = Scene(database, tmp_path, plugin, {"events": JSONL, "sql": sql(tmp_path)})
    with database.connect() as connection, connection.cursor().copy("COPY shop.items (writer, note) FROM STDIN") as copy:
        for row in range(ROWS):
            copy.write_row((1, f"row {row}"))
    scene.tune(**{"sources.postgres.segments__MAX_FRAMES": 1})
    for row in range(ROWS):
        die(scene, "capture", "cdc_tracker.journal:Journal.append:after:1")
        assert _journaled(scene) == row + 1
    with scene.running():
        scene.await_all()
    scene.check()
    for destination in ("events", "sql"):
        ids = [body["messageId"] for body in scene.bodies(destination)]
        assert len(set(ids)) == len(ids) == ROWS + 1


def _journaled(scene: Scene) -> int:
    from cdc_tracker.journal import Journal
    from cdc_tracker.model import START

    settings = scene.worker.settings
    with Journal.open(settings.journal_url, "main", settings.wake_dir) as journal:
        return sum(segment.changes for segment in journal.read(START, 100))


@pytest.mark.invariant(13)
@pytest.mark.servers("pg15")
def test_a_transaction_of_a_million_rows_takes_little_memory(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "pgoutput", {"events": JSONL})
    database.execute("ALTER TABLE shop.items DISABLE TRIGGER witness")  # the row numbers are the truth here
    with scene.running() as process:
        items.insert(database, MILLION)
        until(lambda: scene.ledger("events")["delivered"] >= MILLION, "a million events", seconds=180, pause=0.5)
        peaks = {role: peak_memory(pid) for role, pid in {**roles(process.pid), "supervisor": process.pid}.items()}
    assert len(peaks) == 3 and max(peaks.values()) < PEAK_MB, peaks
    seen = bytearray(MILLION + 1)
    for path in (tmp_path / "out").glob("events-*.jsonl"):
        with path.open("rb") as file:
            for line in file:
                seen[int(re.search(rb'"n":(\d+)', line)[1])] += 1  # type: ignore[index]
    assert seen == b"\0" + b"\1" * MILLION
