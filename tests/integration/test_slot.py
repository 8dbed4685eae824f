"""Slots, connections and the catalog against real servers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import ConfigError, SlotBusy, SlotLost, SlotMissing, SourceError, SourceUnavailable
from cdc_tracker.model import Position, parse_lsn
from cdc_tracker.sources.postgres import catalog, placement, publication, scripts, slot
from cdc_tracker.sources.postgres.connection import connect, translated
from cdc_tracker.sources.postgres.drift import drift
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.plugins import choose
from cdc_tracker.sources.postgres.replication import ReplicationStream
from cdc_tracker.sources.postgres.verify import verify
from tests.postgres import Database, Server, launch, plugins


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with closing(connect(database.url)) as opened:
        yield opened


def slot_name(database: Database) -> str:
    return f"s_{database.name}"


def settings_for(database: Database, **given: Any) -> SourceSettings:
    return SourceSettings(url=SecretStr(database.url), slot=slot_name(database), **given)


# Connections.


def test_a_connection_keeps_the_options_of_the_url_and_gives_texts_in_our_form(database: Database) -> None:
    with closing(connect(database.url_as("postgres", options="-c work_mem=1MB -c DateStyle=German"))) as connection:
        shown = connection.execute(
            "SELECT current_setting('work_mem'), '2026-01-02 12:00+05'::timestamptz::text, '1 mon'::interval::text, 0.1::text"
        ).fetchone()
        assert shown == ("1MB", "2026-01-02 07:00:00+00", "P1M", "0.1")
        assert connection.info.get_parameters()["application_name"] == "cdc-tracker"


def test_a_control_query_is_cut_off(database: Database) -> None:
    with (
        closing(connect(database.url, statement_timeout=0.1)) as connection,
        pytest.raises(SourceUnavailable, match="statement timeout"),
        translated(),
    ):
        connection.execute("SELECT pg_sleep(10)")


@pytest.mark.parametrize("tcp", [False, True])
def test_what_keeps_a_connection_from_being_made_is_explained_without_the_password(database: Database, tcp: bool) -> None:
    database.execute(
        """DO $$ BEGIN
            CREATE ROLE keeper LOGIN PASSWORD 'secret-one' IN ROLE with_password;
            CREATE ROLE stranger LOGIN IN ROLE not_admitted;
        EXCEPTION WHEN duplicate_object THEN NULL; END $$"""
    )
    cases = [
        (database.url_as("keeper", password="wrong-pass", tcp=tcp), SourceError, "password"),
        (database.url_as("keeper", tcp=tcp), SourceError, "password"),
        (database.url_as("stranger", password="wrong-pass", tcp=tcp), SourceError, "pg_hba.conf"),
        (database.url_as("nobody-here", tcp=tcp), SourceError, "cdc-tracker sql role"),
        (database.server.url("nowhere", password="wrong-pass", tcp=tcp), SourceError, "database's name"),
        ("postgresql://u:wrong-pass@127.0.0.1:1/x", SourceUnavailable, "reachable"),
        ("postgresql://u:wrong-pass@host:port/x", ConfigError, "postgresql://"),
        ("postgresql://u:wrong-pass@%zz/x", ConfigError, "postgresql://"),
    ]
    if tcp:
        cases.append((database.url_as("postgres", password="wrong-pass", tcp=True, sslmode="require"), SourceError, "sslmode"))
    for url, kind, hint in cases:
        with pytest.raises(kind) as caught:
            connect(url).close()
        assert hint in caught.value.hint
        assert "wrong-pass" not in str(caught.value) + caught.value.hint
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_role_without_replication_cannot_stream_and_is_told_what_to_grant(database: Database) -> None:
    database.execute("DO $$ BEGIN CREATE ROLE reader LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    with pytest.raises(SourceError) as caught:
        connect(database.url_as("reader"), replication=True)
    assert "REPLICATION" in caught.value.hint


def test_the_least_privileged_role_can_do_all_that_a_running_worker_does(database: Database) -> None:
    database.execute(scripts.script("role"))
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    plugin = plugins(database.server)[0]
    with closing(connect(database.url_as("cdc_tracker"))) as connection:
        assert catalog.identify(connection).database == database.name
        made = slot.create(connection, slot_name(database), plugin)
        assert slot.inspect(connection, slot_name(database)) == dataclasses.replace(made, retained_bytes=made.retained_bytes)
        assert slot.heartbeat(connection)
        found = slot.vitals(connection, slot_name(database)).slot
        assert found is not None
        assert found.reader is None
        settings = SourceSettings(url=SecretStr(database.url), slot=slot_name(database))
        wanted = placement.desired(connection, settings, {"public.t": Need(frozenset({"insert", "update"}))}, "pgoutput")
        assert drift(wanted, publication.existing(connection, publication.names(settings)))
        assert catalog.tables(connection, ["public.t"])["public.t"].can_select is False
        connect(database.url_as("cdc_tracker"), replication=True).close()
        assert slot.drop(connection, slot_name(database))
    database.execute("DO $$ BEGIN EXECUTE format('REVOKE ALL ON DATABASE %I FROM cdc_tracker', current_database()); END $$")


# The catalog.


def test_identity_is_that_of_the_replication_protocol(database: Database, connection: psycopg.Connection[Any]) -> None:
    identity = catalog.identify(connection)
    with connect(database.url, replication=True) as replication:
        row = replication.pgconn.exec_(b"IDENTIFY_SYSTEM")
        system_id, timeline, wal_end, name = ((row.get_value(0, place) or b"").decode() for place in range(4))
    assert (identity.system_id, identity.timeline, identity.database) == (system_id, int(timeline), name)
    assert name == database.name and identity.wal_lsn <= parse_lsn(wal_end) + 0x100_0000
    assert identity.version == database.server.version
    assert identity.in_recovery is False


def test_a_table_is_described_with_its_keys_labels_and_kinds(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE TYPE state AS ENUM ('new', 'done');
        CREATE DOMAIN checked_state AS state;
        CREATE SCHEMA "Odd Schema";
        CREATE TABLE "Odd Schema"."Order ""x"" Y" (
            id int PRIMARY KEY, state state NOT NULL, other checked_state, note text CHECK (note IN ('a', 'it''s')),
            doubled int GENERATED ALWAYS AS (id * 2) STORED, gone int);
        ALTER TABLE "Odd Schema"."Order ""x"" Y" DROP COLUMN gone"""
    )
    [table] = catalog.user_tables(connection)
    assert (table.schema, table.name, table.kind, table.logged, table.has_key) == ("Odd Schema", 'Order "x" Y', "r", "d", True)
    by_name = {column.name: column for column in table.columns}
    assert list(by_name) == ["id", "state", "other", "note", "doubled"]
    assert (by_name["id"].key, by_name["id"].primary_key, by_name["note"].key) == (True, True, False)
    assert by_name["state"].labels == by_name["other"].labels == ("new", "done")
    assert by_name["note"].allowed == ("a", "it's") and not by_name["note"].labels
    assert by_name["doubled"].generated
    assert catalog.tables(connection, ['Odd Schema.Order "x" Y']) == {'Odd Schema.Order "x" Y': table}


def test_a_columns_type_is_described_below_its_domains(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE TYPE mood AS ENUM ('sad', 'it''s fine');
        CREATE DOMAIN cents AS bigint NOT NULL CHECK (VALUE >= 0);
        CREATE DOMAIN price AS cents;
        CREATE DOMAIN country AS char(2) CHECK (VALUE IN ('DE', 'AT'));
        CREATE DOMAIN moods AS mood[];
        CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE);
        CREATE TABLE "Child" (
            id int PRIMARY KEY REFERENCES parent, parent text REFERENCES parent (code), a price, b country, c moods, d varchar(7),
            e int[], f text CHECK (f IN ('x', 'y') OR length(f) > 9), g text CHECK (g = ANY ('{x}')),
            h varchar CHECK (h IN ('x', 'y')),
            i numeric(10, 2), j mood, k bpchar, "L M" text CHECK ("L M" IN ('z')), pair int, UNIQUE (pair, a));
        CREATE UNIQUE INDEX ON "Child" (pair) WHERE pair > 0"""
    )
    described = catalog.tables(connection, ["public.Child"])["public.Child"].columns
    id, parent, a, b, c, d, e, f, g, h, i, j, k, l_m, pair = described
    assert id.references == ("public.parent", "id") and parent.references == ("public.parent", "code") and a.references is None
    assert (id.unique, parent.unique, pair.unique) == (True, False, False)
    assert (a.is_domain, a.base_name, a.not_null, a.type_name) == (True, "bigint", True, "price")
    assert (b.is_domain, b.base_name, b.length, b.allowed, b.not_null) == (True, "character(2)", 2, ("DE", "AT"), False)
    assert (c.is_domain, c.base_name, c.labels) == (True, "mood[]", ("sad", "it's fine")) and c.element_oid == j.type_oid
    assert (d.length, d.base_name, d.is_domain) == (7, "character varying(7)", False)
    assert (e.element_oid, e.labels, e.length) == (23, (), None)
    assert (f.allowed, g.allowed, h.allowed, l_m.allowed) == ((), (), ("x", "y"), ())  # a single value is no list
    assert (i.base_name, i.length, j.labels, k.length) == ("numeric(10,2)", None, ("sad", "it's fine"), None)


def test_what_is_logged_is_the_least_of_all_partitions(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE TABLE parent (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
        CREATE TABLE leaf1 PARTITION OF parent FOR VALUES IN (1);
        CREATE TABLE middle PARTITION OF parent FOR VALUES IN (2, 3) PARTITION BY LIST (part);
        CREATE TABLE leaf2 PARTITION OF middle FOR VALUES IN (2);
        ALTER TABLE parent REPLICA IDENTITY FULL; ALTER TABLE leaf1 REPLICA IDENTITY FULL"""
    )
    parent = catalog.tables(connection, ["public.parent"])["public.parent"]
    assert [(leaf.name, leaf.identity, leaf.key) for leaf in parent.leaves] == [
        ("leaf1", "f", ()),
        ("leaf2", "d", ("id", "part")),
    ]
    assert parent.relation.identity == "d"
    database.execute("ALTER TABLE leaf2 REPLICA IDENTITY FULL")
    assert catalog.relations(connection, ["public.parent", "public.none"])["public.parent"].identity == "f"
    database.execute("ALTER TABLE leaf2 REPLICA IDENTITY NOTHING")
    parent = catalog.tables(connection, ["public.parent"])["public.parent"]
    assert (parent.logged, [leaf.has_key for leaf in parent.leaves]) == ("n", [True, False])
    assert [table.name for table in catalog.user_tables(connection)] == ["parent"]


# Slots.


def test_a_slot_is_made_seen_and_dropped(plugin: str, database: Database, connection: psycopg.Connection[Any]) -> None:
    name = slot_name(database)
    assert slot.inspect(connection, name) is None
    made = slot.create(connection, name, plugin)
    assert (made.name, made.plugin, made.database, made.active_pid, made.lost) == (name, plugin, database.name, None, False)
    assert made.confirmed_flush_lsn is not None
    with pytest.raises(SourceError, match="already exists"):
        slot.create(connection, name, plugin)
    assert slot.drop(connection, name)
    assert not slot.drop(connection, name)


def test_the_printed_statement_makes_the_same_slot(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(slot.create_statement(slot_name(database), "pgoutput"))
    found = slot.inspect(connection, slot_name(database))
    assert found is not None
    assert (found.plugin, found.temporary, found.two_phase, found.failover) == ("pgoutput", False, False, False)


def test_a_failover_slot_needs_17(database: Database, connection: psycopg.Connection[Any]) -> None:
    if database.server.major < 17:
        with pytest.raises(SourceError, match="failover"):
            slot.create(connection, slot_name(database), "pgoutput", failover=True)
    else:
        assert slot.create(connection, slot_name(database), "pgoutput", failover=True).failover


def test_a_slot_that_cannot_be_made_names_the_transaction_it_waits_for(
    database: Database, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "CREATE_TIMEOUT", 0.3)
    with closing(psycopg.connect(database.url, application_name="long-runner")) as busy:
        busy.execute("SELECT pg_current_xact_id()")
        with pytest.raises(SourceUnavailable) as caught:
            slot.create(connection, slot_name(database), "pgoutput")
        assert "long-runner" in caught.value.hint
        assert str(busy.info.backend_pid) in caught.value.hint
        busy.rollback()
    assert slot.inspect(connection, slot_name(database)) is None


def test_auto_takes_wal2json_where_it_is(database: Database, connection: psycopg.Connection[Any]) -> None:
    has = database.server.has_wal2json
    assert slot.has_plugin(connection, "wal2json") is has
    assert not slot.has_plugin(connection, "no_such_plugin")
    assert choose(connection, settings_for(database), ()) == ("wal2json" if has else "pgoutput")
    assert choose(connection, settings_for(database, plugin="pgoutput"), ()) == "pgoutput"
    assert choose(connection, settings_for(database, never_capture={"public.t": ["x"]}), ()) == "pgoutput"
    with pytest.raises(SourceError, match="never_capture needs pgoutput"):
        choose(connection, settings_for(database, plugin="wal2json", never_capture={"public.t": ["x"]}), ())
    if not has:
        with pytest.raises(SourceError, match="no wal2json"):
            choose(connection, settings_for(database, plugin="wal2json"), ())
    assert connection.execute("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()").fetchone() == (0,)


@pytest.mark.servers("pg15")
def test_a_plugin_that_the_server_does_not_list_is_not_chosen_and_its_slot_is_refused_until_it_is_listed(
    database: Database,
) -> None:
    if "output_plugin_libraries" not in database.server.run("postgres", "--describe-config"):
        pytest.skip("this minor release of PostgreSQL lets roles use every output plugin")
    with launch("pg15", output_plugin_libraries="pgoutput") as server:
        server.execute("CREATE ROLE reader LOGIN REPLICATION")
        settings = SourceSettings(url=SecretStr(server.url(user="reader")))
        with closing(connect(server.url(user="reader"))) as connection:
            assert choose(connection, settings, ()) == "pgoutput"
            with pytest.raises(SourceError, match="does not list it"):
                choose(connection, settings.model_copy(update={"plugin": "wal2json"}), ())
            with pytest.raises(SourceError, match="may not be used") as caught:
                slot.create(connection, "made", "wal2json")
            assert "output_plugin_libraries" in caught.value.hint
            server.execute("ALTER SYSTEM SET output_plugin_libraries = pgoutput, wal2json")  # without quotes: it is a list
            server.restart()
        with closing(connect(server.url(user="reader"))) as connection:
            assert choose(connection, settings, ()) == "wal2json"
            slot.create(connection, "made", "wal2json")
        server.configure(restart=True, output_plugin_libraries=None)
        with closing(connect(server.url(user="reader"))) as connection:
            made = slot.inspect(connection, "made")
            assert made is not None
            with pytest.raises(SourceError) as probed:
                slot.probe(connection, made, {})
            with ReplicationStream(server.url(user="reader")) as stream, pytest.raises(SourceError) as streamed:
                stream.start("made", 0, {"format-version": "2"})
            for error in (probed.value, streamed.value):
                assert "may not be used" in str(error)
                assert error.refusal == "PLUGIN_MISSING"
                assert "output_plugin_libraries" in error.hint


def test_auto_takes_pgoutput_for_a_partitioned_table(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE TABLE parted (id int) PARTITION BY RANGE (id)")
    assert choose(connection, settings_for(database), ["public.parted"]) == "pgoutput"


@pytest.mark.servers("pg15")
def test_a_database_that_is_not_utf8_is_read_by_pgoutput(database: Database) -> None:
    name = f"{database.name}_latin"
    database.server.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0")
    try:
        with closing(connect(database.server.url(name))) as connection:
            assert choose(connection, settings_for(database), ()) == "pgoutput"
            with pytest.raises(SourceError, match="UTF8"):
                choose(connection, settings_for(database, plugin="wal2json"), ())
    finally:
        database.server.execute(f"DROP DATABASE {name}")


def test_a_plugin_is_found_while_a_transaction_holds_slots_up(database: Database, connection: psycopg.Connection[Any]) -> None:
    with closing(psycopg.connect(database.url)) as busy:
        busy.execute("SELECT pg_current_xact_id()")
        assert slot.has_plugin(connection, "pgoutput")
        busy.rollback()


def test_a_slot_in_use_says_who_reads_from_it(database: Database, connection: psycopg.Connection[Any]) -> None:
    name = slot_name(database)
    slot.create(connection, name, "pgoutput")
    database.execute("CREATE PUBLICATION p")
    with ReplicationStream(database.url, application_name="the-other") as stream:
        stream.start(name, 0, {"proto_version": "1", "publication_names": "p"})
        found = slot.inspect(connection, name)
        assert found is not None
        assert found.reader is not None
        assert found.reader.application_name == "the-other"
        with pytest.raises(SlotBusy):
            slot.drop(connection, name)
        with ReplicationStream(database.url) as second, pytest.raises(SlotBusy, match=str(found.active_pid)):
            second.start(name, 0, {"proto_version": "1", "publication_names": "p"})


def test_a_missing_slot_is_missing_to_the_stream(database: Database) -> None:
    with ReplicationStream(database.url) as stream, pytest.raises(SlotMissing):
        stream.start("not_there", 0, {"proto_version": "1", "publication_names": "p"})


def test_vitals_show_the_wal_that_a_slot_holds(database: Database, connection: psycopg.Connection[Any]) -> None:
    name = slot_name(database)
    before = slot.vitals(connection, name)
    assert before.slot is None
    made = slot.create(connection, name, "pgoutput")
    database.execute("CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
    after = slot.vitals(connection, name)
    assert after.slot is not None
    assert after.slot.retained_bytes is not None
    assert after.slot.retained_bytes > (made.retained_bytes or 0) + 900_000
    assert after.wal_end > before.wal_end
    assert (after.slot.wal_status, after.slot.confirmed_flush_lsn) == ("reserved", made.confirmed_flush_lsn)


def test_a_heartbeat_moves_what_an_idle_stream_can_confirm(database: Database, connection: psycopg.Connection[Any]) -> None:
    name = slot_name(database)
    made = slot.create(connection, name, "pgoutput")
    database.execute("CREATE PUBLICATION p")
    with ReplicationStream(database.url) as stream:
        stream.start(name, 0, {"proto_version": "1", "publication_names": "p", "messages": "true"})
        assert slot.heartbeat(connection)
        if database.server.major < 17:
            database.execute("CHECKPOINT")  # flushes, as the background writer does within 15 seconds
        deadline = time.monotonic() + 20
        frame = None
        while frame is None and time.monotonic() < deadline:
            stream.wait(0.2)
            frame = stream.receive()
        assert frame is not None
        assert bytes(frame[25:26]) == b"M"
        assert slot.HEARTBEAT.encode() in bytes(frame[25:])
        lsn = int.from_bytes(frame[1:9], "big")
        assert lsn > (made.confirmed_flush_lsn or 0)


@dataclasses.dataclass(frozen=True)
class Known:
    system_id: str
    database: str
    slot: str
    plugin: str
    created_lsn: int
    confirmed_lsn: int
    timeline: int = 1
    journaled_lsn: int = 0


@pytest.mark.servers("pg15", "pg18")
def test_an_invalidated_slot_is_lost(server: Server) -> None:
    limits = {"max_slot_wal_keep_size": "16MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with launch(server.name, **limits) as own, closing(connect(own.url())) as connection:
        made = slot.create(connection, "held", "pgoutput")
        own.execute("CREATE TABLE t (x text)")
        for _ in range(6):
            own.execute("INSERT INTO t SELECT repeat(md5(n::text), 30) FROM generate_series(1, 9999) n; SELECT pg_switch_wal()")
        own.execute("CHECKPOINT")
        found = slot.inspect(connection, "held")
        assert found is not None
        assert found.lost
        assert found.invalidation_reason == "wal_removed"
        assert found.wal_status == "lost"
        identity = catalog.identify(connection)
        end = made.confirmed_flush_lsn or 0
        known = Known(identity.system_id, identity.database, "held", "pgoutput", end, end)
        with pytest.raises(SlotLost) as caught:
            verify(known, found, identity, journal_end=None, lowest_checkpoint=None)
        assert "`cdc-tracker repair`" in caught.value.hint
        with ReplicationStream(own.url()) as stream, pytest.raises(SlotLost):
            stream.start("held", 0, {"proto_version": "1", "publication_names": "p"})


def test_a_promoted_standby_has_a_history_of_timelines(pg16: Server) -> None:
    """Promotion in place: the server stops, starts as a standby that nothing feeds, and is promoted."""
    with launch("pg16") as own:
        own.execute("CREATE TABLE t (x int)")
        with closing(connect(own.url())) as connection:
            before = catalog.identify(connection)
        own.stop()
        (own.data / "standby.signal").touch()
        own.start()
        with closing(connect(own.url())) as connection:
            standby = catalog.identify(connection)
            assert standby.in_recovery
            assert not slot.heartbeat(connection)
        own.execute("SELECT pg_promote()")
        with closing(connect(own.url())) as connection:
            after = catalog.identify(connection)
        assert (before.timeline, after.timeline, before.history) == (1, 2, ())
        assert [switch.timeline for switch in after.history] == [1]
        assert before.wal_lsn <= after.history[0].lsn <= after.wal_lsn
        known = Known(after.system_id, after.database, "s", "pgoutput", 1, before.wal_lsn)
        with pytest.raises(SlotMissing):  # the timeline was followed to its end: only the slot did not come along
            verify(known, None, after, journal_end=Position(before.wal_lsn, -1), lowest_checkpoint=None)
