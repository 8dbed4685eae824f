"""SIGTERM drains, SIGHUP loads the mappings anew."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.scene import JSONL, Scene, segment
from tests.postgres import Database
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Slow
from tests.worker import end, roles, until

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
        until(lambda: "mappings reloaded" in scene.worker.log, "the new file is taken")
        items.insert(database, 1)
        scene.await_all()
    names = [event["event"] for event in scene.bodies("events")]
    assert names == ["Item Changed"] * 4 + ["Thing Changed"] * 2
    scene.check()


def test_sighup_refuses_a_mapping_that_never_matches_with_which_a_worker_starts(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL})
    mappings = tmp_path / "mappings" / "events.yml"
    wrong = items.MAPPING.replace("user_id: new.writer", "when: new.n == '7'\n    user_id: new.writer")
    with scene.running() as process:
        items.insert(database, 1)
        scene.await_all()
        mappings.write_text(wrong)
        process.send_signal(signal.SIGHUP)
        until(lambda: "never equals the text '7'" in scene.worker.log, "the mapping that never matches is refused")
        assert "the old ones stay in force" in scene.worker.log and "mappings reloaded" not in scene.worker.log
        items.insert(database, 1)
        scene.await_all()
    assert len(scene.bodies("events")) == 4
    with scene.running():  # it starts with what it may not reload
        items.insert(database, 1)
        until(lambda: "a mapping does what cannot be meant" in scene.worker.log, "the worker says what is wrong")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                found += [child, *_children(child)]
    return found


STARTING = (
    ("", "cdc_tracker.config.config:load:before:1"),
    ("", "cdc_tracker.logs:set_up:before:1"),
    ("", "cdc_tracker.worker.processes:ForkServer.__init__:before:1"),
    ("", "cdc_tracker.worker.processes:ForkServer.start:after:1"),
    ("capture", "cdc_tracker.logs:set_up:before:1"),
    ("capture", "cdc_tracker.state:State.claim:before:1"),
    ("deliver:events", "cdc_tracker.logs:set_up:before:1"),
    ("deliver:events", "cdc_tracker.state:State.claim:after:1"),
)


def _signalled(scene: Scene, role: str, place: str, name: str) -> None:
    """Run with that signal at that place of its start; see failpoint.py. Role: empty for the supervisor."""
    scene.tune()
    scene.worker.environment |= {"FAILPOINT": place, "FAILPOINT_SIGNAL": name}
    if role:
        scene.worker.environment["FAILPOINT_ROLE"] = role


@pytest.mark.parametrize(("role", "place"), STARTING)
def test_a_reload_that_comes_while_a_process_starts_ends_none(database: Database, tmp_path: Path, role: str, place: str) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL})
    _signalled(scene, role, place, "SIGHUP")
    with scene.running() as process:
        items.insert(database, 1)
        scene.await_all()
        assert process.poll() is None
        assert "role ended" not in scene.worker.log, scene.worker.log
    scene.check()


@pytest.mark.parametrize(
    ("role", "place", "name"), [*((*each, "SIGTERM") for each in STARTING), *((*each, "SIGINT") for each in STARTING[:5:4])]
)
def test_one_that_is_told_to_stop_while_it_starts_ends_in_order(
    database: Database, tmp_path: Path, role: str, place: str, name: str
) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL})
    _signalled(scene, role, place, name)
    process = scene.worker.start()
    try:
        if role:  # it is told so at each start, so it is started again, and ended with the worker
            until(lambda: scene.worker.log.count("role ended") > 1, "the role ended, twice")
            assert "code=0" in scene.worker.log and "code=-" not in scene.worker.log
            assert end(process) == 0
        else:
            assert process.wait(60) == 0, scene.worker.log
        assert "Traceback" not in scene.worker.log
    finally:
        end(process, signal.SIGKILL)


def test_a_reload_ends_no_role_that_has_just_been_forked(database: Database, tmp_path: Path) -> None:
    """As a service manager or a shell sends it: to every process of the worker."""
    scene = Scene(database, tmp_path, "auto", {"events": JSONL})
    with scene.running() as process:
        told: set[int] = set()
        deadline = time.monotonic() + 60
        while len(roles(process.pid)) < 2:
            assert time.monotonic() < deadline, scene.worker.log
            for pid in set(_children(process.pid)) - told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGHUP)
                told.add(pid)
        first = roles(process.pid)
        items.insert(database, 1)
        scene.await_all()
        assert roles(process.pid) == first and "role ended" not in scene.worker.log
    scene.check()
