"""`check` on the source's side: each thing that would stop a run is found, and gone once its hint was followed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem, SourceError, SourceRefused
from cdc_tracker.mapping import load_texts
from cdc_tracker.monitoring.fit import misfits
from cdc_tracker.sources.postgres import placement, plugins, preflight, publication, scripts, slot
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.replication import ReplicationStream
from cdc_tracker.sources.postgres.session import Session
from tests.postgres import Database, Server, fresh_database, launch
from tests.worker import until

INSERTS = Need(frozenset({"insert"}), where="m.yml:3")
UPDATES = Need(frozenset({"insert", "update"}), frozenset({"id", "note"}), frozenset({"note"}), "m.yml:3")


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with closing(connect(database.url)) as opened:
        yield opened


def settings(database: Database, **given: Any) -> SourceSettings:
    return SourceSettings(url=SecretStr(database.url), slot=f"s_{database.name}", **given)


def look(connection: psycopg.Connection[Any], given: SourceSettings, needs: dict[str, Need] | None = None) -> dict[str, Problem]:
    return {problem.key: problem for problem in preflight.check(connection, given, needs or {})}


def errors(connection: psycopg.Connection[Any], given: SourceSettings, needs: dict[str, Need] | None = None) -> list[str]:
    return [str(problem) for problem in preflight.check(connection, given, needs or {}) if problem.severity == "error"]


def set_up(connection: psycopg.Connection[Any], given: SourceSettings, needs: dict[str, Need]) -> None:
    for script in scripts.outbox(given.outbox):
        connection.execute(script.encode())
    plugin = plugins.choose(connection, given, ())
    wanted = placement.desired(connection, given, needs, plugin)
    publication.apply(connection, publication.plan(wanted.publications, {}))
    slot.create(connection, given.slot, plugin)


def test_a_server_that_is_ready_has_no_error_before_and_after_setup(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, note text); ALTER TABLE orders REPLICA IDENTITY FULL")
    given, needs = settings(database), {"public.orders": UPDATES}
    before = look(connection, given, needs)
    assert errors(connection, given, needs) == []
    assert "cdc-tracker setup" in before["slot"].hint
    assert "without limit" in before["max_slot_wal_keep_size"].message
    set_up(connection, given, needs)
    assert errors(connection, given, needs) == []
    assert "slot" not in look(connection, given, needs)


def test_it_says_which_plugin_will_be_used_and_why(database: Database, connection: psycopg.Connection[Any]) -> None:
    def said(**given: Any) -> str:
        return preflight.describe(preflight.gather(connection, settings(database, **given), {}))[-1]

    if database.server.has_wal2json:
        assert said() == "plugin wal2json: the server has it"
        assert said(never_capture={"public.orders": ["card"]}) == "plugin pgoutput: never_capture needs it"
    else:
        assert said() == "plugin pgoutput: built in, and suitable for these tables and this server"
        assert "postgresql-NN-wal2json" in look(connection, settings(database, plugin="wal2json"))["plugin"].hint
    assert said(plugin="pgoutput") == "plugin pgoutput: as configured"


def test_a_table_that_is_not_there_is_named_with_the_nearest(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY); CREATE TABLE users (id int PRIMARY KEY)")
    needs = {"shop.oders": INSERTS, "shop.users": INSERTS, "x.zzzzzzzz": INSERTS}
    found = [problem for problem in preflight.check(connection, settings(database), needs) if problem.message == "does not exist"]
    hints = {problem.key: problem.hint for problem in found}
    assert hints["shop.oders"] == "did you mean shop.orders?"
    assert hints["shop.users"] == "did you mean public.users?"
    assert "correct the mapping" in hints["x.zzzzzzzz"]
    assert {problem.where for problem in found} == {"m.yml:3"}
    assert len(found) == 3


def test_updates_of_a_table_without_identity_are_found(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE TABLE bare (id int, note text)")
    found = look(connection, settings(database), {"public.bare": UPDATES})
    assert found["public.bare"].hint.startswith('ALTER TABLE "public"."bare" REPLICA IDENTITY FULL')
    database.execute(found["public.bare"].hint.partition(" (or")[0])
    assert errors(connection, settings(database), {"public.bare": UPDATES}) == []


@pytest.mark.parametrize("root", ["FULL", "DEFAULT"])
def test_partitions_that_log_less_are_one_finding_and_its_statements_mend_each(
    database: Database, connection: psycopg.Connection[Any], root: str
) -> None:
    database.execute(
        f"""CREATE TABLE parts (id int PRIMARY KEY, note text NOT NULL) PARTITION BY LIST (id);
        CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE part2 PARTITION OF parts FOR VALUES IN (2);
        CREATE TABLE part3 PARTITION OF parts FOR VALUES IN (3); ALTER TABLE part1 REPLICA IDENTITY FULL;
        ALTER TABLE parts REPLICA IDENTITY {root}"""
    )
    text = "{version: 1, events: [{name: Part Noted, table: public.parts, on: update, user_id: old.note}]}"
    mappings = load_texts({"m.yml": text})
    assert errors(connection, settings(database), {"public.parts": UPDATES}) == []
    [found] = misfits(connection, mappings)
    holder = "2 of 3 partitions of public.parts have" if root == "FULL" else "public.parts has"
    assert found.message == f"old.note is not logged: {holder} REPLICA IDENTITY DEFAULT, which logs key columns only"
    database.execute(found.hint)
    assert misfits(connection, mappings) == []


def test_columns_kept_back_generated_or_beyond_wal2json_are_found(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, card text, speed float8, twice int GENERATED ALWAYS AS (id * 2) STORED)"
    )
    need = {"public.t": Need(frozenset({"insert"}), frozenset({"card", "speed", "twice"}))}
    kept = settings(database, never_capture={"public.t": ["card", "cart"]})
    texts = [str(problem) for problem in preflight.check(connection, kept, need)]
    assert any("card is mapped, but never_capture" in text for text in texts)
    assert any("has no column cart" in text and "did you mean card?" in text for text in texts)
    plain = [str(problem) for problem in preflight.check(connection, settings(database), need)]
    assert any("NaN" in text for text in plain) is database.server.has_wal2json
    with_pgoutput = [str(problem) for problem in preflight.check(connection, settings(database, plugin="pgoutput"), need)]
    assert any("generated" in text for text in with_pgoutput) is (database.server.major < 18)
    assert not any("NaN" in text for text in with_pgoutput)


def test_a_role_without_rights_is_told_what_to_grant(database: Database) -> None:
    database.execute("DO $$ BEGIN CREATE ROLE reader LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    given = SourceSettings(url=SecretStr(database.url_as("reader")), slot=f"s_{database.name}")
    with closing(connect(database.url_as("reader"))) as connection:
        problems = preflight.check(connection, given, {"public.orders": Need(frozenset({"insert"}), backfill=True)})
    texts = [str(problem) for problem in problems]
    assert any("may not read from a replication slot" in text and "REPLICATION" in text for text in texts)
    assert any(text.startswith("source: url: no replication connection") for text in texts)
    assert any("`setup` will fail" in text and "--print-sql" in text for text in texts)
    assert any("may not read the table" in text and 'GRANT SELECT ON "public"."orders"' in text for text in texts)


def test_drift_and_a_slot_that_is_not_as_configured_are_errors_once_set_up(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    needs = {"public.orders": INSERTS}
    given = settings(database, plugin="pgoutput")
    set_up(connection, given, needs)
    database.execute("DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY)")
    [error] = errors(connection, given, needs)
    assert "public.orders: is not in the publication" in error
    database.execute("ALTER PUBLICATION cdc_tracker ADD TABLE orders")
    assert errors(connection, given, needs) == []
    [error] = errors(connection, given.model_copy(update={"plugin": "wal2json"}), needs)
    assert "--recreate-slot" in error
    with ReplicationStream(database.url, application_name="first worker") as stream:
        stream.start(given.slot, 0, {"proto_version": "1", "publication_names": "cdc_tracker"})
        assert "first worker" in look(connection, given, needs)["slot"].message
        assert errors(connection, given, needs) == []


def test_a_slot_of_another_database_is_an_error(database: Database, pg16: Server, connection: psycopg.Connection[Any]) -> None:
    with closing(connect(database.server.url())) as other:
        slot.create(other, f"s_{database.name}", "pgoutput")
        try:
            [error] = errors(connection, settings(database))
            assert "of the database postgres" in error
        finally:
            slot.drop(other, f"s_{database.name}")


def test_a_server_not_made_for_logical_decoding_is_told_how_to_become_one() -> None:
    with launch("pg18", wal_level="replica", max_replication_slots=1, idle_replication_slot_timeout="1min") as own:
        given = SourceSettings(url=SecretStr(own.url()))
        with closing(connect(own.url())) as connection:
            found = look(connection, given)
            assert "wal_level is replica" in found["wal_level"].message
            assert "idle_replication_slot_timeout = 0" in found["idle_replication_slot_timeout"].hint
        own.execute("ALTER SYSTEM SET wal_level = logical")
        own.execute("ALTER SYSTEM SET idle_replication_slot_timeout = 0")
        own.configure(restart=True, max_slot_wal_keep_size="1GB", max_wal_senders=2)
        with closing(connect(own.url())) as connection:
            found = look(connection, given)
            assert set(found) == {"slot", "max_wal"}
            assert "1.1 GB, below max_wal 10.0 GB" in found["max_wal"].message
            connection.execute("SELECT pg_create_physical_replication_slot('other')")
            assert "all 1 replication slots" in look(connection, given)["max_replication_slots"].message


@pytest.mark.servers("pg15", "pg18")
def test_a_setting_that_changes_values_and_is_not_ours_to_set_is_warned_of(database: Database) -> None:
    settings = SourceSettings(url=SecretStr(database.url), slot=f"s_{database.name}")
    with closing(connect(database.url)) as connection:
        assert "lc_monetary" not in look(connection, settings)
        database.execute(f"ALTER DATABASE {database.name} SET lc_monetary TO 'C'")
        assert look(connection, settings)["lc_monetary"].severity == "warning"


def test_a_standby_is_refused() -> None:
    with launch("pg16") as own:
        own.stop()
        (own.data / "standby.signal").touch()
        own.start()
        with closing(connect(own.url())) as connection:
            found = preflight.check(connection, SourceSettings(url=SecretStr(own.url())), {})
        assert any("is a standby" in problem.message and "primary" in problem.hint for problem in found)


@pytest.mark.servers("pg16")
def test_an_sql_ascii_database_is_warned_of(server: Server) -> None:
    server.execute("DROP DATABASE IF EXISTS plain_ascii")
    server.execute("CREATE DATABASE plain_ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        with closing(connect(server.url("plain_ascii"))) as connection:
            found = look(connection, SourceSettings(url=SecretStr(server.url("plain_ascii"))))
        assert found["encoding"].severity == "warning"
    finally:
        server.execute("DROP DATABASE plain_ascii WITH (FORCE)")


@pytest.mark.servers("pg15", "pg18")
def test_a_stream_that_the_applications_commits_would_wait_for_is_told(server: Server) -> None:
    """Also while it runs. `*` and a name match as in PostgreSQL; what our connection says of itself counts."""
    with launch(server.name, synchronous_standby_names='FIRST 1 (s1, "CDC-Tracker")', synchronous_commit="local") as own:
        given = SourceSettings(url=SecretStr(own.url()), slot="s", outbox=None)
        with closing(connect(own.url())) as connection:
            slot.create(connection, "s", "pgoutput")
            assert "commits wait" in look(connection, given)["synchronous_standby_names"].message
            named = given.model_copy(update={"url": SecretStr(own.url(application_name="events"))})
            assert "synchronous_standby_names" not in look(connection, named)
            for each, told in ((given, 1), (named, 0)):
                with Session(each, {}) as session:
                    vitals = session.vitals()
                    assert vitals
                    assert [fault.key for fault in vitals.faults].count("synchronous_standby_names") == told
            own.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'")
            own.execute("SELECT pg_reload_conf()")
            deadline = time.monotonic() + 30
            while "synchronous_standby_names" not in look(connection, named):
                assert time.monotonic() < deadline


def test_a_plugin_that_the_server_stopped_allowing_is_named_with_its_remedy() -> None:
    with launch("pg15") as server, fresh_database(server) as database, closing(connect(database.url)) as connection:
        if "output_plugin_libraries" not in server.run("postgres", "--describe-config"):
            pytest.skip("this minor release of PostgreSQL allows every output plugin")
        given = settings(database)
        set_up(connection, given, {})
        record = slot.inspect(connection, given.slot)
        assert record is not None and record.plugin == "wal2json" and errors(connection, given) == []
        allow = "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding"
        database.execute(allow)
        database.execute("SELECT pg_reload_conf()")
        until(lambda: not slot.has_plugin(connection, "wal2json"), "the server to forbid wal2json")
        [problem] = errors(connection, given)
        assert "or does not list it" in problem and "ALTER SYSTEM SET output_plugin_libraries" in problem
        with pytest.raises(SourceError, match="may not be used") as caught:
            slot.probe(connection, record, {})
        assert "output_plugin_libraries" in caught.value.hint
        with (
            ReplicationStream(database.url) as stream,
            pytest.raises(SourceError, match="may not be used as an output plugin") as refused,
        ):
            stream.start(given.slot, 0, {"format-version": "2"})
        assert "ALTER SYSTEM SET output_plugin_libraries" in refused.value.hint
        assert plugins.choose(connection, SourceSettings(url=given.url), ()) == "pgoutput"
        with pytest.raises(SourceError, match="does not list it"):
            plugins.choose(connection, SourceSettings(url=given.url, plugin="wal2json"), ())
        database.execute("CREATE ROLE nobody LOGIN")
        with (
            closing(connect(database.url_as("nobody"))) as unprivileged,
            pytest.raises(SourceRefused, match="replication"),
        ):
            slot.has_plugin(unprivileged, "wal2json")
        database.execute("DROP ROLE nobody")
        database.execute(f"{allow}, wal2json")  # as the hint says
        database.execute("SELECT pg_reload_conf()")
        until(lambda: errors(connection, given) == [], "the server to allow wal2json")
