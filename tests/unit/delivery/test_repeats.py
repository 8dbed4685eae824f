"""Events of several changes that have the same id: what the destination tells of it stands in the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdc_tracker.destinations.sql import SqlDestination, SqlSettings
from cdc_tracker.model import Position
from tests.unit.delivery.stage import MAPPING, Stage, staged, until
from tests.unit.pipeline.frames import Order

FOLDING = MAPPING.replace("    user_id", "    id: [new.user_id]\n    user_id")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path, FOLDING) as opened:
        yield opened


def opened(folder: Path) -> SqlDestination:
    return SqlDestination("d", SqlSettings.model_validate({"url": f"sqlite:///{folder}/events.db"}), folder)


def rows(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "events.db")) as file:
        return int(file.execute("SELECT count(*) FROM tracks").fetchone()[0])


@pytest.mark.invariant(18)
@pytest.mark.parametrize("each", [1, 12])
def test_events_that_fold_into_one_are_counted_apart(stage: Stage, tmp_path: Path, each: int) -> None:
    destination = opened(tmp_path)
    stage.rows(*(Order(n, user_id=n % 5) for n in range(12)), each=each)
    with stage.delivering(destination):
        until(lambda: stage.settled(12), "all are counted")
        assert rows(tmp_path) == 5
        row = stage.ledger()
        assert (row.matched, row.delivered, row.suppressed, row.repeated) == (12, 5, 7, 7)
        stage.state.checkpoints.request_rewind("main", "d", Position(0, -1))
        stage.journal.wake()
        until(lambda: stage.ledger().replayed == 12, "they have come again")
    row = stage.ledger()
    assert (row.matched, row.delivered, row.suppressed, row.repeated) == (12, 5, 7, 7)
    destination.close()
