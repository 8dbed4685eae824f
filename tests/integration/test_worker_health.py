"""/healthz, /readyz and /metrics tell the truth, also when the stream only seems to be alive."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.crash import items
from tests.crash.proxy import Proxy
from tests.crash.scene import JSONL, Scene
from tests.integration.probes import Probes, address
from tests.postgres import Database
from tests.worker import until

pytestmark = pytest.mark.servers("pg18")


@contextmanager
def _probed(scene: Scene) -> Iterator[tuple[Probes, int]]:
    """The worker runs; its probes, and the supervisor's process id."""
    with scene.running() as process:
        until(lambda: "health and metrics" in scene.worker.log, "the probes' address is logged")
        yield Probes(address(scene.worker.log)), process.pid


def _scene(database: Database, folder: Path, destinations: dict[str, dict[str, Any]], **parts: Any) -> Scene:
    scene = Scene(database, folder, "auto", destinations, http={"port": 0}, **parts)
    scene.tune(
        **{"capture.loop__VITALS": 0.2},
        **{"monitoring.facts__SILENT": 2.5, "monitoring.findings__STALLED": 1.0, "monitoring.findings__BEHIND": 1.0},
    )
    return scene


def test_a_worker_at_work_is_ready_and_its_metrics_agree_with_the_ledger(database: Database, tmp_path: Path) -> None:
    scene = _scene(database, tmp_path, {"events": JSONL})
    with _probed(scene) as (probes, _):
        until(probes.ready, "it is ready")
        items.insert(database, 20)
        scene.await_all()
        assert probes.get("/healthz").status_code == 200 and probes.get("/nothing").status_code == 404
        metrics = probes.metrics()
        ledger = scene.ledger("events")
        for outcome in ("matched", "delivered", "rejected"):
            assert metrics["cdc_tracker_events_total", "events", outcome] == ledger[outcome]
        assert metrics["cdc_tracker_ready",] == 1 and metrics["cdc_tracker_destination_backlog_bytes", "events"] == 0
        assert metrics["cdc_tracker_role_up", "capture"] == metrics["cdc_tracker_role_up", "deliver:events"] == 1
        assert metrics["cdc_tracker_source_retained_wal_bytes",] > 0 and metrics["cdc_tracker_journal_segments",] > 0
        assert not probes.problems()


def test_a_walsender_that_hangs_makes_the_worker_unready(database: Database, tmp_path: Path) -> None:
    scene = _scene(database, tmp_path, {"events": JSONL}, source={"heartbeat": "0s"})
    with _probed(scene) as (probes, _):
        until(probes.ready, "it is ready")
        walsender = int(str(database.value(f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{scene.slot}'")))
        os.kill(walsender, signal.SIGSTOP)
        try:
            items.insert(database, 5)
            until(lambda: "the stream has not moved" in probes.problems(), "it is not ready")
        finally:
            os.kill(walsender, signal.SIGCONT)
        scene.await_all()
        until(probes.ready, "it is ready again")
    scene.check()


def test_a_connection_that_is_cut_or_held_in_mid_stream_loses_nothing(database: Database, tmp_path: Path) -> None:
    with Proxy(database.server.port) as proxy:
        url = database.url_as("postgres", tcp=True).replace(f":{database.server.port}/", f":{proxy.port}/")
        scene = _scene(database, tmp_path, {"events": JSONL}, url=url)
        with _probed(scene) as (probes, _):
            until(probes.ready, "it is ready")
            with items.writing(database):
                for _ in range(3):
                    until(scene.streams, "it streams")
                    proxy.cut()
                until(probes.ready, "it is ready again")
                proxy.hold()
                until(lambda: not probes.ready(), "it is not ready while nothing passes")
                proxy.release()
                until(probes.ready, "it is ready again")
            scene.await_all()
        scene.check()
