"""`repair`: a lost slot, a lost journal, both; what was missed is named, and filled from the table."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

from cdc_tracker.state import CaptureReport
from tests.crash import items
from tests.crash.scene import JSONL, Scene, segment, sql
from tests.postgres import Database
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Answer
from tests.worker import end, until

pytestmark = pytest.mark.servers("pg18")
MAPPING = """
version: 1
events:
  - name: Item Added
    table: shop.items
    on: [insert]
    user_id: new.writer
    id: [new.id]
    timestamp: new.made
    properties: {op: op, n: new.n}
    backfill: {where: "writer > 0"}
  - name: Item Deleted
    table: shop.items
    on: [delete]
    user_id: old.writer
    properties: {op: op, n: old.n}
  - name: Item Changed
    table: shop.items
    on: [update]
    user_id: new.writer
    properties: {op: op, n: new.n}
"""


@pytest.fixture
def scene(database: Database, tmp_path: Path) -> Scene:
    destinations = {"events": JSONL | {"sent_ledger": "30d"}, "sql": sql(tmp_path)}
    scene = Scene(database, tmp_path, "auto", destinations, mapping=MAPPING)
    database.execute("ALTER TABLE shop.items ADD COLUMN made timestamptz NOT NULL DEFAULT clock_timestamp()")
    return scene


def _ran(scene: Scene, rows: int = 5) -> None:
    items.insert(scene.database, rows)
    with scene.running():
        scene.await_all()
        until(lambda: _journaled(scene), "the state knows up to where and when the journal holds something")


def _journaled(scene: Scene) -> bool:
    with scene.state() as state:
        record = state.sources.get("main")
        said = state.reports.last("main", "capture", CaptureReport)
    return bool(record and record.journaled_lsn and said.journaled_until)


def _drop_slot(scene: Scene) -> None:
    scene.database.execute(f"SELECT pg_drop_replication_slot('{scene.slot}')")


def _lose_journal(scene: Scene) -> None:
    files = list(scene.worker.settings.data.glob("journal.sqlite*"))
    assert files
    for path in files:
        path.unlink()


def _repair(scene: Scene, *flags: str, code: int = 0) -> dict[str, Any]:
    ended = scene.worker.ended("repair", "--json", *flags)
    assert ended.returncode == code, ended.stdout + ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def _codes(told: dict[str, Any]) -> list[str]:
    return [problem["code"] for problem in told["problems"]]


def _goes_on(scene: Scene) -> None:
    with scene.running():
        n = items.mark(scene.database)
        for name in scene.worker.settings.destinations:
            until(lambda to=name: scene.has(to, n), f"{name} has {n}")  # type: ignore[misc]


def test_where_nothing_is_wrong_it_says_so_and_changes_nothing(scene: Scene) -> None:
    _ran(scene)
    before = scene.checkpoint("events")
    told = scene.worker.ended("repair")
    assert (told.returncode, told.stdout) == (0, "Nothing to repair.\n")
    with scene.running():
        until(scene.streams, "it streams")
        told = scene.worker.ended("repair", "--yes")
        assert told.returncode == 0
        assert "expected while a worker runs" in told.stdout
    assert scene.checkpoint("events").position >= before.position


def test_a_worker_that_delivers_nothing_still_knows_from_when_its_last_change_was(scene: Scene) -> None:
    _ran(scene)

    def said(name: str) -> dict[str, Any]:
        with scene.state() as state:
            return next(
                to_builtins(role.report) | {"pid": role.pid}
                for role in state.reports.all("main")
                if role.role == f"deliver:{name}"
            )

    end(_started(scene))  # each says all that it knows when it is told to stop
    before = {name: said(name) for name in ("events", "sql")}
    with scene.running():
        for name, told in before.items():
            until(lambda name=name, told=told: said(name)["pid"] != told["pid"], "it reports")  # type: ignore[misc]
            assert told["delivered_until"] > 0
            assert said(name)["delivered_until"] == told["delivered_until"]


def _started(scene: Scene) -> subprocess.Popen[bytes]:
    process = scene.worker.start()
    until(scene.streams, "it streams")
    scene.await_all()
    return process


def test_a_lost_slot_is_made_anew_and_the_table_fills_the_gap(scene: Scene) -> None:
    _ran(scene)
    with scene.stores() as (state, journal):
        record, end_of_journal = state.sources.get("main"), journal.end()
    items.insert(scene.database, 10)
    _drop_slot(scene)
    seen = _repair(scene, code=1)
    assert _codes(seen) == ["slot_missing"]
    assert (seen["mended"], seen["gaps"]) == (False, [])
    assert "give --yes" in (asked := scene.worker.ended("repair")).stderr  # nobody answers the question
    assert asked.returncode == 2
    told = _repair(scene, "--yes", "--backfill")
    with scene.stores() as (state, journal):
        after = state.sources.get("main")
        jobs = state.jobs.all("main")
    assert record is not None and after is not None and end_of_journal is not None
    assert (after.namespace, after.epoch) == (record.namespace, record.epoch)
    assert [gap["destination"] for gap in told["gaps"]] == ["events", "sql"]
    for gap in told["gaps"]:
        assert gap["from"] == str(max(end_of_journal, type(end_of_journal)(record.confirmed_lsn, -1)))
        assert gap["to"] == f"{after.created_lsn >> 32:X}/{after.created_lsn & 0xFFFFFFFF:X}"
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", gap["from_time"]) and gap["from_time"] <= gap["to_time"]
        by_event = {row["event"]: row for row in gap["refill"]}
        assert [row["event"] for row in gap["refill"] if row["possible"]] == ["Item Added"]
        assert "cannot be read from their table" in by_event["Item Deleted"]["why"]
        assert "no `backfill`" in by_event["Item Changed"]["why"]
    assert [(job.kind, job.destination) for job in jobs] == [("backfill", "events"), ("backfill", "sql")]
    with scene.running():
        until(lambda: all(job.finished for job in _jobs(scene)), "the jobs are done")
        n = items.mark(scene.database)
        until(lambda: scene.has("events", n) and scene.has("sql", n), "the stream goes on")
    assert scene.differences("events") == {}
    assert scene.differences("sql") == {}
    ids = [body["messageId"] for body in scene.bodies("events")]
    assert len(set(ids)) == len(ids)


def _jobs(scene: Scene) -> list[Any]:
    with scene.state() as state:
        return state.jobs.all("main")


def test_the_commands_that_it_prints_fill_the_gap(scene: Scene) -> None:
    _ran(scene)
    items.insert(scene.database, 10)
    _drop_slot(scene)
    told = scene.worker.call("repair", "--yes")
    commands = [shlex.split(line) for line in told.splitlines() if line.strip().startswith("cdc-tracker ")]
    assert len(commands) == 2
    with scene.running():
        for words in commands:
            assert words[1:3] == ["--config", str(scene.worker.config)]
            scene.worker.call(*words[3:], "--yes", "--yes-duplicates", "--detach")
        until(lambda: len(_jobs(scene)) == 2 and all(job.finished for job in _jobs(scene)), "the jobs are done")
    assert scene.differences("sql") == {}


def test_a_repair_that_is_cut_short_tells_the_same_gap_when_it_is_done_again(scene: Scene) -> None:
    _ran(scene)
    items.insert(scene.database, 3)
    _drop_slot(scene)
    scene.tune()
    scene.worker.environment["FAILPOINT"] = "cdc_tracker.state:Sources.save:before:1"
    assert scene.worker.ended("repair", "--yes").returncode == -signal.SIGKILL
    del scene.worker.environment["FAILPOINT"]
    created = str(scene.database.value(f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{scene.slot}'"))
    with scene.stores() as (_, journal):
        horizon = journal.horizon()
    assert horizon is not None
    told = _repair(scene, "--yes")
    assert _codes(told) == ["slot_moved"]
    assert {gap["to"] for gap in told["gaps"]} == {created}
    assert {gap["from"] >= str(horizon.last) for gap in told["gaps"]} == {True}
    _goes_on(scene)


def test_a_slot_that_somebody_moved_is_kept_and_only_what_they_took_is_missing(scene: Scene) -> None:
    _ran(scene)
    items.insert(scene.database, 4)
    moved = scene.database.value(f"SELECT end_lsn FROM pg_replication_slot_advance('{scene.slot}', pg_current_wal_lsn())")
    items.insert(scene.database, 6)
    told = _repair(scene, "--yes")
    assert _codes(told) == ["slot_moved"]
    assert {gap["to"] for gap in told["gaps"]} == {str(moved)}
    _goes_on(scene)
    for name in ("events", "sql"):
        assert scene.differences(name) == {"lost": 4}


def test_a_slot_of_somebody_else_is_not_touched(scene: Scene) -> None:
    _ran(scene)
    _drop_slot(scene)
    scene.database.execute(f"SELECT pg_create_physical_replication_slot('{scene.slot}')")
    refused = scene.worker.ended("repair", "--yes")
    assert refused.returncode == 3
    assert "a physical slot" in refused.stderr
    assert scene.database.value(f"SELECT slot_type FROM pg_replication_slots WHERE slot_name = '{scene.slot}'") == "physical"
    _drop_slot(scene)


def test_another_server_is_a_persons_choice(scene: Scene) -> None:
    with scene.state() as state:
        record = state.sources.get("main")
        assert record is not None
        state.sources.save(replace(record, system_id="1"))
    told = scene.worker.ended("repair", "--yes", "--json")
    assert told.returncode == 3
    assert "setup --new-epoch" in json.loads(told.stdout)["needs_person"]["hint"]
    assert "this is another server" in told.stderr


def test_a_table_that_fell_out_of_the_publication_is_put_back(scene: Scene) -> None:
    _ran(scene)
    scene.database.execute(f"ALTER PUBLICATION {scene.slot} DROP TABLE shop.items")
    seen = _repair(scene, code=1)
    assert _codes(seen) == ["publication_drift"]
    assert "Item Added" in seen["problems"][0]["message"]
    assert _repair(scene, "--yes")["mended"]
    assert _codes(_repair(scene)) == []
    _goes_on(scene)


def test_slot_and_journal_lost_together_name_the_gap_from_the_checkpoint_on(scene: Scene) -> None:
    _ran(scene)
    items.insert(scene.database, 3)
    _drop_slot(scene)
    _lose_journal(scene)
    told = _repair(scene, "--yes")
    assert _codes(told) == ["slot_missing", "journal_missing"]
    assert all(gap["from_time"] for gap in told["gaps"])  # the ledger still knows
    _goes_on(scene)


# A lost journal.


def test_a_journal_deleted_while_stopped_comes_back_from_the_slot_and_says_what_it_cannot_rewind(
    database: Database, tmp_path: Path
) -> None:
    with SegmentServer() as vendor:
        destinations = {"events": JSONL, "segment": segment(vendor)}
        scene = Scene(database, tmp_path, "auto", destinations, drain_timeout="0s")
        scene.segment = vendor
        _ran(scene)
        vendor.always(Answer(503))
        asked = len(vendor.requests)
        items.insert(database, 20)
        with scene.running():
            until(lambda: len(vendor.requests) > asked, "the destination was tried")
        _lose_journal(scene)
        seen = _repair(scene)
        assert _codes(seen) == []
        assert "the journal was lost or replaced" in seen["notes"][0]
        vendor.always(None)
        with scene.running():
            scene.await_all()
            status = json.loads(scene.worker.ended("status", "--json").stdout)
            assert status["journal"]["lost"]["from"]
            assert status["journal"]["first"]
            assert "cannot be rewound to any more" in scene.worker.ended("status").stdout
        assert "the journal was lost or replaced" in scene.worker.log
        scene.check()
        refused = scene.worker.ended("rewind", "events", "--to", "0/1", "--yes")
        assert refused.returncode == 3
        with scene.running():  # a restart does not forget it
            until(scene.streams, "it streams")
            until(lambda: json.loads(scene.worker.ended("status", "--json").stdout)["journal"]["lost"], "it is still told")


def test_a_journal_that_never_held_anything_was_not_lost(scene: Scene) -> None:
    with scene.running():
        until(lambda: _confirmed_past_its_beginning(scene), "the idle slot moves")
        assert json.loads(scene.worker.ended("status", "--json").stdout)["journal"]["lost"] is None
        assert "lost" not in scene.worker.ended("status").stdout
    with scene.running():
        until(scene.streams, "it streams")
        assert not any("journal" in note for note in _repair(scene)["notes"])
    assert "lost" not in scene.worker.log


def _confirmed_past_its_beginning(scene: Scene) -> bool:
    with scene.state() as state:
        record = state.sources.get("main")
    return bool(record and record.confirmed_lsn > record.created_lsn)


@pytest.mark.parametrize("main_only", [True, False])
def test_a_journal_deleted_while_running_is_noticed_and_read_again_from_the_slot(
    database: Database, tmp_path: Path, main_only: bool
) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL, "sql": sql(tmp_path)})
    with scene.running() as process:
        with items.writing(database, pause=0.02):
            n = items.mark(database)
            until(lambda: scene.has("events", n) and scene.has("sql", n), "all is under way")
            if main_only:
                (scene.worker.settings.data / "journal.sqlite").unlink()
            else:
                _lose_journal(scene)
            n = items.mark(database)
            until(lambda: scene.has("events", n) and scene.has("sql", n), "it goes on")
        assert "was removed or replaced while it was in use" in scene.worker.log
        assert process.poll() is None
        scene.await_all()
        with scene.stores() as (_, journal):
            assert journal.horizon() is not None
    scene.check()


def test_a_journal_deleted_while_running_stops_the_worker_where_it_alone_held_something(
    database: Database, tmp_path: Path
) -> None:
    with SegmentServer() as vendor:
        scene = Scene(database, tmp_path, "auto", {"segment": segment(vendor)}, source={"ack": "journaled"}, drain_timeout="0s")
        scene.segment = vendor
        _ran(scene)
        vendor.always(Answer(503))
        asked = len(vendor.requests)
        process = scene.worker.start()
        try:
            items.insert(database, 20)
            read = database.value("SELECT pg_current_wal_lsn()")
            until(lambda: len(vendor.requests) > asked, "the destination was tried")
            confirmed = f"SELECT confirmed_flush_lsn >= '{read}' FROM pg_replication_slots WHERE slot_name = '{scene.slot}'"
            until(lambda: database.value(confirmed) is True, "what is journaled is confirmed")
            _lose_journal(scene)
            items.mark(database)
            assert process.wait(60) == 3
        finally:
            end(process)
        assert re.search(r"contained changes up to [0-9A-F/]+ \(20\d\d-", scene.worker.log)  # by position and time
        assert "`cdc-tracker repair`" in scene.worker.log
        vendor.always(None)
        told = _repair(scene, "--yes")
        assert _codes(told) == ["checkpoint_gap"]
        [gap] = told["gaps"]
        assert gap["from"] == str(scene.checkpoint("segment").position)
        _goes_on(scene)
        assert scene.differences("segment") == {"lost": 20}


def test_a_state_store_deleted_while_running_stops_the_worker(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL})
    process = scene.worker.start()
    try:
        items.insert(database, 5)
        scene.await_all()
        for path in scene.worker.settings.data.glob("state.sqlite*"):
            if not path.name.endswith(".lock"):
                path.unlink()
        items.insert(database, 5)
        assert process.wait(60) == 3
    finally:
        end(process)
    assert "The state store" in scene.worker.log and "was removed or replaced" in scene.worker.log
    scene.worker.call("setup", "--adopt", "--yes")
    _goes_on(scene)
    assert Counter(body["messageId"] for body in scene.bodies("events")).total() >= 11
