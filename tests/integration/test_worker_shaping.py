"""Workers whose destinations get some events only, shaped by their own settings, or none at all for now."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.crash import items
from tests.crash.scene import JSONL, Scene, sql
from tests.postgres import Database
from tests.worker import until

pytestmark = pytest.mark.servers("pg18")  # no server makes a difference to what comes after the mapping
SHAPED: dict[str, Any] = {
    "type": "jsonl",
    "path": "out/shaped.jsonl",
    "fsync": False,
    "events": {"except": ["*Deleted"], "rename": {"Item Changed": "item_changed"}},
    "properties": {"rename": {"n": "number"}, "except": ["context.source.lsn"]},
}


def settled(scene: Scene, destination: str, matched: int) -> None:
    until(lambda: scene.ledger(destination)["matched"] >= matched, f"{destination} has counted {matched}", pause=0.2)


def rows(database: Database, writer: int, number: int) -> None:
    """As many inserts and deletes."""
    items.insert(database, number, writer)
    database.execute(f"DELETE FROM shop.items WHERE writer = {writer}")


def rewrite(scene: Scene, **settings: Any) -> None:
    """Change a destination's settings in the file; None removes one."""
    written = yaml.safe_load(scene.worker.config.read_text())
    for name, changes in settings.items():
        merged = {**written["destinations"][name], **changes}
        written["destinations"][name] = {key: value for key, value in merged.items() if value is not None}
    scene.worker.config.write_text(yaml.safe_dump(written))


def test_filters_and_renames_hold_for_the_stream_for_replays_and_across_kills(
    database: Database, tmp_path: Path, plugin: str
) -> None:
    scene = Scene(database, tmp_path, plugin, {"all": {**JSONL, "path": "out/all.jsonl"}, "shaped": SHAPED})
    for writer in range(3):
        with scene.running():  # ended by SIGKILL
            rows(database, writer, 40)
            settled(scene, "shaped", 80 * (writer + 1))
            settled(scene, "all", 80 * (writer + 1))
    whole = [body for body in scene.bodies("all") if body["event"] == "Item Changed"]
    for body in whole:
        body["event"] = "item_changed"
        body["properties"] = {"op": body["properties"]["op"], "number": body["properties"]["n"]}
        del body["context"]["source"]["lsn"]
    assert scene.bodies("shaped") == whole
    assert len(whole) == 120
    counted = {"matched": 240, "delivered": 120, "suppressed": 120, "pending": 0}
    assert {name: scene.ledger("shaped")[name] for name in counted} == counted

    outlook = json.loads(scene.worker.call("replay", "shaped", "--from", "earliest", "--dry-run", "--json"))
    assert (outlook["sent"], outlook["left_out"], outlook["dry_run"]) == (120, 120, False)
    with scene.running():
        scene.worker.call("replay", "shaped", "--from", "earliest", "--yes", "--yes-duplicates")
        until(lambda: len(scene.bodies("shaped")) == 240, "the replay has arrived")
    assert scene.bodies("shaped") == whole * 2
    with scene.state() as state:
        [job] = state.jobs.all("main")
    assert (job.counts.matched, job.counts.sent, job.counts.withheld) == (240, 120, 120)


def test_a_dry_run_counts_everything_sends_nothing_and_goes_on_from_where_it_ended(
    database: Database, tmp_path: Path, plugin: str
) -> None:
    scene = Scene(database, tmp_path, plugin, {"events": JSONL, "sql": sql(tmp_path)})
    with scene.running():
        items.insert(database, 20, 1)
        settled(scene, "events", 20)
        settled(scene, "sql", 20)
    rewrite(scene, events={"dry_run": True}, sql={"dry_run": True})
    with scene.running():
        items.insert(database, 30, 2)
        for name in ("events", "sql"):
            settled(scene, name, 50)
            assert (scene.ledger(name)["delivered"], scene.ledger(name)["suppressed"]) == (20, 30)
            assert len(scene.bodies(name)) == 20
        seen = json.loads(scene.worker.ended("status", "--json").stdout)
        assert [each["dry_run"] for each in seen["destinations"]] == [True, True]
        assert "(dry run)" in scene.worker.ended("status").stdout
        checked = scene.worker.ended("check", "--json").stdout
        assert checked.count("nothing is sent to it") == 2
    rewrite(scene, events={"dry_run": None}, sql={"dry_run": None})
    with scene.running():
        items.insert(database, 10, 3)
        for name in ("events", "sql"):
            settled(scene, name, 60)
            assert len(scene.bodies(name)) == 30
    for name in ("events", "sql"):
        assert Counter(body["userId"] for body in scene.bodies(name)) == {"1": 20, "3": 10}
        assert (scene.ledger(name)["delivered"], scene.ledger(name)["suppressed"]) == (30, 30)
    assert "was restored" not in scene.worker.log


def test_what_a_dry_run_held_back_a_rewind_sends(database: Database, tmp_path: Path, plugin: str) -> None:
    scene = Scene(database, tmp_path, plugin, {"events": {**JSONL, "dry_run": True}})
    with scene.running():
        items.insert(database, 25, 1)
        settled(scene, "events", 25)
    assert scene.bodies("events") == [] and not (tmp_path / "out").exists()
    rewrite(scene, events={"dry_run": None})
    scene.worker.call("rewind", "events", "--to", "earliest", "--yes", "--yes-duplicates")
    with scene.running():
        until(lambda: len(scene.bodies("events")) == 25, "everything has arrived")
        until(lambda: scene.ledger("events")["replayed"] == 25, "it is counted")
    assert scene.differences("events") == {}


def test_in_a_dry_run_dead_letters_wait(database: Database, tmp_path: Path, plugin: str) -> None:
    mapping = items.MAPPING.replace("{op: op, n: new.n}", "{op: op, n: {value: new.n, maximum: 3}}")
    scene = Scene(database, tmp_path, plugin, {"events": {**JSONL, "dry_run": True}}, mapping=mapping)
    with scene.running():
        items.insert(database, 5, 1)
        settled(scene, "events", 5)
    assert scene.ledger("events")["rejected"] == 2
    (tmp_path / "mappings" / "events.yml").write_text(items.MAPPING)
    scene.worker.call("dead-letters", "retry", "--all")
    with scene.running():
        items.insert(database, 1, 2)
        settled(scene, "events", 6)
        with scene.state() as state:
            assert len(state.dead_letters.queued("main", "events", 10)) == 2
    rewrite(scene, events={"dry_run": None})
    with scene.running():
        until(lambda: len(scene.bodies("events")) == 2, "the letters have arrived")
        until(lambda: scene.ledger("events")["rejected"] == 0, "they are counted")
    assert (scene.ledger("events")["delivered"], scene.ledger("events")["suppressed"]) == (2, 4)
