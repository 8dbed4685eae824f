"""Two workers, and the server of their locks: whatever ends the sessions, one of them works and nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_tracker.errors import StateUnavailable
from tests.crash import items
from tests.crash.proxy import Proxy
from tests.crash.scene import Scene, segment
from tests.postgres import Database, Server, fresh_database, launch
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Slow
from tests.worker import Worker, alive, end, roles, until

pytestmark = pytest.mark.servers("pg15")
END_WALSENDERS = "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '{}' AND active"


@pytest.fixture
def vendor() -> Iterator[SegmentServer]:
    with SegmentServer() as server:
        yield server


@pytest.fixture
def stores(pg18: Server) -> Iterator[Database]:
    """Where state and journal are, on another server than the source."""
    with fresh_database(pg18) as database:
        yield database


def _scene(database: Database, folder: Path, vendor: SegmentServer, stores: str) -> Scene:
    places = {"state": {"url": stores}, "journal": {"url": stores}}
    scene = Scene(database, folder / "first", "auto", {"segment": segment(vendor)}, **places)
    scene.segment = vendor
    return scene


@contextlib.contextmanager
def _second(scene: Scene, *flags: str, stores: str = "") -> Iterator[tuple[Worker, subprocess.Popen[bytes]]]:
    """Another worker of the same configuration, as on another host."""
    settings = scene.worker.settings
    worker = Worker(
        scene.folder.with_name("second"),
        url=scene.database.url,
        mapping=items.MAPPING,
        slot=scene.slot,
        destinations={"segment": segment(scene.segment)} if scene.segment else {},
        state={"url": stores or settings.state_url},
        journal={"url": stores or settings.journal_url},
        log={"format": "text"},
    )
    process = worker.start(*flags)
    try:
        yield worker, process
    finally:
        end(process, signal.SIGKILL)


def _works(process: subprocess.Popen[bytes]) -> bool:
    return len(roles(process.pid)) == 2


def _end_sessions(database: Database, which: str = "true") -> None:
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which}"
    )


LOCKS = "application_name LIKE '%@%'"


def test_a_worker_whose_lock_sessions_are_ended_goes_on_and_a_standby_goes_on_waiting(
    database: Database, tmp_path: Path, vendor: SegmentServer, stores: Database
) -> None:
    scene = _scene(database, tmp_path, vendor, stores.url)
    with scene.running() as first, _second(scene, "--standby") as (worker, second):
        until(lambda: _works(first) and "standing by" in worker.log, "one works, the other stands by")
        working = roles(first.pid)
        with items.writing(database):
            for _ in range(4):
                _end_sessions(stores, LOCKS)
        scene.await_all()
        assert roles(first.pid) == working and not roles(second.pid) and second.poll() is None
    scene.check()
    assert vendor.repeated == 0


def test_a_restart_of_the_stores_server_is_outlived_by_worker_and_standby(
    database: Database, tmp_path: Path, vendor: SegmentServer
) -> None:
    with launch("pg18") as server:
        scene = _scene(database, tmp_path, vendor, server.url())
        with scene.running() as first, _second(scene, "--standby") as (worker, second):
            until(lambda: _works(first) and "standing by" in worker.log, "one works, the other stands by")
            for mode in ("fast", "immediate"):
                items.insert(database, 10)
                scene.await_all()
                vendor.answers(Slow(2))  # it is under way while the server is gone
                asked = len(vendor.requests)
                items.insert(database, 10)
                until(lambda asked=asked: len(vendor.requests) > asked, "a request is under way")  # type: ignore[misc]
                server.restart(mode)
                scene.await_all()
            assert first.poll() is None and second.poll() is None
            assert not roles(second.pid)
        scene.check()
        assert vendor.repeated == 0


@pytest.mark.parametrize("standby", [False, True], ids=["ends", "stands by"])
def test_a_worker_that_was_paused_for_longer_than_its_locks_sends_nothing_more(
    database: Database, tmp_path: Path, vendor: SegmentServer, stores: Database, standby: bool
) -> None:
    """Its machine was suspended, and another took over. It wakes up with events to send."""
    scene = _scene(database, tmp_path, vendor, stores.url)
    first = scene.worker.start(*["--standby"] * standby)
    try:
        until(lambda: _works(first), "it works")
        items.insert(database, 20)
        scene.await_all()
        paused = [first.pid, *roles(first.pid).values()]
        with _second(scene, "--standby") as (worker, second):
            until(lambda: "standing by" in worker.log, "the second stands by")
            for pid in paused:
                os.kill(pid, signal.SIGSTOP)
            items.insert(database, 50)
            _end_sessions(stores, "application_name LIKE '%' || 'cdc-tracker' || '%' OR " + LOCKS)
            database.execute(END_WALSENDERS.format(scene.slot))
            until(lambda: _works(second), "the second has taken over")
            scene.await_all()
            for pid in paused:
                os.kill(pid, signal.SIGCONT)
            with items.writing(database):
                if standby:
                    until(lambda: "stands by again" in scene.worker.log, "the first stands by again")
                    until(lambda: not roles(first.pid), "its roles have ended")
                else:
                    assert first.wait(60) == 1
            scene.await_all()
            assert _works(second)
        assert "was lost, and process" in scene.worker.log and "has taken it" in scene.worker.log
        assert first.poll() is None or not standby
    finally:
        end(first, signal.SIGKILL)
    scene.check()
    assert vendor.repeated == 0


def test_a_worker_that_is_cut_off_from_its_stores_sends_nothing_more_once_another_took_over(
    database: Database, tmp_path: Path, vendor: SegmentServer, stores: Database
) -> None:
    """The network to the stores swallows everything, and the server has given the sessions up: nobody tells the worker."""
    with Proxy(stores.server.port) as proxy:
        scene = _scene(database, tmp_path, vendor, f"postgresql://postgres@127.0.0.1:{proxy.port}/{stores.name}")
        first = scene.worker.start()
        try:
            until(lambda: _works(first), "it works")
            items.insert(database, 20)
            scene.await_all()
            with _second(scene, "--standby", stores=stores.url) as (worker, second):
                until(lambda: "standing by" in worker.log, "the second stands by")
                proxy.hold()
                items.insert(database, 50)
                _end_sessions(stores)
                database.execute(END_WALSENDERS.format(scene.slot))
                until(lambda: _works(second), "the second has taken over")
                until(lambda: len(vendor.events) == 71, "the second sends")  # with the mark
                proxy.release()
                assert first.wait(60) == 1
                scene.await_all()
        finally:
            end(first, signal.SIGKILL)
        scene.check()
    assert vendor.repeated == 0


def test_a_role_whose_checkpoint_another_has_taken_over_ends_and_begins_from_what_is_stored(
    database: Database, tmp_path: Path, vendor: SegmentServer, stores: Database
) -> None:
    """Its lock holds and its version does not: a store that a failover took back, a pooler that mixes sessions."""
    scene = _scene(database, tmp_path, vendor, stores.url)
    with scene.running() as process:
        items.insert(database, 10)
        scene.await_all()
        before = roles(process.pid)["deliver:segment"]
        stores.execute("UPDATE cdc_tracker_checkpoint SET version = version - 1")
        items.insert(database, 10)
        scene.await_all()
        assert roles(process.pid)["deliver:segment"] != before
        assert not alive(before)
    assert "was restored" in scene.worker.log
    scene.check()


def test_a_standby_waits_for_a_state_store_that_is_not_there_yet(
    database: Database, tmp_path: Path, vendor: SegmentServer
) -> None:
    with launch("pg18") as server:
        scene = _scene(database, tmp_path, vendor, server.url())
        server.stop()
        with pytest.raises(StateUnavailable), scene.state():
            pass
        with scene.running("--standby") as process:
            until(lambda: "standing by" in scene.worker.log, "it waits")
            assert process.poll() is None
            server.start()
            until(lambda: _works(process), "it works")
            scene.await_all()
        scene.check()
