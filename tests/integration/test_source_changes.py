"""What is done to the captured database while it is captured: renamed, narrowed, altered. The running session sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.sources.postgres import placement, publication, slot
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.session import Session
from tests.integration.folder import Run, deliver_everything, events
from tests.postgres import Database, Server, drop_database, plugins

NEEDS = {
    "shop.orders": Need(frozenset({"insert", "update"}), frozenset({"id", "note"})),
    "shop.log": Need(frozenset({"insert"}), frozenset({"line"})),
    "shop.parts": Need(frozenset({"insert", "delete"}), frozenset({"id"})),
}
TABLES = """
CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY, note text); CREATE TABLE shop.log (line text);
CREATE TABLE shop.parts (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE shop.p1 PARTITION OF shop.parts FOR VALUES IN (1)
"""
# What is done, and what is said of it with either plugin, or with pgoutput only.
BOTH = {
    "ALTER TABLE shop.log RENAME TO log_v2": "shop.log does not exist",
    "ALTER SCHEMA shop RENAME TO store": "shop.orders does not exist",
    "ALTER TABLE shop.orders REPLICA IDENTITY NOTHING": 'update is mapped, but "shop"."orders" has no replica identity',
    "ALTER TABLE shop.orders DROP CONSTRAINT orders_pkey": "has no replica identity",
    "ALTER TABLE shop.p1 REPLICA IDENTITY NOTHING": '"shop"."p1" has no replica identity',
    "ALTER TABLE shop.orders DROP note, ADD note text GENERATED ALWAYS AS (id::text) VIRTUAL": "virtual generated column",
}
PGOUTPUT = {
    "ALTER PUBLICATION cdc_tracker SET (publish = 'insert')": "shop.orders is published without its updates",
    "ALTER PUBLICATION cdc_tracker SET (publish_via_partition_root = false)": "names partitions instead of their root",
    "ALTER PUBLICATION cdc_tracker_inserts SET TABLE shop.log WHERE (line > 'm')": "shop.log is published with a row filter",
    "ALTER PUBLICATION cdc_tracker SET TABLE shop.parts, shop.orders (id)": "shop.orders is published with other columns",
    "ALTER PUBLICATION cdc_tracker SET TABLE shop.orders": "shop.parts is not in the publication cdc_tracker",
    "ALTER PUBLICATION cdc_tracker ADD TABLE shop.log": "shop.log publishes deletes and updates, which PostgreSQL refuses",
    "DROP PUBLICATION cdc_tracker": "cdc_tracker the publication does not exist",
    "DROP PUBLICATION cdc_tracker; CREATE PUBLICATION cdc_tracker FOR ALL TABLES": "cdc_tracker is FOR ALL TABLES",
    "DROP TABLE shop.log; CREATE TABLE shop.log (line text)": "shop.log is not in the publication cdc_tracker_inserts",
}


def sessions(database: Database, plugin: str) -> Iterator[Session]:
    """One on tables that were set up."""
    database.execute(TABLES)
    settings = SourceSettings(url=SecretStr(database.url), slot=database.name, outbox=None)
    with closing(connect(database.url)) as connection:
        wanted = placement.desired(connection, settings, NEEDS, plugin)
        assert wanted.problems == ()
        publication.apply(connection, publication.statements(connection, settings, wanted))
        slot.create(connection, database.name, plugin)
    with Session(settings, NEEDS) as session:
        yield session


def faults(session: Session) -> list[str]:
    """As the session's own clock has it, not before it is due; so the clock is set back."""
    session._checked = float("-inf")
    vitals = session.vitals()
    assert vitals is not None
    return [f"{problem.key} {problem.message}" for problem in vitals.faults]


@pytest.mark.servers("pg15", "pg18")
@pytest.mark.parametrize("change", [*BOTH, *PGOUTPUT])
def test_a_running_session_sees_what_makes_changes_go_missing(database: Database, change: str) -> None:
    if "VIRTUAL" in change and database.server.major < 18:
        change = change.replace("VIRTUAL", "STORED")
    for plugin in plugins(database.server) if change in BOTH else ["pgoutput"]:
        for session in sessions(database, plugin):
            assert faults(session) == []
            database.execute(change)
            expected = (BOTH | PGOUTPUT).get(change, "is generated: pgoutput sends generated columns from PostgreSQL 18 on only")
            found = faults(session)
            if "STORED" in change and plugin == "wal2json":
                assert found == []
            else:
                assert any(expected in fault for fault in found), found
        database.execute("DROP SCHEMA IF EXISTS shop, store CASCADE; DROP PUBLICATION IF EXISTS cdc_tracker, cdc_tracker_inserts")
        database.execute(f"SELECT pg_drop_replication_slot('{database.name}')")


def test_looking_at_tables_does_not_wait_for_an_alter_table(database: Database) -> None:
    """Capture looks at them beside the stream: it would stand still for as long as a long ALTER TABLE takes."""
    for session in sessions(database, "pgoutput"):
        with database.connect() as other, other.transaction():
            other.execute("LOCK shop.orders, shop.parts, shop.p1 IN ACCESS EXCLUSIVE MODE")
            assert faults(session) == []


def test_what_asks_the_catalog_is_not_compiled(database: Database) -> None:
    """With a hundred tables and some hundred partitions that took longer than the query may."""
    with closing(connect(database.url)) as connection:
        assert connection.execute("SHOW jit").fetchone() == ("off",)


@pytest.mark.servers("pg15", "pg18")
def test_a_database_that_was_renamed_goes_on_with_its_slot(ready: Run, place: Path, database: Database, server: Server) -> None:
    database.execute("INSERT INTO shop.users (email) VALUES ('a')")
    deliver_everything(place, 1)
    renamed, config = f"{database.name}_new", place / "cdc-tracker.yml"
    before = config.read_text()
    server.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database.name}'")
    server.execute(f"ALTER DATABASE {database.name} RENAME TO {renamed}")
    try:
        config.write_text(before.replace(database.url, Database(server, renamed).url))
        server.execute("INSERT INTO shop.users (email) VALUES ('b')", renamed)
        ready("check")
        deliver_everything(place, 2)
        assert [event["userId"] for event in events(place)] == ["1", "2"]
        assert f"is called {renamed} now" in ready("setup").output
        ready("check")
    finally:
        drop_database(server, renamed)


@pytest.mark.servers("pg15", "pg18")
def test_setup_publishes_nothing_for_wal2json_and_takes_away_what_is_not_needed(
    ready: Run, place: Path, database: Database
) -> None:
    expected = 0 if database.server.has_wal2json else 2
    assert database.value("SELECT count(*) FROM pg_publication") == expected
    database.execute("DO $$ BEGIN CREATE PUBLICATION cdc_tracker FOR TABLE shop.users; EXCEPTION WHEN OTHERS THEN END $$")
    ready("setup")
    assert database.value("SELECT count(*) FROM pg_publication") == expected


def test_a_pooler_that_makes_up_process_ids_is_no_obstacle(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: -1234567))
    with closing(connect(database.url)) as connection:
        assert slot.has_plugin(connection, "pgoutput")


def test_tables_of_postgresqls_own_and_foreign_partitions_are_told(database: Database) -> None:
    database.execute(
        """CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
        CREATE TABLE sale (id int NOT NULL) PARTITION BY LIST (id); CREATE TABLE s1 PARTITION OF sale FOR VALUES IN (1);
        ALTER TABLE s1 ADD PRIMARY KEY (id); CREATE FOREIGN TABLE s0 PARTITION OF sale FOR VALUES IN (0) SERVER elsewhere"""
    )
    settings = SourceSettings(url=SecretStr(database.url), outbox=None)
    need = Need(frozenset({"insert", "delete"}))
    needs = dict.fromkeys(["public.sale", "pg_catalog.pg_class", "information_schema.sql_features"], need)
    with closing(connect(database.url)) as connection:
        told: dict[str, list[tuple[str, str]]] = {}
        for problem in placement.desired(connection, settings, needs).problems:
            told.setdefault(problem.key, []).append((problem.severity, problem.message))
    assert [severity for severity, _ in told["public.sale"]] == ["warning", "warning"]
    assert '"public"."s0" are not captured' in told["public.sale"][0][1]
    for name in ("pg_catalog.pg_class", "information_schema.sql_features"):
        assert [severity for severity, _ in told[name]] == ["error"]
        assert "is a system table" in told[name][0][1]


@pytest.mark.servers("pg15", "pg18")
def test_two_tables_that_dots_make_look_alike_are_kept_apart(database: Database) -> None:
    database.execute('CREATE SCHEMA "my.app"; CREATE TABLE "my.app".orders (id int PRIMARY KEY); CREATE SCHEMA my')
    database.execute('CREATE TABLE my."app.orders" (id int PRIMARY KEY)')
    names = {"my.app.orders": ("my", "app.orders"), '"my.app".orders': ("my.app", "orders")}
    for text, (schema, name) in names.items():
        with closing(connect(database.url)) as connection:
            wanted = placement.desired(connection, _settings(database), {text: NEEDS["shop.orders"]})
        assert wanted.problems == ()
        assert list(wanted.publications[0].tables) == [(schema, name)]


def _settings(database: Database, **given: Any) -> SourceSettings:
    return SourceSettings(url=SecretStr(database.url), outbox=None, **given)
