"""Publications as PostgreSQL takes them, and whether the application's statements still work afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem, SourceError
from cdc_tracker.sources.postgres import publication, scripts
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.drift import drift
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.placement import desired
from tests.postgres import Database

ALL = Need(frozenset({"insert", "update", "delete"}))
INSERT = Need(frozenset({"insert"}))
ONE = {"public.orders": ALL}


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with closing(connect(database.url)) as opened:
        yield opened


def settings(**given: Any) -> SourceSettings:
    return SourceSettings(url=SecretStr("host=unused"), **{"outbox": None, **given})


def set_up(connection: psycopg.Connection[Any], needs: Mapping[str, Need], **given: Any) -> tuple[Problem, ...]:
    """What setup does; afterwards a second time has nothing to do, and nothing has drifted."""
    wanted = desired(connection, settings(**given), needs)
    names = publication.names(settings(**given))
    publication.apply(connection, publication.plan(wanted.publications, publication.existing(connection, names)))
    present = publication.existing(connection, names)
    assert publication.plan(wanted.publications, present) == []
    assert drift(wanted, present) == list(wanted.problems)
    return wanted.problems


def drifted(connection: psycopg.Connection[Any], needs: Mapping[str, Need], **given: Any) -> list[Problem]:
    wanted = desired(connection, settings(**given), needs)
    return drift(wanted, publication.existing(connection, publication.names(settings(**given))))


def by_severity(problems: tuple[Problem, ...]) -> list[str]:
    return [problem.severity for problem in problems]


def published(database: Database, name: str = "cdc_tracker") -> str:
    listed = "string_agg(schemaname || '.' || tablename, ' ' ORDER BY schemaname, tablename)"
    return str(database.value(f"SELECT coalesce({listed}, '') FROM pg_publication_tables WHERE pubname = '{name}'"))


def test_tables_with_odd_names_are_published(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute('CREATE SCHEMA "My Shop"; CREATE TABLE "My Shop"."Order; DROP ""x" ("Id" int PRIMARY KEY)')
    assert set_up(connection, {'My Shop.Order; DROP "x': ALL}) == ()
    assert published(database) == 'My Shop.Order; DROP "x'
    assert published(database, "cdc_tracker_inserts") == ""


def test_a_table_without_identity_goes_where_its_updates_still_work(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute("CREATE TABLE log (line text); CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE bare (x int)")
    database.execute("ALTER TABLE bare REPLICA IDENTITY NOTHING; INSERT INTO log VALUES ('a'); INSERT INTO bare VALUES (1)")
    assert set_up(connection, {"public.log": INSERT, "public.bare": INSERT, **ONE}) == ()
    assert published(database) == "public.orders"
    assert published(database, "cdc_tracker_inserts") == "public.bare public.log"
    database.execute("UPDATE log SET line = 'b'; DELETE FROM log; UPDATE bare SET x = 2")


def test_a_mapped_update_of_a_table_without_identity_is_refused_with_the_statement_that_mends_it(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute("CREATE TABLE orders (id int)")
    [problem] = set_up(connection, ONE)
    assert "delete and update is mapped" in problem.message
    assert published(database) == ""
    database.execute(problem.hint.partition(" (or")[0])
    assert set_up(connection, ONE) == ()
    database.execute("INSERT INTO orders VALUES (1); UPDATE orders SET id = 2; DELETE FROM orders")


def test_every_leaf_of_a_partitioned_table_needs_its_identity(database: Database, connection: psycopg.Connection[Any]) -> None:
    """Without a primary key of the root, those of a partition made later are not captured, and go on working."""
    database.execute(
        """CREATE TABLE orders (id int, part int) PARTITION BY LIST (part);
        CREATE TABLE o1 PARTITION OF orders FOR VALUES IN (1); CREATE TABLE "O 2" PARTITION OF orders FOR VALUES IN (2);
        ALTER TABLE orders REPLICA IDENTITY FULL; ALTER TABLE o1 REPLICA IDENTITY FULL"""
    )
    [problem] = set_up(connection, ONE)
    assert problem.hint.startswith('ALTER TABLE "public"."O 2" REPLICA IDENTITY FULL')
    assert (published(database), published(database, "cdc_tracker_inserts")) == ("public.o1", "public.orders")
    database.execute(problem.hint.partition(" (or")[0])
    [warning] = set_up(connection, ONE)
    assert (warning.severity, "primary key" in warning.hint) == ("warning", True)
    assert published(database) == "public.O 2 public.o1"
    database.execute("INSERT INTO orders VALUES (1, 1), (2, 2); UPDATE orders SET id = 7; DELETE FROM orders")
    database.execute("CREATE TABLE o3 PARTITION OF orders FOR VALUES IN (3)")
    database.execute("INSERT INTO orders VALUES (3, 3); UPDATE orders SET id = 8; DELETE FROM orders")
    told = drifted(connection, ONE)
    assert '"public"."o3" has no replica identity' in told[0].message
    database.execute("ALTER TABLE o3 REPLICA IDENTITY FULL")
    assert ("public.o3", "error") in {(problem.key, problem.severity) for problem in drifted(connection, ONE)}
    [warning] = set_up(connection, ONE)
    assert published(database) == "public.O 2 public.o1 public.o3"


def test_a_partitioned_table_with_a_primary_key_publishes_later_partitions_too(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, note text) PARTITION BY LIST (id)")
    assert set_up(connection, ONE) == ()
    assert published(database) == "public.orders"
    database.execute("CREATE TABLE o1 PARTITION OF orders FOR VALUES IN (1); INSERT INTO orders VALUES (1)")
    database.execute("UPDATE orders SET note = 'x'; DELETE FROM orders")
    assert drifted(connection, ONE) == []


def test_a_table_dropped_and_made_again_has_drifted(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE extra (id int PRIMARY KEY)")
    assert set_up(connection, {**ONE, "public.extra": ALL}) == ()
    database.execute("DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY)")
    wanted = desired(connection, settings(), ONE)
    present = publication.existing(connection, publication.names(settings()))
    missing, extra = drift(wanted, present)
    assert (missing.key, missing.severity) == ("public.orders", "error")
    assert "do not arrive" in missing.message
    assert (extra.key, extra.severity) == ("public.extra", "warning")
    assert set_up(connection, ONE) == ()
    assert published(database) == "public.orders"


NARROWED = {
    "ALTER PUBLICATION cdc_tracker SET (publish = 'insert')": "without its deletes and updates",
    "ALTER PUBLICATION cdc_tracker SET (publish_via_partition_root = false)": "names partitions",
    "ALTER PUBLICATION cdc_tracker DROP TABLE orders": "is not in the publication",
    "ALTER PUBLICATION cdc_tracker SET TABLE orders WHERE (id > 10)": "row filter",
    "ALTER PUBLICATION cdc_tracker SET TABLE orders (id)": "other columns",
    "ALTER PUBLICATION cdc_tracker SET TABLE bare": "PostgreSQL refuses",
    "ALTER PUBLICATION cdc_tracker ADD TABLES IN SCHEMA public": "publishes all tables of public",
    "DROP PUBLICATION cdc_tracker": "does not exist",
    "DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY)": "is not in the publication",
}


@pytest.mark.servers("pg15", "pg18")
@pytest.mark.parametrize("change", NARROWED)
def test_a_publication_that_was_altered_is_told_and_put_right(
    database: Database, connection: psycopg.Connection[Any], change: str
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE TABLE bare (id int)")
    needs = {**ONE, "public.bare": INSERT}
    set_up(connection, needs)
    database.execute(change)
    told = [problem.message for problem in drifted(connection, needs) if problem.severity == "error"]
    assert any(NARROWED[change] in message for message in told)
    assert set_up(connection, needs) == ()
    database.execute("INSERT INTO bare VALUES (1); UPDATE bare SET id = 2; DELETE FROM bare")


def test_somebody_elses_publication_is_left_alone(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE PUBLICATION cdc_tracker FOR ALL TABLES")
    with pytest.raises(SourceError, match="FOR ALL TABLES"):
        set_up(connection, ONE)
    assert any("FOR ALL TABLES" in problem.message for problem in drifted(connection, ONE))
    assert publication.removal(connection, settings()) == []


def test_what_has_no_row_changes_is_refused(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE TABLE parent (id int) PARTITION BY LIST (id); CREATE TABLE leaf PARTITION OF parent FOR VALUES IN (1);
        CREATE VIEW seen AS SELECT 1 AS x; CREATE UNLOGGED TABLE quick (id int PRIMARY KEY)"""
    )
    needs = {f"public.{name}": INSERT for name in ("leaf", "seen", "quick", "nothing")}
    problems = {problem.key: problem for problem in set_up(connection, needs)}
    assert "partition of public.parent" in problems["public.leaf"].message
    assert "view" in problems["public.seen"].message
    assert "unlogged" in problems["public.quick"].message
    assert "does not exist" in problems["public.nothing"].message
    assert published(database) == ""


@pytest.mark.servers("pg15", "pg18")
def test_never_capture_keeps_a_column_out_of_the_publication(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, card text, note text, n int GENERATED ALWAYS AS (id) STORED)")
    kept = {"never_capture": {"public.orders": ["card"]}}
    assert by_severity(set_up(connection, ONE, **kept)) == ["warning"]
    assert database.value("SELECT attnames::text FROM pg_publication_tables") == "{id}"
    assert database.value("SELECT pg_create_logical_replication_slot('never', 'pgoutput') IS NOT NULL")
    database.execute("INSERT INTO orders (id, card) VALUES (1, 'SECRET-CARD'); UPDATE orders SET card = 'SECRET-CARD2'")
    changes = "pg_logical_slot_get_binary_changes('never', NULL, NULL, 'proto_version', '1', 'publication_names', 'cdc_tracker')"
    assert database.value(f"SELECT bool_or(position('SECRET'::bytea IN data) > 0) FROM {changes}") is False
    assert set_up(connection, ONE) == ()
    assert by_severity(set_up(connection, ONE, **kept)) == ["warning"]


@pytest.mark.servers("pg15", "pg18")
def test_never_capture_of_a_key_is_refused_because_updates_would_fail(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE TABLE full_one (id int, note text)")
    database.execute("ALTER TABLE full_one REPLICA IDENTITY FULL")
    problems = set_up(connection, ONE, never_capture={"public.orders": ["id"]})
    assert "never_capture leaves out a column of the replica identity" in problems[-1].message
    problems = set_up(connection, {"public.full_one": ALL}, never_capture={"public.full_one": ["note"]})
    assert problems[-1].severity == "error"
    assert "never_capture" in problems[-1].message
    told = set_up(connection, {"public.full_one": INSERT}, never_capture={"public.full_one": ["note"]})
    assert by_severity(told) == ["warning"]
    database.execute("INSERT INTO full_one VALUES (1, 'a'); UPDATE full_one SET note = 'b'; DELETE FROM full_one")


@pytest.mark.servers("pg18")
def test_generated_columns_are_published_where_the_server_can(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)")
    assert set_up(connection, ONE) == ()
    assert database.value("SELECT pubgencols FROM pg_publication WHERE pubname = 'cdc_tracker'") == "s"


def test_the_outbox_is_published_with_the_mapped_tables(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    own = SourceSettings(url=SecretStr("host=unused"))
    before = desired(connection, own, ONE)
    for script in scripts.outbox(own.outbox):
        database.execute(script)
    wanted = desired(connection, own, ONE)
    assert wanted == before  # so that `setup --print-sql` prints it before the outbox is there
    publication.apply(connection, publication.plan(wanted.publications, {}))
    assert (published(database), published(database, "cdc_tracker_inserts")) == ("public.orders", "cdc_tracker.outbox")
    for statement in (*publication.drop_statements(own), *scripts.teardown(own)):
        database.execute(statement)
    assert publication.existing(connection, publication.names(own)) == {}
    assert database.value("SELECT to_regnamespace('cdc_tracker')") is None


def test_a_table_of_another_owner_is_refused_with_the_way_out(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        "CREATE TABLE orders (id int PRIMARY KEY); DO $$ BEGIN CREATE ROLE other LOGIN; EXCEPTION WHEN OTHERS THEN END $$"
    )
    database.execute("DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO other', current_database()); END $$")
    with closing(connect(database.url_as("other"))) as stranger:
        wanted = desired(stranger, settings(), ONE)
        with pytest.raises(SourceError, match="must be owner") as caught:
            publication.apply(stranger, publication.plan(wanted.publications, {}))
    assert "--print-sql" in caught.value.hint
    assert publication.existing(connection, publication.names(settings())) == {}


@pytest.mark.servers("pg15", "pg18")
def test_never_capture_leaves_the_application_its_ddl_but_for_columns_that_are_used(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, a int, b int, secret text)")
    never = {"never_capture": {"public.orders": ["secret"]}}
    reads_a, reads_none = Need(ALL.operations, frozenset({"a"})), Need(ALL.operations)
    [warning] = set_up(connection, {"public.orders": reads_a}, **never)
    assert "of id, a" in warning.message
    database.execute("ALTER TABLE orders DROP b, DROP secret, ADD c int, ADD secret text; ALTER TABLE orders ALTER c TYPE bigint")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        database.execute("ALTER TABLE orders DROP a")
    database.execute(
        """BEGIN; ALTER PUBLICATION cdc_tracker DROP TABLE ONLY orders; ALTER TABLE orders ALTER a TYPE bigint;
        ALTER PUBLICATION cdc_tracker ADD TABLE ONLY orders (id, a); COMMIT"""
    )
    assert [problem.severity for problem in drifted(connection, {"public.orders": reads_a}, **never)] == ["warning"]
    set_up(connection, {"public.orders": reads_none}, **never)
    database.execute("ALTER TABLE orders DROP a")


@pytest.mark.servers("pg15", "pg18")
def test_publications_of_an_older_setup_go_on_and_are_put_right_without_losing_a_change(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    """They published everything of a table with a key, and the outbox with them."""
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE log (id int PRIMARY KEY)")
    database.execute("CREATE TABLE lines (t text)")
    generated = ", publish_generated_columns = stored" if database.server.major >= 18 else ""
    options = f"publish_via_partition_root = true{generated}"
    database.execute(f"CREATE PUBLICATION cdc_tracker FOR TABLE orders, log WITH ({options})")
    database.execute(f"CREATE PUBLICATION cdc_tracker_inserts FOR TABLE lines WITH (publish = 'insert', {options})")
    needs = {**ONE, "public.log": INSERT, "public.lines": INSERT}
    connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [database.name])
    assert {problem.severity for problem in drifted(connection, needs)} == {"warning"}
    database.execute("INSERT INTO orders VALUES (1); INSERT INTO log VALUES (1); INSERT INTO lines VALUES ('a')")
    assert set_up(connection, needs) == ()
    database.execute("INSERT INTO orders VALUES (2); INSERT INTO log VALUES (2); INSERT INTO lines VALUES ('b')")
    names = "'proto_version', '1', 'publication_names', 'cdc_tracker_inserts,cdc_tracker'"
    changes = f"pg_logical_slot_get_binary_changes('{database.name}', NULL, NULL, {names})"
    assert database.value(f"SELECT count(*) FROM {changes} WHERE get_byte(data, 0) = ascii('I')") == 6


def test_children_that_inherit_from_a_table_are_left_alone_and_told(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    """They have no key of their own, whether they were there before setup or come later."""
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE before (own int) INHERITS (orders)")
    [warning] = set_up(connection, ONE)
    assert "inherit" in warning.message
    assert published(database) == "public.orders"
    database.execute("CREATE TABLE later () INHERITS (orders); INSERT INTO before VALUES (1); INSERT INTO later VALUES (2)")
    database.execute("UPDATE orders SET id = id + 10; DELETE FROM orders")
    set_up(connection, {"public.before": INSERT})
    assert (published(database), published(database, "cdc_tracker_inserts")) == ("", "public.before")


@pytest.mark.servers("pg15", "pg18")
@pytest.mark.parametrize("reader", ["wal2json", "pgoutput"])
def test_what_nobody_reads_is_an_error_where_the_application_s_updates_fail_for_it(
    database: Database, connection: psycopg.Connection[Any], reader: str
) -> None:
    """An older setup published for wal2json, too, and the tables that inherit from a mapped one."""
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE child () INHERITS (orders)")
    database.execute("CREATE TABLE parts (id int) PARTITION BY RANGE (id); CREATE TABLE p PARTITION OF parts DEFAULT")
    generated = ", publish_generated_columns = stored" if database.server.major >= 18 else ""
    database.execute(
        f"CREATE PUBLICATION cdc_tracker FOR TABLE orders, parts WITH (publish_via_partition_root = true{generated})"
    )
    database.execute(
        f"CREATE PUBLICATION cdc_tracker_inserts WITH (publish = 'insert', publish_via_partition_root = true{generated})"
    )
    for table in ("orders", "parts"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            database.execute(
                f"INSERT INTO {table} VALUES (1); UPDATE {table} SET id = 2; INSERT INTO child VALUES (3); DELETE FROM child"
            )
    wanted = desired(connection, settings(), ONE, reader)
    names = publication.names(settings())

    def errors() -> dict[str, str]:
        found = drift(wanted, publication.existing(connection, names))
        return {problem.key: problem.hint for problem in found if problem.severity == "error"}

    assert errors().keys() == {"public.child", "public.parts"}
    assert all("cdc-tracker setup" in hint for hint in errors().values())
    publication.apply(connection, publication.statements(connection, settings(), wanted))
    assert errors() == {}
    database.execute("UPDATE orders SET id = id + 10; UPDATE parts SET id = 3; DELETE FROM parts; DELETE FROM orders")
