"""Retention under load: nothing is cut that somebody still needs, and afterwards the journal and its file become small again."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.journal import Horizon
from cdc_tracker.model import START, Position
from cdc_tracker.state import CaptureReport, ReplaySpec
from tests.crash import items
from tests.crash.scene import JSONL, Scene, segment
from tests.postgres import Database
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Answer
from tests.worker import until

pytestmark = pytest.mark.servers("pg18")
SIZE = 400_000
PICKY = items.MAPPING.replace("n: new.n}", "n: new.n, note: {value: new.note, type: string, pattern: '^[a-z0-9]+$'}}")
NOTES = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 60) WHERE g > 0)"


def _load(scene: Scene, rows: int = 200) -> None:
    """Some hundred kilobytes that do not compress well, in several transactions."""
    for _ in range(5):
        insert = f"INSERT INTO shop.items (writer, note) SELECT 1, {NOTES} FROM generate_series(1, {rows // 5}) g"
        scene.database.execute(insert)


def _horizon(scene: Scene) -> Horizon:
    with scene.stores() as (_, journal):
        found = journal.horizon()
    assert found is not None
    return found


def _first_after(scene: Scene, position: Position) -> Position:
    """The first change after it: a segment that ends there may go."""
    with scene.stores() as (_, journal):
        until(lambda: bool(journal.read(position, 1)), "something is journaled after it")
        return journal.read(position, 1)[0].first


def _pages(scene: Scene) -> int:
    """The bytes that the journal's pages take, whether they are in its file yet or in its -wal."""
    with closing(sqlite3.connect(scene.worker.settings.data / "journal.sqlite")) as connection:
        count, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(count) * int(size)


def _file(scene: Scene) -> int:
    """The bytes that the journal's file takes on disk."""
    return (scene.worker.settings.data / "journal.sqlite").stat().st_size


def _alarms(scene: Scene) -> str:
    with scene.state() as state:
        return " ".join(alarm.what for alarm in state.reports.last("main", "capture", CaptureReport).alarms)


def _scene(database: Database, folder: Path, destinations: dict[str, dict[str, Any]], **retention: str) -> Scene:
    scene = Scene(database, folder, "auto", destinations, journal={"retention": retention}, mapping=PICKY, drain_timeout="0s")
    scene.tune(**{"capture.loop__TRIM": 0.1, "capture.loop__VITALS": 0.2, "sources.postgres.segments__MAX_FRAMES": 50})
    return scene


@pytest.mark.parametrize("retention", [{"size": f"{SIZE}B"}, {"age": "1s"}], ids=["size", "age"])
def test_nothing_that_is_needed_is_cut_under_load_and_afterwards_the_journal_shrinks(
    database: Database, tmp_path: Path, retention: dict[str, str]
) -> None:
    with SegmentServer() as vendor:
        scene = _scene(database, tmp_path, {"events": JSONL, "segment": segment(vendor)}, **retention)
        scene.segment = vendor
        with scene.running():
            database.execute("INSERT INTO shop.items (writer, note) SELECT 1, 'No ' FROM generate_series(1, 6)")  # to be parked
            _mark(scene)
        with scene.stores() as (state, journal):
            needs = journal.end()
            spec = ReplaySpec(after=START, upto=START, events=[], mappings={})
            job = state.jobs.create("main", "events", spec, needs=needs)
            state.jobs.control(job.id, "paused")
        assert needs is not None
        vendor.always(Answer(503))
        with scene.running():
            _load(scene)
            needed = _first_after(scene, min(scene.checkpoint("segment").position, needs))
            for _ in range(4):
                _load(scene)
            until(lambda: _horizon(scene).bytes > SIZE, "the journal is larger than it may be")
            time.sleep(1.2)  # many trims
            assert _horizon(scene).first <= needed
            needed = _first_after(scene, needs)  # what segment has not committed before it was killed may go once it is through
            if "size" in retention:
                until(
                    lambda: "the destination segment still needs all of it" in _alarms(scene) or "job 1" in _alarms(scene),
                    "it says why",
                )
            vendor.always(None)
            n = _mark(scene, "events", "segment")
            for _ in range(2):
                _load(scene)
            time.sleep(1.2)
            assert _horizon(scene).first <= needed  # the job is all that holds it now
            if "size" in retention:
                until(lambda: "job 1 (replay to events, paused) still needs all of it" in _alarms(scene), "it names the job")
            status = json.loads(scene.worker.ended("status", "--json").stdout)
            assert status["journal"]["held_by"] == [{"who": "job 1 (replay to events, paused)", "after": str(needs)}]
            largest = _pages(scene)
            assert largest > 2 * SIZE
            with scene.state() as state:
                state.jobs.control(job.id, "cancelled")
            with items.writing(database, pause=0.05):
                until(lambda: _horizon(scene).first > needed, "it is cut while writing goes on")
                until(lambda: _horizon(scene).bytes <= SIZE, "it is no larger than it may be")
                until(lambda: max(_pages(scene), _file(scene)) < largest / 2, "the file gives its pages back")
            until(lambda: "still needs all of it" not in _alarms(scene), "the alarm is over")
            (tmp_path / "mappings" / "events.yml").write_text(items.MAPPING)
            n = _mark(scene, "events", "segment")
        assert n
        with scene.running():  # the parked ones are made of their own copies: the journal has them no more
            scene.worker.call("dead-letters", "retry", "--all")
            until(lambda: _letters(scene) == 0, "no letter is left")
        for name in ("events", "segment"):
            assert scene.differences(name) == {"out of order": 1}, name  # the parked ones came last


def _mark(scene: Scene, *destinations: str) -> int:
    """A mark whose note passes, once it has arrived."""
    n = int(str(scene.database.value(f"INSERT INTO shop.items (writer, note) VALUES ({items.MARK}, 'mark') RETURNING n")))
    for name in destinations or tuple(scene.worker.settings.destinations):
        until(lambda to=name: _has(scene, to, n), f"{name} has the mark {n}")  # type: ignore[misc]
    return n


def _has(scene: Scene, destination: str, n: int) -> bool:
    return any(body["properties"]["n"] == n for body in scene.bodies(destination))


def _letters(scene: Scene) -> int:
    with scene.state() as state:
        return sum(state.dead_letters.count("main").values())
