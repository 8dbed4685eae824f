"""Where a destination begins that is added later: now, at the journal's start, or at a time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.crash import items
from tests.crash.scene import JSONL, Scene, sql
from tests.postgres import Database
from tests.worker import until

pytestmark = pytest.mark.servers("pg18")
LATER: dict[str, Any] = {"type": "jsonl", "path": "out/later.jsonl", "fsync": False}


def _configure(scene: Scene, **changed: Any) -> None:
    """Change cdc-tracker.yml; `destinations` are added, other keys replaced."""
    config = yaml.safe_load(scene.worker.config.read_text())
    config["destinations"] |= changed.pop("destinations", {})
    scene.worker.config.write_text(yaml.safe_dump(config | changed))


def _add(scene: Scene, start: Any) -> None:
    _configure(scene, destinations={"later": LATER | {"start": start}})


def _ran(scene: Scene, rows: int) -> None:
    with scene.running():
        items.insert(scene.database, rows)
        scene.await_all()


def _catch_up(scene: Scene) -> None:
    """Run until both destinations have everything up to a new mark."""
    with scene.running():
        n = items.mark(scene.database)
        until(lambda: scene.has("events", n) and scene.has("later", n), f"both have the mark {n}")


def _moment(scene: Scene) -> datetime:
    """The server's time, when nothing commits."""
    time.sleep(0.01)
    found = scene.database.value("SELECT clock_timestamp()")
    assert isinstance(found, datetime)
    time.sleep(0.01)
    return found


def _numbers(scene: Scene, destination: str) -> list[int]:
    return [body["properties"]["n"] for body in scene.bodies(destination)]


@pytest.fixture
def scene(database: Database, tmp_path: Path) -> Scene:
    return Scene(database, tmp_path, "auto", {"events": JSONL})


@pytest.mark.parametrize("by_setup", [True, False])
def test_earliest_begins_at_the_journals_start_and_holds_nobody_back(scene: Scene, by_setup: bool) -> None:
    _ran(scene, 20)
    before = scene.checkpoint("events")
    _add(scene, "earliest")
    if by_setup:
        assert "later" in scene.worker.call("setup")
    assert scene.checkpoint("events") == before
    with scene.running():
        scene.await_all()
    scene.check("events", "later")


def test_a_time_begins_exactly_with_the_first_transaction_committed_at_or_after_it(scene: Scene) -> None:
    with scene.running():
        items.insert(scene.database, 5)
        first = items.mark(scene.database)
        since = _moment(scene)
        items.insert(scene.database, 7)
        scene.await_all()
    _add(scene, since.isoformat())
    scene.worker.call("setup")
    _catch_up(scene)
    assert _numbers(scene, "later") == [n for n in _numbers(scene, "events") if n > first]
    assert len(_numbers(scene, "later")) == 7 + 2  # the marks of await_all and of _catch_up


def test_a_time_that_is_a_commit_begins_with_that_transaction(scene: Scene) -> None:
    with scene.running():
        items.insert(scene.database, 5)
        n = items.mark(scene.database)
        scene.await_all()
    with scene.stores() as (_, journal):
        horizon = journal.horizon()
        assert horizon is not None
        last = horizon.last_time
    last_commit = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=last)
    _add(scene, last_commit.isoformat())
    scene.worker.call("setup")
    with scene.running():
        until(lambda: bool(_numbers(scene, "later")), "the last transaction")
    assert min(_numbers(scene, "later")) > n  # that is await_all's own mark


def test_a_time_that_the_journal_has_not_reached_waits_and_gets_nothing_older_from_the_slot(scene: Scene) -> None:
    _ran(scene, 5)
    items.insert(scene.database, 10)  # nobody captures it yet
    since = _moment(scene)
    _add(scene, since.isoformat())
    assert "once that is captured" in scene.worker.call("setup")
    with scene.running():
        scene.await_all("events")  # its mark is the first after the time
        n = items.mark(scene.database)
        until(lambda: scene.has("later", n), "the new destination has begun")
    assert len(_numbers(scene, "later")) == 2
    assert scene.differences("events") == {}


def test_a_worker_stops_at_once_while_a_destination_waits_for_its_time(scene: Scene) -> None:
    _ran(scene, 1)
    _add(scene, (datetime.now(UTC) + timedelta(days=1)).date())
    with scene.worker.running() as process:
        until(lambda: "which the journal does not have yet" in scene.worker.log, "it waits")
    assert process.returncode == 0
    assert scene.bodies("later") == []


def test_a_time_before_the_journals_start_stops_with_what_to_write_instead(scene: Scene) -> None:
    _ran(scene, 3)
    _add(scene, "2020-01-01")
    refused = scene.worker.ended("setup")
    assert refused.returncode == 3
    with scene.stores() as (state, journal):
        horizon = journal.horizon()
        assert horizon is not None
        assert str(horizon.start) in refused.stderr
        assert "start: earliest" in refused.stderr
        assert "backfill" in refused.stderr
        assert state.checkpoints.get("main", "later") is None
    role = scene.worker.ended("run", "--only", "deliver:later")
    assert role.returncode == 3
    assert "is before the journal begins" in role.stderr


def test_a_changed_start_moves_no_checkpoint(scene: Scene) -> None:
    _ran(scene, 4)
    _add(scene, "now")
    scene.worker.call("setup")
    begun = scene.checkpoint("later")
    _add(scene, "earliest")
    scene.worker.call("setup")
    assert scene.checkpoint("later") == begun
    _catch_up(scene)
    assert len(_numbers(scene, "later")) == 1


def test_at_the_very_first_setup_every_destination_begins_where_the_slot_does(database: Database, tmp_path: Path) -> None:
    destinations = {"events": JSONL, "later": LATER | {"start": "earliest"}, "sql": sql(tmp_path) | {"start": "2020-01-01"}}
    scene = Scene(database, tmp_path, "auto", destinations)
    assert len({scene.checkpoint(name).position for name in destinations}) == 1
    _ran(scene, 6)
    scene.check()


def test_what_a_new_destination_begins_with_is_not_cut_by_a_worker_that_does_not_know_it_yet(scene: Scene) -> None:
    scene.tune(**{"capture.loop__TRIM": 0.1})
    with scene.running():
        items.insert(scene.database, 20)
        scene.await_all()
    _configure(scene, journal={"retention": {"age": "0s", "size": "0B"}})
    with scene.running():
        until(scene.streams, "it streams")
        _add(scene, "earliest")  # the worker that runs has read the configuration before
        scene.worker.call("setup")
        begun = scene.checkpoint("later").position
        for _ in range(5):
            items.insert(scene.database, 10)
            scene.await_all("events")
        time.sleep(0.5)
        with scene.stores() as (_, journal):
            horizon = journal.horizon()
            assert horizon is not None
            assert horizon.start <= begun
    _catch_up(scene)
    assert _numbers(scene, "later") == _numbers(scene, "events")[-len(_numbers(scene, "later")) :]
    assert len(_numbers(scene, "later")) >= 55


@pytest.mark.parametrize(
    ("given", "said"),
    [("yesterday", "expected now, earliest, or an ISO date or time"), (5, "expected now, earliest, or an ISO date or time")],
)
def test_a_start_that_is_none_is_refused_with_what_may_be_written(scene: Scene, given: Any, said: str) -> None:
    _add(scene, given)
    refused = scene.worker.ended("setup")
    assert refused.returncode == 3
    assert said in refused.stderr
    assert "destinations.later.start" in refused.stderr


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31 12:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("'2026-01-31T12:30:00+02:00'", datetime(2026, 1, 31, 10, 30, tzinfo=UTC)),
        ("earliest", "earliest"),
    ],
)
def test_a_start_is_read_as_written_and_utc_without_a_zone(scene: Scene, written: str, meant: object) -> None:
    text = scene.worker.config.read_text().replace("type: jsonl", f"type: jsonl\n    start: {written}")
    scene.worker.config.write_text(text)
    assert scene.worker.settings.destinations["events"].start == meant
