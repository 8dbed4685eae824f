"""SIGKILL right before and right after each step that makes something durable, or tells it to someone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.scene import JSONL, SMALL, Scene, die, segment, sql
from tests.postgres import Database
from tests.vendors.segment import SegmentServer

CAPTURE = (
    "cdc_tracker.journal:Journal.append:before:2",
    "cdc_tracker.journal:Journal.append:after:2",
    "cdc_tracker.state:Sources.confirm:after:2",
    "cdc_tracker.sources.postgres.replication:ReplicationStream.feedback:after:2",
)
DELIVER = (
    ("events", "cdc_tracker.destinations.jsonl:write:after:5"),  # events in the file that no checkpoint counts
    ("events", "cdc_tracker.destinations.jsonl:JsonlDestination._store:after:3"),
    ("events", "cdc_tracker.state:Checkpoints.commit:before:2"),  # the destination's own checkpoint is ahead of ours
    ("events", "cdc_tracker.state:Checkpoints.commit:after:2"),
    ("sql", "cdc_tracker.destinations.sql:SqlDestination.deliver:after:2"),
    ("segment", "cdc_tracker.destinations.segment:SegmentDestination.deliver:after:2"),
    ("segment", "cdc_tracker.state:Checkpoints.commit:after:2"),
)


@pytest.mark.servers("pg15")
def test_capture_killed_around_each_of_its_steps_goes_on_without_loss_or_doubles(database: Database, tmp_path: Path) -> None:
    source = {"ack": "journaled", "heartbeat": "200ms"}  # so that there is something to confirm without a delivery
    scene = Scene(database, tmp_path, "wal2json", {"events": JSONL, "sql": sql(tmp_path)}, source=source)
    scene.tune(**SMALL)
    for place in CAPTURE:
        items.insert(database, 12)
        items.insert(database, 1)
        die(scene, "capture", place)
    with scene.running():
        scene.await_all()
    scene.check()


@pytest.mark.invariant(5)
@pytest.mark.servers("pg18")
def test_delivery_killed_around_each_of_its_steps_goes_on_without_loss_or_doubles(
    database: Database, tmp_path: Path, plugin: str
) -> None:
    with SegmentServer() as vendor:
        destinations = {"events": JSONL, "sql": sql(tmp_path), "segment": segment(vendor)}
        scene = Scene(database, tmp_path, plugin, destinations)
        scene.segment = vendor
        scene.tune(**SMALL)
        with scene.running("--only", "capture"):
            for destination, place in DELIVER:
                items.insert(database, 17)
                die(scene, f"deliver:{destination}", place)
        with scene.running():
            scene.await_all()
        scene.check()
        assert vendor.repeated > 0  # killed between the vendor's answer and our commit
