"""A partitioned table comes to be mapped while the slot is wal2json's: capture stops and says why, `setup` changes the plugin."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import pytest

from cdc_tracker.sources.postgres import plugins, slot
from cdc_tracker.sources.postgres.connection import connect
from tests.postgres import Database
from tests.worker import Worker, end, until

pytestmark = pytest.mark.servers("pg15")
HEAD = "version: 1\nevents:\n"
A = "  - {name: A Made, table: public.a, user_id: new.id, id: [new.id]}\n"
P = "  - {name: P Made, table: public.p, user_id: new.id, id: [new.id]}\n"
SCHEMA = """
CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100)
"""


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> Worker:
    database.execute(SCHEMA)
    events = {"events": {"type": "jsonl", "path": "out/events.jsonl"}}
    made = Worker(tmp_path, url=database.url, slot=database.name, mapping=HEAD + A, destinations=events)
    assert "(wal2json)" in made.call("setup")
    return made


def mapped(worker: Worker, text: str) -> None:
    (worker.folder / "mappings" / "events.yml").write_text(HEAD + text)


def users(worker: Worker, event: str) -> list[int]:
    return sorted(int(each["userId"]) for each in worker.events() if each["event"] == event)


def test_nothing_is_missed_where_a_partitioned_table_makes_the_slot_pgoutput_s(worker: Worker, database: Database) -> None:
    with worker.running() as process:
        database.execute("INSERT INTO a VALUES (1)")
        until(lambda: users(worker, "A Made") == [1], "the first row")
        mapped(worker, A + P)
        process.send_signal(signal.SIGHUP)
        until(lambda: "is partitioned" in worker.log, "capture has stopped")
        assert "cdc-tracker setup" in worker.log
        until(lambda: process.poll() is not None, "the worker has ended")
    database.execute("INSERT INTO a SELECT generate_series(2, 50)")  # nobody has read these yet
    assert "is partitioned" in worker.ended("check").stdout
    told = worker.call("setup")
    assert "continues with pgoutput" in told
    assert "is partitioned" not in told
    database.execute(
        "INSERT INTO a VALUES (51); INSERT INTO p VALUES (1); CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (100) TO (200)"
    )
    database.execute("INSERT INTO p SELECT generate_series(101, 150); ALTER TABLE p DETACH PARTITION p_2; DROP TABLE p_2")
    with worker.running():
        until(lambda: len(users(worker, "A Made")) >= 51 and len(users(worker, "P Made")) >= 51, "all of it")
    assert users(worker, "A Made") == list(range(1, 52))
    assert users(worker, "P Made") == [1, *range(101, 151)]
    assert (
        database.value(f"SELECT string_agg(plugin, ' ') FROM pg_replication_slots WHERE slot_name LIKE '{database.name}%'")
        == "pgoutput"
    )
    assert "exists (pgoutput)" in worker.call("setup")


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_change_of_the_plugin_that_was_interrupted_is_finished(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    database.execute("INSERT INTO a SELECT generate_series(1, 9)")
    process = worker.start()
    until(lambda: users(worker, "A Made") == list(range(1, 10)), "the rows")
    end(process)
    mapped(worker, A + P)

    class Killed(Exception):
        pass

    with closing(connect(database.url)) as connection:
        done = 0
        drop, execute = slot.drop, connection.execute

        def count() -> None:
            nonlocal done
            done += 1
            if done > steps:
                raise Killed

        def copied(query: object, *rest: object) -> object:
            if query is plugins._COPY:
                count()
            return execute(query, *rest)  # type: ignore[call-overload]

        def dropped(connection: object, name: str) -> bool:
            if name == database.name:
                count()
            return drop(connection, name)  # type: ignore[arg-type]

        monkeypatch.setattr(connection, "execute", copied)
        monkeypatch.setattr(slot, "drop", dropped)
        if steps < 3:
            with pytest.raises(Killed):
                plugins.change(connection, database.name, 0)
        else:
            plugins.change(connection, database.name, 0)
    monkeypatch.undo()
    assert "was interrupted" in worker.ended("check").stdout
    repair = worker.ended("repair", "--yes")
    assert (repair.returncode, "`cdc-tracker setup`, which finishes it" in repair.stderr) == (3, True)
    assert "continues with pgoutput" in worker.call("setup")
    database.execute("INSERT INTO a VALUES (10); INSERT INTO p VALUES (1)")
    with worker.running():
        until(lambda: len(worker.events()) >= 11, "all of it")
    assert users(worker, "A Made") == list(range(1, 11))
    assert database.value(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '{database.name}%'") == 1


def test_wal2json_is_refused_for_what_it_does_not_give_exactly(worker: Worker, database: Database) -> None:
    text = worker.config.read_text().replace("plugin: auto", "plugin: wal2json")
    worker.config.write_text(text)
    mapped(worker, A + P)
    for command in ("setup", "run", "check"):
        found = worker.ended(command)
        assert found.returncode
        assert "is partitioned" in found.stdout + found.stderr + worker.log
        assert "plugin: auto" in found.stdout + found.stderr + worker.log


def test_a_mapped_table_that_becomes_a_partition_of_another_stays_itself(worker: Worker, database: Database) -> None:
    database.execute("CREATE TABLE whole (id int) PARTITION BY RANGE (id)")
    with worker.running():
        database.execute(
            "INSERT INTO a VALUES (1); ALTER TABLE whole ATTACH PARTITION a FOR VALUES FROM (0) TO (9); INSERT INTO a VALUES (2)"
        )
        until(lambda: users(worker, "A Made") == [1, 2], "both rows")
