"""A year of the ledger: what is asked every few seconds does not read it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.journal import Journal
from cdc_tracker.monitoring import Observer
from cdc_tracker.monitoring.metrics import exposition
from cdc_tracker.state import State
from cdc_tracker.state.store import KIND
from tests.unit.state.stores import made_by_an_older_version

HOURS, MAPPINGS, DESTINATIONS = 24 * 365, 10, 3
ROWS = HOURS * MAPPINGS * DESTINATIONS
STEP = 1_000  # instructions of SQLite's machine between two calls of the counter
NEWEST = 500_000
A_YEAR = f"""
INSERT INTO cdc_tracker_ledger
WITH RECURSIVE h(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM h WHERE n < {HOURS}),
     m(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM m WHERE n < {MAPPINGS}),
     d(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM d WHERE n < {DESTINATIONS})
SELECT 'main', 'to' || d.n, 'mapping' || m.n, {NEWEST - HOURS} + h.n, 5, 3, 0, 1, 1, 2 FROM h, m, d
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """As the version before had left it."""
    url = f"sqlite:///{tmp_path}/state.sqlite"
    made_by_an_older_version(url, KIND, "0002", A_YEAR)
    with State.open(url) as opened:
        yield opened


def test_totals_of_a_year_are_added_up_once_when_the_store_is_migrated(state: State) -> None:
    totals = state.ledger.totals("main")
    assert set(totals) == {"to1", "to2", "to3"}
    assert totals["to2"].now == totals["to2"].ever
    assert totals["to2"].now["matched"] == 5 * HOURS * MAPPINGS and totals["to2"].now["replayed"] == 2 * HOURS * MAPPINGS


def test_readiness_metrics_and_status_read_no_more_of_a_year_than_of_a_day(state: State, tmp_path: Path) -> None:
    names = [f"to{number + 1}" for number in range(DESTINATIONS)]
    with Journal.open(f"sqlite:///{tmp_path}/journal.sqlite", "main") as journal:
        observer = Observer(state, journal, "main", names, tmp_path)
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += STEP

        with state._database.reading() as connection:
            driver: Any = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.set_progress_handler(count, STEP)
            assert observer.look().destinations[1].totals.now["delivered"] == 3 * HOURS * MAPPINGS
            assert b'cdc_tracker_events_total{destination="to1",outcome="rejected"} 87600.0' in exposition(observer)
            assert state.ledger.delivered_since("main", NEWEST - 1) == dict.fromkeys(names, 2 * 5 * MAPPINGS)
            assert steps < ROWS / 10, "they read through the ledger"
            state.ledger.rows("main")
            assert steps > ROWS  # as this does
