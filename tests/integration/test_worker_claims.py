"""Whoever says that all is well (`status` and its exit code, /readyz, the metrics) stops saying so whatever befalls the worker,
says what it is, and says that all is well again afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.proxy import Proxy
from tests.crash.scene import JSONL, Scene, segment
from tests.integration.probes import Probes, address
from tests.postgres import Database, Server, fresh_database
from tests.unit.state.stores import tmpfs
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Answer
from tests.worker import alive, end, roles, until

TUNED: dict[str, object] = {
    "capture.loop__VITALS": 0.2, "worker.supervisor__LONGEST": 0.5, "monitoring.facts__SILENT": 3.0,
    "monitoring.findings__RETRYING": 1.0, "monitoring.worker__FIT": 0.3, "monitoring.worker__WINDOW": 6.0,
}  # fmt: skip
WELL = "✓ all is well"


class Watched:
    """A worker, and all that speaks of its health."""

    def __init__(self, scene: Scene, proxy: Proxy, vendor: SegmentServer) -> None:
        self.scene, self.proxy, self.vendor = scene, proxy, vendor
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        known = self.scene.worker.log.count("health and metrics")
        self.process = self.scene.worker.start()
        until(lambda: self.scene.worker.log.count("health and metrics") > known, "the probes' address is logged")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def mapping(self) -> Path:
        return self.scene.folder / "mappings" / "events.yml"

    @property
    def probes(self) -> Probes:
        return Probes(address(self.scene.worker.log))

    def role(self, name: str) -> int:
        return roles(self.pid)[name[:15]]

    def status(self) -> tuple[int, str]:
        done = self.scene.worker.ended("status")
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout

    def is_not_well(self, text: str) -> None:
        until(lambda: text in self.probes.problems(), f"/readyz says {text}")
        metrics = self.probes.metrics()
        assert metrics["cdc_tracker_ready",] == 0 and metrics["cdc_tracker_findings", "error"] >= 1
        self.status_says(text)

    def status_says(self, text: str) -> None:
        code, said = self.status()
        assert code == 1 and text in said and WELL not in said, said

    def is_well(self) -> None:
        until(self.probes.ready, "it is ready")
        seen: list[tuple[int, str]] = []

        def says_so() -> bool:
            seen[:] = [self.status()]
            return seen[0][0] == 0 and WELL in seen[0][1]

        try:
            until(says_so, "status says that all is well", pause=0.2)
        except AssertionError:
            raise AssertionError(seen[0][1]) from None
        assert self.probes.metrics()["cdc_tracker_ready",] == 1


@contextmanager
def watching(server: Server, folder: Path, **parts: object) -> Iterator[Watched]:
    with fresh_database(server) as database, Proxy(server.port) as proxy, SegmentServer() as vendor:
        url = database.url_as("postgres", tcp=True).replace(f":{server.port}/", f":{proxy.port}/")
        destinations = {"events": JSONL, "segment": segment(vendor)}
        scene = Scene(database, folder, "auto", destinations, http={"port": 0}, url=url, **parts)
        scene.segment = vendor
        scene.tune(**TUNED)
        watched = Watched(scene, proxy, vendor)
        watched.start()
        try:
            watched.is_well()
            yield watched
        finally:
            assert watched.process is not None
            end(watched.process, signal.SIGKILL)


@pytest.fixture(scope="module")
def watched(pg18: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watching(pg18, tmp_path_factory.mktemp("claims")) as made:
        yield made


Fault = Callable[[Watched], AbstractContextManager[str]]
"""What befalls the worker while it is open; what is then said of it."""


@contextmanager
def role_hangs(watched: Watched) -> Iterator[str]:
    capture = watched.role("capture")
    os.kill(capture, signal.SIGSTOP)
    yield f"capture is silent: its process {capture} runs but has not reported for"
    os.kill(capture, signal.SIGCONT)


@contextmanager
def role_is_killed_again_and_again(watched: Watched) -> Iterator[str]:
    for _ in range(3):
        role = watched.role("deliver:events")
        os.kill(role, signal.SIGKILL)
        until(lambda: roles(watched.pid).get("deliver:events", role) != role, "it is started again")  # noqa: B023
    yield "deliver:events ended 3 times within ten minutes, last with SIGKILL"


@contextmanager
def server_is_away(watched: Watched) -> Iterator[str]:
    watched.proxy.cut_after(0)
    watched.proxy.cut()
    yield "capture is reconnecting"
    metrics = watched.probes.metrics()
    assert metrics["cdc_tracker_source_up",] == 0
    assert ("cdc_tracker_source_lag_bytes",) not in metrics and ("cdc_tracker_source_retained_wal_bytes",) not in metrics
    lag = metrics["cdc_tracker_source_lag_seconds",]
    until(lambda: watched.probes.metrics()["cdc_tracker_source_lag_seconds",] > lag, "what is known of the source grows old")
    watched.proxy.cut_after(None)


@contextmanager
def destination_is_away(watched: Watched) -> Iterator[str]:
    watched.vendor.always(Answer(503))
    items.insert(watched.scene.database, 5)
    until(lambda: "segment is retrying" in watched.status()[1], "status says so at once")
    yield "changes wait, the oldest for"
    watched.vendor.always(None)


@contextmanager
def reload_fails(watched: Watched) -> Iterator[str]:
    good = watched.mapping.read_text()
    watched.mapping.write_text(good + "nonsense: true\n")
    os.kill(watched.pid, signal.SIGHUP)
    yield "mappings: the last reload failed, and the old ones stay in force"
    watched.mapping.write_text(good)
    os.kill(watched.pid, signal.SIGHUP)


@contextmanager
def reload_names_a_column_that_is_not_there(watched: Watched) -> Iterator[str]:
    good = watched.mapping.read_text()
    watched.mapping.write_text(good.replace("n: new.n}", "n: new.n, colour: new.colour}"))
    os.kill(watched.pid, signal.SIGHUP)
    yield "'colour'"
    watched.mapping.write_text(good)
    os.kill(watched.pid, signal.SIGHUP)


@contextmanager
def column_is_renamed(watched: Watched) -> Iterator[str]:
    watched.scene.database.execute("ALTER TABLE shop.items RENAME COLUMN n TO m")
    yield "mappings: do not fit the tables"
    watched.scene.database.execute("ALTER TABLE shop.items RENAME COLUMN m TO n")


@contextmanager
def table_is_renamed(watched: Watched) -> Iterator[str]:
    watched.scene.database.execute("ALTER TABLE shop.items RENAME TO things")
    yield "shop.items does not exist"
    watched.scene.database.execute("ALTER TABLE shop.things RENAME TO items")


FAULTS: list[Fault] = [
    role_hangs,
    role_is_killed_again_and_again,
    server_is_away,
    destination_is_away,
    reload_fails,
    reload_names_a_column_that_is_not_there,
    column_is_renamed,
    table_is_renamed,
]


@pytest.mark.parametrize("befalls", FAULTS, ids=lambda fault: str(fault.__name__))
def test_nobody_says_that_all_is_well_while(befalls: Fault, watched: Watched) -> None:
    with befalls(watched) as text:
        watched.is_not_well(text)
    watched.is_well()


def test_a_worker_that_was_killed_a_moment_ago_is_said_to_be(watched: Watched) -> None:
    started = list(roles(watched.pid).values())
    assert watched.process is not None
    end(watched.process, signal.SIGKILL)
    until(lambda: not any(map(alive, started)), "its roles are gone with it")
    watched.status_says("worker was killed: its process is gone")
    watched.status_says("capture is gone")
    watched.start()
    watched.is_well()


def test_a_supervisor_that_hangs_is_said_to(watched: Watched) -> None:
    os.kill(watched.pid, signal.SIGSTOP)
    try:
        until(lambda: "its supervisor runs but does not report" in watched.status()[1], "status says so", pause=0.3)
        watched.status_says("worker: ")
    finally:
        os.kill(watched.pid, signal.SIGCONT)
    watched.is_well()


def test_a_renamed_column_and_then_a_lost_slot_are_told_in_status_in_the_log_and_by_readiness(
    pg18: Server, tmp_path: Path
) -> None:
    mapping = items.MAPPING.replace("n: new.n}", "n: new.n, note: new.note}")
    with watching(pg18, tmp_path, mapping=mapping) as watched:
        database: Database = watched.scene.database
        database.execute("ALTER TABLE shop.items RENAME note TO remark")
        watched.is_not_well("mappings: do not fit the tables")
        database.execute("INSERT INTO shop.items (writer) SELECT 1 FROM generate_series(1, 20)")
        watched.is_not_well("20 of 20 events of the last 5 minutes (100 %) were rejected")
        lines = [line for line in watched.scene.worker.log.splitlines() if "events are rejected" in line]
        assert len(lines) == 2 and all("column_missing" in line and "dead-letters list" in line for line in lines), lines
        metrics = watched.probes.metrics()
        assert metrics["cdc_tracker_events_total", "segment", "rejected"] == 20
        watched.scene.worker.call("dead-letters", "discard", "--all", "--yes")
        assert watched.probes.metrics()["cdc_tracker_events_total", "segment", "rejected"] == 20

        slot = watched.scene.slot
        database.execute(f"SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '{slot}'")
        until(lambda: _dropped(database, slot), "the slot is dropped")
        assert watched.process is not None
        assert watched.process.wait(60) == 3
        watched.status_says("worker has stopped: capture has stopped")
        watched.status_says(f"the slot {slot} does not exist on the server")


def _dropped(database: Database, slot: str) -> bool:
    database.execute(
        f"SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active;"
        f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}' AND NOT active"
    )
    return not database.value(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'")


def test_a_full_disk_is_told_and_the_stores_on_it_are_read(pg18: Server, tmp_path: Path) -> None:
    with tmpfs("16M") as disk, watching(pg18, tmp_path, data_dir=str(disk / "data")) as watched:
        items.insert(watched.scene.database, 20)
        watched.scene.await_all()
        with (disk / "filler").open("wb", buffering=0) as filler, closing(filler):
            try:
                while True:
                    filler.write(b"\0" * 4096)
            except OSError:
                pass
        items.insert(watched.scene.database, 2000)
        until(lambda: "data_dir: its disk is full" in watched.probes.problems(), "/readyz says so")
        watched.status_says("data_dir: its disk is full")
        for command in (["dead-letters", "list"], ["ledger"], ["jobs", "list"]):
            watched.scene.worker.call(*command)
        assert watched.process is not None
        end(watched.process, signal.SIGKILL)
        watched.status_says("worker was killed: its process is gone")
        watched.scene.worker.call("ledger")
        (disk / "filler").unlink()
        watched.start()
        watched.scene.await_all()
        watched.is_well()
        watched.scene.check()
