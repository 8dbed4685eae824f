"""A PostgreSQL that shuts down waits for its walsenders to have everything confirmed: ours must not hold it up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.scene import JSONL, Scene, segment
from tests.postgres import fresh_database, launch
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Answer
from tests.worker import until


@pytest.mark.parametrize("name", ["pg15", "pg18"])
def test_a_server_shuts_down_although_a_destination_is_dead(name: str, tmp_path: Path) -> None:
    with launch(name) as server, fresh_database(server) as database, SegmentServer() as vendor:
        scene = Scene(database, tmp_path, "auto", {"events": JSONL, "segment": segment(vendor)})
        scene.segment = vendor
        vendor.always(Answer(401))
        with scene.running():
            items.insert(database, 100)
            scene.await_all("events")
            server.stop("fast")
            assert "immediate shutdown" not in server.log.read_text()  # what stop() falls back to after 20 seconds
            vendor.always(None)
            server.start()
            until(scene.streams, "it streams again")
            items.insert(database, 10)
            scene.await_all("events")
