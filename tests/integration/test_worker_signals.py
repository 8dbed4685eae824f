"""SIGTERM drains, SIGHUP loads the mappings anew."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.scene import JSONL, Scene, segment
from tests.postgres import Database
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Slow
from tests.worker import end, until

pytestmark = pytest.mark.servers("pg18")


def test_sigterm_waits_for_what_is_in_flight(database: Database, tmp_path: Path) -> None:
    with SegmentServer() as vendor:
        scene = Scene(database, tmp_path, "auto", {"segment": segment(vendor)})
        scene.segment = vendor
        vendor.always(Slow(1.5))
        with scene.running() as process:
            items.insert(database, 10)
            until(lambda: len(vendor.requests) == 1, "the request is under way")
            assert not vendor.events
            assert end(process) == 0
        assert len(vendor.events) == 10 and vendor.repeated == 0
        assert scene.ledger("segment")["assumed"] == 10
        with scene.running():
            scene.await_all()
        scene.check()
        assert vendor.repeated == 0  # the checkpoint was kept


def test_what_is_in_flight_longer_than_drain_timeout_goes_again(database: Database, tmp_path: Path) -> None:
    with SegmentServer() as vendor:
        scene = Scene(database, tmp_path, "auto", {"segment": segment(vendor)}, drain_timeout="500ms")
        scene.segment = vendor
        vendor.answers(Slow(30))
        with scene.running() as process:
            items.insert(database, 10)
            until(lambda: len(vendor.requests) == 1, "the request is under way")
            assert end(process) == 0
        assert scene.ledger("segment")["matched"] == 0
        with scene.running():
            scene.await_all()
        scene.check()


def test_sighup_takes_mappings_that_load_and_keeps_the_old_ones_otherwise(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL})
    mappings = tmp_path / "mappings" / "events.yml"
    with scene.running() as process:
        items.insert(database, 1)
        scene.await_all()
        mappings.write_text(items.MAPPING.replace("new.writer", "new.writter and"))
        process.send_signal(signal.SIGHUP)
        until(lambda: "the old ones stay in force" in scene.worker.log, "the broken file is refused")
        assert "events.yml:" in scene.worker.log
        items.insert(database, 1)
        scene.await_all()
        mappings.write_text(items.MAPPING.replace("Item Changed", "Thing Changed"))
        process.send_signal(signal.SIGHUP)
        until(lambda: "mappings loaded anew" in scene.worker.log, "the new file is taken")
        items.insert(database, 1)
        scene.await_all()
    names = [event["event"] for event in scene.bodies("events")]
    assert names == ["Item Changed"] * 4 + ["Thing Changed"] * 2
    scene.check()
