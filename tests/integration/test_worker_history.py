"""Sent again: rewinds while the worker runs, and dead letters."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.scene import JSONL, Scene, die, sql
from tests.postgres import Database
from tests.worker import until

pytestmark = pytest.mark.servers("pg18")
PICKY = items.MAPPING.replace("n: new.n}", "n: new.n, note: {value: new.note, type: string, pattern: '^[a-z]+$'}}")


def _times(scene: Scene, destination: str) -> Counter[tuple[str, int]]:
    """Change → how often it is there."""
    return Counter((body["properties"]["op"], body["properties"]["n"]) for body in scene.bodies(destination))


def test_a_rewind_while_the_worker_runs_sends_the_range_again(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL, "sql": sql(tmp_path)})
    with scene.running():
        with items.writing(database, pause=0.01):
            time.sleep(1.0)
            lsn = str(database.value("SELECT pg_current_wal_lsn()"))
            first = items.mark(database)
            until(lambda: scene.has("events", first) and scene.has("sql", first), "the first mark")
            time.sleep(1.0)
            second = items.mark(database)
            until(lambda: scene.has("events", second) and scene.has("sql", second), "the second mark")
            for destination in ("events", "sql"):
                plan = json.loads(scene.worker.call("rewind", destination, "--to", lsn, "--yes", "--yes-duplicates", "--json"))
                assert plan["events"] > 0
                until(lambda to=destination: scene.checkpoint(to).rewind_to is None, "it is applied")  # type: ignore[misc]
        scene.await_all()
        until(lambda: scene.checkpoint("events").position == scene.checkpoint("events").high, "all of it went again")
        until(lambda: scene.checkpoint("sql").position == scene.checkpoint("sql").high, "all of it went again")
    times = _times(scene, "events")
    assert set(times.values()) == {1, 2}
    assert times["insert", first] == times["insert", second] == 2
    assert scene.ledger("events")["replayed"] == sum(number - 1 for number in times.values())
    assert scene.ledger("sql")["replayed"] > 0
    assert scene.differences("events") == {"doubled": scene.ledger("events")["replayed"]}
    scene.check("sql")
    twice = [
        body["messageId"] for body in scene.bodies("events") if times[body["properties"]["op"], body["properties"]["n"]] == 2
    ]
    assert set(Counter(twice).values()) == {2}  # under the same ids


@pytest.mark.parametrize(
    "place",
    [
        "cdc_tracker.destinations.jsonl:JsonlDestination.rewind:after:1",
        "cdc_tracker.state:Checkpoints.apply_rewind:after:1",
    ],
)
def test_a_rewind_that_is_cut_short_is_finished_by_the_next_run(database: Database, tmp_path: Path, place: str) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL})
    with scene.running():
        items.insert(database, 5)
        lsn = str(database.value("SELECT pg_current_wal_lsn()"))
        items.insert(database, 7)
        scene.await_all()
    scene.worker.call("rewind", "events", "--to", lsn, "--yes", "--yes-duplicates")
    scene.tune()
    die(scene, "deliver:events", place)
    with scene.running():
        until(lambda: len(scene.worker.lines()) >= 13 + 8, "the range again")
        scene.await_all()
    assert Counter(_times(scene, "events").values()) == {1: 5 + 1, 2: 7 + 1}
    assert scene.ledger("events")["replayed"] == 8


def test_dead_letters_are_delivered_once_the_mapping_is_mended(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL, "sql": sql(tmp_path)}, mapping=PICKY)
    with scene.running() as process:
        database.execute(
            "INSERT INTO shop.items (writer, note) SELECT 1, CASE WHEN g % 3 = 0 THEN 'No ' ELSE 'yes' END FROM "
            "generate_series(1, 30) g"
        )
        until(lambda: all(scene.ledger(name)["matched"] == 30 for name in ("events", "sql")), "all are dealt with")
        for name in ("events", "sql"):
            assert scene.ledger(name) >= Counter(delivered=20, rejected=10, matched=30)
        letters = json.loads(scene.worker.call("dead-letters", "list", "--json"))
        assert len(letters if isinstance(letters, list) else letters["dead_letters"]) == 20
        (tmp_path / "mappings" / "events.yml").write_text(items.MAPPING)
        process.send_signal(signal.SIGHUP)
        until(lambda: scene.worker.log.count("mappings reloaded") == 2, "the mended mapping is in force")
        scene.worker.call("dead-letters", "retry", "--all")
        until(lambda: not _letters(scene), "no letter is left")
        scene.await_all()
    for name in ("events", "sql"):
        assert scene.ledger(name) == Counter(matched=31, delivered=31), scene.ledger(name)
        assert _times(scene, name).total() == 31 == len(_times(scene, name))


def _letters(scene: Scene) -> int:
    with scene.state() as state:
        return sum(state.dead_letters.count("main").values())


def test_a_retry_of_dead_letters_that_is_cut_short_loses_and_doubles_none(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "auto", {"events": JSONL, "sql": sql(tmp_path)}, mapping=PICKY)
    with scene.running():
        database.execute("INSERT INTO shop.items (writer, note) SELECT 1, 'No ' FROM generate_series(1, 6)")
        until(lambda: all(scene.ledger(name)["rejected"] == 6 for name in ("events", "sql")), "all are parked")
    (tmp_path / "mappings" / "events.yml").write_text(items.MAPPING)
    scene.worker.call("dead-letters", "retry", "--all")
    scene.tune()
    for name, when in (("events", "before"), ("events", "after"), ("sql", "before")):
        die(scene, f"deliver:{name}", f"cdc_tracker.state:DeadLetters.finish_retry:{when}:1")
    with scene.running():
        until(lambda: not _letters(scene), "no letter is left")
        scene.await_all()
    for name in ("events", "sql"):
        assert scene.ledger(name) == Counter(matched=7, delivered=7), scene.ledger(name)
        assert _times(scene, name).total() == 7 == len(_times(scene, name)), name
