"""A server taken back by a copy of its disk: same system identifier, same timeline, and WAL that has grown past ours since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cdc_tracker.model import parse_lsn
from tests.crash import items
from tests.crash.scene import JSONL, Scene
from tests.missing import leave_out
from tests.postgres import Database, Server, fresh_database, launch
from tests.worker import until

KINDS = [("pg15", "wal2json"), ("pg15", "pgoutput"), ("pg18", "pgoutput")]


@pytest.fixture(params=KINDS, ids=["-".join(kind) for kind in KINDS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Scene, Server]]:
    name, plugin = request.param
    with ExitStack() as stack:
        own = stack.enter_context(launch(name))
        if plugin == "wal2json" and not own.has_wal2json:
            leave_out("wal2json: apt-get install postgresql-15-wal2json")
        made: Database = stack.enter_context(fresh_database(own))
        yield Scene(made, tmp_path, plugin, {"events": JSONL}), own


def _copied(server: Server) -> Path:
    """The server's disk as it is now; it goes on."""
    server.stop()
    kept = server.root / "kept"
    shutil.copytree(server.data, kept, symlinks=True)
    server.start()
    return kept


def _taken_back(server: Server, kept: Path) -> None:
    owner = server.data.stat()
    server.stop()
    shutil.rmtree(server.data)
    shutil.copytree(kept, server.data, symlinks=True)
    for path in [server.data, *server.data.rglob("*")]:
        shutil.chown(path, owner.st_uid, owner.st_gid)
    server.data.chmod(0o700)
    server.start()


def _end(database: Database) -> int:
    return parse_lsn(str(database.value("SELECT pg_current_wal_lsn()")))


@pytest.mark.invariant(10)
def test_a_server_that_was_taken_back_and_has_written_since_is_found_out(place: tuple[Scene, Server]) -> None:
    scene, server = place
    items.insert(scene.database, 3)
    with scene.running():
        scene.await_all()
    kept = _copied(server)
    items.insert(scene.database, 20)
    with scene.running():
        scene.await_all()
    with scene.state() as state:
        record = state.sources.get("main")
    assert record is not None
    reached = max(record.confirmed_lsn, _end(scene.database))
    _taken_back(server, kept)
    while _end(scene.database) <= reached:  # other rows than those that the journal has
        items.insert(scene.database, 10, writer=5)
    before = len(scene.worker.lines())
    ended = scene.worker.ended("run")
    assert ended.returncode == 3, ended.stderr
    assert "restored to an earlier state" in ended.stderr and "`cdc-tracker setup --new-epoch`" in ended.stderr
    assert len(scene.worker.lines()) == before  # nothing of the other history has gone out
    again = scene.worker.ended("run")
    assert again.returncode == 3 and "restored to an earlier state" in again.stderr  # the slot was not moved meanwhile
    assert scene.worker.ended("check").returncode == 1
    repaired = scene.worker.ended("repair", "--json")
    assert repaired.returncode == 3 and "--new-epoch" in json.loads(repaired.stdout)["needs_person"]["hint"]
    scene.worker.call("setup", "--new-epoch", "--yes")
    with scene.running() as process:
        items.mark(scene.database)
        written = _end(scene.database)
        until(lambda: _journaled(scene) >= written, "it goes on with this server")
        assert process.poll() is None


def _journaled(scene: Scene) -> int:
    with scene.stores() as (_, journal):
        end = journal.end()
    return end.commit_lsn if end else 0


@pytest.mark.parametrize("ack", ["delivered", "journaled"])
def test_the_same_server_is_never_taken_for_another(tmp_path: Path, ack: str) -> None:
    """Restarts and crashes of both, with transactions in flight."""
    with launch("pg18") as server, fresh_database(server) as database:
        scene = Scene(database, tmp_path, "pgoutput", {"events": JSONL}, source={"ack": ack})
        for mode in ("immediate", "fast", "immediate"):
            items.insert(database, 23)
            with scene.running() as process, items.writing(database, writers=1, pause=0.1):
                n = items.mark(database)
                until(lambda n=n: scene.has("events", n), "it works")  # type: ignore[misc]
                server.restart(mode)
                n = items.mark(database)
                until(lambda n=n: scene.has("events", n), "it goes on")  # type: ignore[misc]
                assert process.poll() is None
        with scene.running():
            scene.await_all()
        assert "restored to an earlier state" not in scene.worker.log
        scene.check()
