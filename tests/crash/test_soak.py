"""A short soak; `make soak` runs a long one over every server and plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.soak import soak
from tests.postgres import Database


@pytest.mark.invariant(6)
@pytest.mark.servers("pg15", "pg18")
def test_a_worker_that_is_killed_at_random_moments_loses_and_doubles_nothing(database: Database, tmp_path: Path) -> None:
    plugin = "wal2json" if database.server.has_wal2json else "pgoutput"
    outcome = soak(database, plugin, kills=13, seed=20 + database.server.major, folder=tmp_path)
    assert outcome.kills.total() == 13 and outcome.committed > 0
