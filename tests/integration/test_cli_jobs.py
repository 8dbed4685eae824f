"""`replay`, `backfill` and `jobs` as a person uses them."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.crash.scene import Scene, sql
from tests.integration.test_worker_jobs import EVERY_TYPE, MAPPING, backfill, done, jobs, opened, replay
from tests.postgres import Database
from tests.worker import until

pytestmark = pytest.mark.servers("pg18")
JSONL = {"type": "jsonl", "path": "out/events.jsonl"}


def test_without_a_worker_one_is_started_for_the_job(database: Database, tmp_path: Path) -> None:
    scene = opened(database, tmp_path, "auto", events=JSONL)
    told = scene.worker.call("backfill", "Customer Created", "--destination", "events", "--yes")
    assert "Job 1 is done: 3,000 sent from 3,000 rows." in told
    assert Counter(body["userId"] for body in scene.worker.events()).most_common(1)[0][1] == 1
    assert len(scene.worker.events()) == 3000
    assert all(body["context"]["source"]["snapshot"] is True for body in scene.worker.events())
    assert not scene.streams()  # it has ended


def test_a_job_is_paused_resumed_and_cancelled(database: Database, tmp_path: Path) -> None:
    scene = opened(database, tmp_path, "auto", events=JSONL)
    scene.tune(**{"delivery.jobs.runner__EVENTS": 50})
    with scene.running():
        [number] = backfill(scene, "Customer Created", "events", chunk=100, max_rate=500)
        until(lambda: len(scene.worker.lines()) >= 100, "it has begun")
        scene.worker.call("jobs", "pause", str(number))
        until(lambda: _at_rest(scene), "it rests")
        assert 100 <= len(scene.worker.lines()) < 3000
        told = json.loads(scene.worker.call("jobs", "show", str(number), "--json"))
        assert (told["state"], told["sent"]) == ("paused", len(scene.worker.lines()))
        scene.worker.call("jobs", "resume", str(number))
        until(lambda: len(scene.worker.lines()) > told["sent"], "it goes on")
        scene.worker.call("jobs", "cancel", str(number), "--yes")
        until(lambda: _at_rest(scene), "it rests for good")
    sent = [body["userId"] for body in scene.worker.events()]
    assert len(set(sent)) == len(sent) < 3000
    refused = scene.worker.ended("jobs", "resume", str(number))
    assert refused.returncode == 3
    assert "cannot be resumed: it is cancelled" in refused.stderr


def _at_rest(scene: Scene) -> bool:
    """Nothing has been sent for a while."""
    before = len(scene.worker.lines())
    time.sleep(1.5)
    return len(scene.worker.lines()) == before


def test_a_replay_under_other_mappings_sends_what_they_make(database: Database, tmp_path: Path) -> None:
    scene = opened(database, tmp_path, "auto", mapping=EVERY_TYPE, events=JSONL)
    other = tmp_path / "fixed"
    other.mkdir()
    (other / "events.yml").write_text(EVERY_TYPE.replace("note: new.note}", "note: upper(new.note)}"))
    with scene.running():
        database.execute("INSERT INTO crm.customers (note) VALUES ('first'), ('second')")
        until(lambda: scene.ledger("events")["matched"] == 10, "the stream")
        plan = replay(scene, "events", "--from", "earliest", "--mappings", str(other), "--events", "Row Written")
        assert (plan["events"], plan["by_mapping"]) == (2, {"Row Written": 2})
        (other / "events.yml").write_text("version: 1\nevents: []\n")  # the job has a copy
        until(done(scene), "the replay is done")
    notes = [body["properties"]["note"] for body in scene.worker.events() if body.get("event") == "Row Written"]
    assert sorted(notes) == ["FIRST", "SECOND", "first", "second"]


def test_only_what_is_missing_goes_again(database: Database, tmp_path: Path) -> None:
    jsonl: dict[str, Any] = {**JSONL, "sent_ledger": "30d"}
    scene = opened(database, tmp_path, "auto", events=jsonl, sql=sql(tmp_path))
    with scene.running():
        database.execute("INSERT INTO crm.customers (note) VALUES ('first'), ('second')")
        until(lambda: scene.ledger("events")["matched"] == 4, "the stream")
        plan = replay(scene, "events", "--from", "earliest", "--only-missing")
        assert (plan["events"], plan["withheld"], plan["sent"]) == (4, 4, 0)
        until(done(scene), "the replay is done")
        [job] = jobs(scene)
        assert (job.counts.sent, job.counts.withheld) == (0, 4)
        scene.worker.call("rewind", "events", "--to", "earliest", "--only-missing", "--yes")
        until(lambda: scene.checkpoint("events").rewind_to is None, "the rewind is applied")
        until(lambda: scene.checkpoint("events").position == scene.checkpoint("events").high, "and gone through")
    assert len(scene.worker.lines()) == 4


def test_a_job_that_cannot_go_on_fails_alone_and_says_why(database: Database, tmp_path: Path) -> None:
    scene = opened(database, tmp_path, "auto", events=JSONL)
    scene.tune(**{"delivery.jobs.runner__EVENTS": 50})
    with scene.running():
        [number] = backfill(scene, "Customer Created", "events", chunk=50, max_rate=500)
        until(lambda: len(scene.worker.lines()) >= 100, "it has begun")
        database.execute("ALTER TABLE crm.customers RENAME TO clients")
        until(done(scene, "failed"), "it has failed")
        assert "there is no table crm.customers" in jobs(scene)[0].trouble
        database.execute("ALTER TABLE crm.clients RENAME TO customers")
        database.execute("INSERT INTO crm.customers (note) VALUES ('live')")
        until(lambda: scene.ledger("events")["matched"] > len(scene.worker.lines()) - 3, "the stream goes on")
        scene.worker.call("jobs", "resume", str(number))
        until(done(scene), "and so does the job, from where it was")
    created = Counter(body["userId"] for body in scene.worker.events() if body["type"] == "track")
    assert created == Counter({str(n): 1 for n in range(1, 3002)})


REFUSED = [
    (("replay", "eventz", "--from", "1h"), 2, "there is no destination 'eventz'"),
    (("replay", "events", "--from", "1h", "--events", "Customer Creatd"), 2, "did you mean 'Customer Created'"),
    (("replay", "events", "--from", "2001-01-01"), 3, "The journal does not reach back so far: it begins at"),
    (("replay", "events", "--from", "2101-01-01"), 3, "The journal has nothing from there on"),
    (("replay", "events", "--from", "earliest", "--only-missing"), 3, "keeps no sent-ledger"),
    (("replay", "events", "--from", "earliest", "--yes"), 3, "--yes-duplicates sends them all the same"),
    (("backfill", "Nothing", "--destination", "events"), 2, "no mapping makes an event 'Nothing'"),
    (("backfill", "Customer Created", "--destination", "other"), 2, "there is no destination 'other'"),
    (("backfill", "No Backfill", "--destination", "events"), 3, "has no `backfill`"),
    (("backfill", "No Time", "--destination", "events"), 3, "has no `timestamp`"),
    (("backfill", "No Key", "--destination", "events"), 3, "has no key to read it by"),
    (("backfill", "Leaf", "--destination", "events"), 3, "is a partition of crm.parted"),
    (("backfill", "Customer Created", "--destination", "events", "--where", "nope"), 3, 'column "nope" does not exist'),
    (("backfill", "Customer Created", "--destination", "events", "--where", "true); --"), 3, "closes a parenthesis"),
    (("jobs", "show", "7"), 3, "There is no job 7"),
]


def test_bad_input_is_told_before_anything_is_sent(database: Database, tmp_path: Path) -> None:
    scene = refusing(database, tmp_path)
    for command, code, said in REFUSED:
        ended = scene.worker.ended(*command)
        assert (ended.returncode, said in ended.stderr) == (code, True), f"{command}: {ended.stderr}"
        assert "Traceback" not in ended.stderr
        assert not jobs(scene), command


ODD = """
  - {name: No Backfill, table: crm.customers, user_id: new.id, id: [new.id], timestamp: new.created_at}
  - {name: No Time, table: crm.customers, user_id: new.id, id: [new.id], backfill: {}}
  - {name: No Key, table: crm.keyless, user_id: new.n, id: [new.n], timestamp: new.at, backfill: {}}
  - {name: Leaf, table: crm.leaf, user_id: new.n, id: [new.n], timestamp: new.at, backfill: {}}
"""


def refusing(database: Database, folder: Path) -> Scene:
    """Tables that cannot be read in chunks, and a journal with something in it."""
    scene = opened(database, folder, "auto", events=JSONL)
    database.execute(
        "CREATE TABLE crm.keyless (n int, at timestamptz);"
        "CREATE TABLE crm.parted (n int PRIMARY KEY, at timestamptz) PARTITION BY RANGE (n);"
        "CREATE TABLE crm.leaf PARTITION OF crm.parted DEFAULT;"
    )
    with scene.running():
        database.execute("INSERT INTO crm.customers (note) VALUES ('first')")
        until(lambda: scene.ledger("events")["matched"] == 2, "the stream")
    (folder / "mappings" / "events.yml").write_text(MAPPING + ODD)
    return scene
