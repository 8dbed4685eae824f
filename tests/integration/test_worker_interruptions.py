"""The server restarts, the walsender is ended, a second worker comes: nothing is lost or doubled."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.proxy import Proxy
from tests.crash.scene import JSONL, Scene, sql
from tests.postgres import Database
from tests.worker import alive, end, roles, until

TERMINATE = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE slot_name = '{}' AND active"


def test_server_restarts_and_ended_walsenders_lose_and_double_nothing(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL, "sql": sql(tmp_path)})
    with scene.running() as process:
        with items.writing(database):
            until(scene.streams, "it streams")
            capture = roles(process.pid)["capture"]
            for _ in range(3):
                until(lambda: database.value(TERMINATE.format(scene.slot)) == 1, "a walsender to end")
                time.sleep(0.2)
            for mode in ("fast", "immediate"):
                database.server.restart(mode)
                until(scene.streams, f"it streams after a restart ({mode})")
                time.sleep(0.3)
        scene.await_all()
        assert roles(process.pid)["capture"] == capture  # it came back by itself
    scene.check()


@pytest.mark.servers("pg18")
def test_a_second_worker_stops_and_says_who_works(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL})
    with scene.running() as process:
        until(scene.streams, "it streams")
        second = scene.worker.ended("run")
    assert second.returncode == 3
    assert f"held by process {process.pid} on" in second.stderr and "--standby" in second.stderr


@pytest.mark.servers("pg18")
def test_a_worker_with_another_state_store_stops_and_says_who_reads_the_slot(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path / "one", "auto", {"events": JSONL})
    with scene.running():
        until(scene.streams, "it streams")
        pid = database.value(f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{scene.slot}'")
        other = Scene.beside(scene, tmp_path / "two")
        other.worker.call("setup", "--adopt", "--yes")
        other.tune(**{"capture.loop__BUSY": 0.5})  # else it would wait for longer: a walsender may outlive its client
        second = other.worker.ended("run")
    assert second.returncode == 3
    assert f"pid {pid} (cdc-tracker, user postgres)" in second.stderr, second.stderr


@pytest.mark.servers("pg18")
def test_a_slot_that_our_own_dead_connection_still_holds_is_waited_for(database: Database, tmp_path: Path) -> None:
    with Proxy(database.server.port) as proxy:
        url = database.url_as("postgres", tcp=True).replace(f":{database.server.port}/", f":{proxy.port}/")
        scene = Scene(database, tmp_path, "auto", {"events": JSONL}, url=url)
        scene.tune(**{"capture.loop__BUSY": 3.0})
        with scene.running() as process:
            until(scene.streams, "it streams")
            scene.await_all()
            time.sleep(3.0)  # a session of longer than BUSY
            proxy.abandon()
            until(lambda: "is being read by" in scene.worker.log, "the old walsender is in the way")
            time.sleep(0.5)
            proxy.cut()
            scene.await_all()
            assert process.poll() is None
    scene.check()


@pytest.mark.servers("pg18")
def test_a_standby_takes_over_when_the_worker_is_killed(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL})
    first = scene.worker.start()
    try:
        until(scene.streams, "it streams")
        with scene.running("--standby") as second, items.writing(database):
            until(lambda: "standing by" in scene.worker.log, "the second stands by")
            assert not roles(second.pid)
            end(first, signal.SIGKILL)
            until(lambda: len(roles(second.pid)) == 2, "the second has taken over")
            scene.await_all()
    finally:
        end(first, signal.SIGKILL)
    with scene.running():
        scene.await_all()
    scene.check()


@pytest.mark.servers("pg18")
def test_no_role_outlives_a_killed_supervisor(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL, "sql": sql(tmp_path)})
    process = scene.worker.start()
    until(lambda: len(roles(process.pid)) == 3, "every role is started")
    children = list(roles(process.pid).values())
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    until(lambda: not any(map(alive, children)), "its roles have ended")


@pytest.mark.servers("pg18")
def test_a_killed_fork_server_ends_the_worker_with_its_roles_and_the_next_run_goes_on(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL, "sql": sql(tmp_path)})
    process = scene.worker.start()
    until(lambda: len(roles(process.pid)) == 3, "every role is started")
    children = roles(process.pid)
    with items.writing(database):
        until(scene.streams, "it streams")
        os.kill(int(Path(f"/proc/{children['capture']}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
        assert process.wait(10) == 1
        until(lambda: not any(map(alive, children.values())), "its roles have ended")
    assert "the process that starts the roles is gone" in scene.worker.log
    with scene.running():
        scene.await_all()
    scene.check()
