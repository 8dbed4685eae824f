"""Our sessions set what they need: neither role nor database nor libpq's environment changes a value, or ends a stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.replication import ReplicationStream
from cdc_tracker.sources.postgres.snapshot.reader import TableReader
from tests.postgres import Database
from tests.worker import Worker, until

HOSTILE = {
    "DateStyle": "German, DMY",
    "TimeZone": "America/New_York",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "search_path": "elsewhere",
    "quote_all_identifiers": "on",
    "statement_timeout": "300ms",
    "lock_timeout": "10ms",
    "idle_in_transaction_session_timeout": "200ms",
    "idle_session_timeout": "1s",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "standard_conforming_strings": "off",
    "row_security": "off",
    "wal_sender_timeout": "1s",
    "logical_decoding_work_mem": "64kB",
    "work_mem": "64kB",
}
ENVIRONMENT = {
    "PGDATESTYLE": "SQL, DMY",
    "PGTZ": "Asia/Tokyo",
    "PGCLIENTENCODING": "LATIN1",
    "PGAPPNAME": "something",
    "PGOPTIONS": "-c DateStyle=German -c TimeZone=Asia/Tokyo -c search_path=elsewhere -c statement_timeout=300",
    "PGTARGETSESSIONATTRS": "any",
}
WANTED = {
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "search_path": '"$user", public',
    "quote_all_identifiers": "off",
    "client_encoding": "UTF8",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "standard_conforming_strings": "on",
    "row_security": "on",
}
TABLE = """
CREATE TABLE every (id int PRIMARY KEY, day date, at timestamptz, local timestamp, clock timetz, span interval, days date[],
    range tstzrange, bytes bytea, real real, double double precision, points point[], kind regclass, note text,
    spans interval[]);
"""
ROWS = """
INSERT INTO every SELECT n, '2026-03-04', '2026-03-04 10:05:00.5+00', '2026-03-04 10:05:00', '10:00+02',
    '1 year 2 mons 3 days 04:05:06',
    '{2026-03-04}', '[2026-01-01 00:00+00,2026-02-01 00:00+00)', '\\x00ff41', 0.1, 0.1 + 0.2,
    ARRAY['(0.1,3.3333333333333335)'::point],
    'public.every', 'größer 日本', ARRAY['-1 day 02:03:00'::interval] FROM generate_series(%s, %s) n
"""
MAPPING = """
version: 1
events:
  - name: Every
    table: public.every
    on: [insert]
    user_id: new.id
    timestamp: new.at
    properties: {day: new.day, at: new.at, local: new.local, clock: new.clock, span: new.span, days: new.days, range: new.range,
      bytes: new.bytes, real: new.real, double: new.double, points: new.points, kind: new.kind, note: new.note,
      spans: new.spans}
"""


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role for which everything is set otherwise."""
    name = f"r_{database.name}"
    database.execute(f"CREATE ROLE {name} SUPERUSER LOGIN")
    settings = HOSTILE | ({"transaction_timeout": "700ms"} if database.server.major >= 17 else {})
    for key, setting in settings.items():
        value = setting if key == "search_path" else f"'{setting}'"
        database.execute(f"ALTER ROLE {name} SET {key} TO {value}")
    try:
        yield name
    finally:
        database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def _wanted(database: Database, **other: str) -> dict[str, str]:
    version = {} if database.server.major >= 17 else {"transaction_timeout": ""}
    return WANTED | version | other


def test_every_session_of_ours_has_the_settings_that_it_needs(
    database: Database, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    url = database.url_as(role)
    query = "SELECT coalesce(current_setting('{}', true), '')"
    with closing(connect(url)) as control:
        for name, value in _wanted(database, statement_timeout="5s").items():
            assert control.execute(query.format(name).encode()).fetchone() == (value,), name
        assert control.execute("SELECT 'größer'").fetchone() == ("größer",)
    with ReplicationStream(url) as stream:
        for name, value in _wanted(database, statement_timeout="0", wal_sender_timeout="1min").items():
            assert stream._query(query.format(name)) == [value], name
    with TableReader(url, "public.t", ["id"]) as reader:
        reader.read(None, 10)
        other = {"row_security": "off", "lock_timeout": "3s", "idle_in_transaction_session_timeout": "1min"}
        for name, value in _wanted(database, statement_timeout="30s", **other).items():
            assert reader._connected().execute(query.format(name).encode()).fetchone() == (value,), name


@pytest.mark.parametrize("environment", [{}, ENVIRONMENT], ids=["role", "role-and-environment"])
def test_the_same_row_becomes_the_same_event_whatever_is_set(
    database: Database, plugin: str, role: str, environment: dict[str, str], tmp_path: Path
) -> None:
    database.execute(TABLE)
    workers = []
    for name, user in (("plain", "postgres"), ("hostile", role)):
        destinations = {"events": {"type": "jsonl", "path": "out/events.jsonl", "fsync": False}}
        url = database.url_as(user)
        slot = f"{name}_{database.name}"
        worker = Worker(tmp_path / name, url=url, mapping=MAPPING, plugin=plugin, slot=slot, destinations=destinations)
        worker.environment = environment if name == "hostile" else {}
        workers.append(worker)
    workers[0].call("setup", "--yes")
    workers[1].call("setup", "--yes")
    with workers[0].running(), workers[1].running() as hostile:
        database.execute(ROWS % (1, 3))
        database.execute(ROWS % (4, 20_000))  # longer than the time-outs
        for worker in workers:
            until(lambda worker=worker: len(worker.lines()) >= 20_000, "every row has come")  # type: ignore[misc]
        assert hostile.poll() is None
    plain, other = (_bodies(worker) for worker in workers)
    assert plain == other
    assert "stream interrupted" not in workers[1].log, workers[1].log


def _bodies(worker: Worker) -> list[bytes]:
    return [re.sub(rb'"(plain|hostile)_t_', b'"', line) for line in worker.lines()]
