"""What a backfill is refused with: a person's SQL that does not fit or does more, missing rights, a standby."""

from __future__ import annotations

import pytest

from cdc_tracker.errors import SourceError
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.snapshot import extent, since, usable_key, write_watermark
from tests.integration.tables import read_all, reader
from tests.postgres import Database, launch

pytestmark = pytest.mark.servers("pg15", "pg18")


@pytest.fixture
def table(database: Database) -> Database:
    database.execute(
        "CREATE SCHEMA shop; CREATE TABLE shop.t (id int PRIMARY KEY, note text, at timestamptz); CREATE TABLE x (n int)"
    )
    database.execute("INSERT INTO shop.t SELECT i, 'n' || i FROM generate_series(1, 100) i; INSERT INTO x VALUES (1)")
    return database


OUT = "/tmp/cdc-tracker-was-here"
ESCAPES = [
    "true); DELETE FROM x; --",
    "true; DELETE FROM x",
    f"true) TO PROGRAM 'touch {OUT}' --",
    f"true ORDER BY 1) TO '{OUT}' --",
    "true) UNION SELECT 1, 'a' WHERE (true",
    "E'a'\n'\\' ' ) UNION SELECT 1 --'",
    "note = $a$ $a$) UNION SELECT 1 WHERE (true",
    "a$b$ IS NULL) UNION SELECT 1 WHERE (true OR $b$ = ''",
    'true /* "',
    "note = 'open",
    "(id = 1",
    "id = $1",
    " ",
]


@pytest.mark.parametrize("where", ESCAPES)
def test_a_condition_cannot_become_anything_else(table: Database, where: str) -> None:
    with pytest.raises(SourceError) as refused:
        read_all(table, "shop.t", ["note"], where=where)
    assert "the condition" in str(refused.value)
    assert table.value("SELECT count(*) FROM x") == 1
    assert table.value(f"SELECT pg_stat_file('{OUT}', true) IS NULL") is True


WRITES = [
    "(WITH d AS (DELETE FROM x RETURNING 1) SELECT true FROM d)",
    "nextval('numbers') > 0",
    "set_config('transaction_read_only', 'off', true) IS NULL AND nextval('numbers') > 0",
    "id = 1 AND lo_create(77) > 0",
]


@pytest.mark.parametrize("where", WRITES)
def test_a_condition_cannot_write(table: Database, where: str) -> None:
    table.execute("CREATE SEQUENCE numbers")
    try:
        read_all(table, "shop.t", where=where)
        assert "lo_create" in where and table.server.major < 16  # which lets it, and we take it back
    except SourceError as error:
        assert "PostgreSQL says" in str(error)
    assert table.value("SELECT is_called FROM numbers") is False
    assert table.value("SELECT count(*) FROM x") == 1
    assert table.value("SELECT count(*) FROM pg_largeobject_metadata") == 0


ODD = [
    "note = E'it\\'s)' OR note = $q$ ; ) $q$ OR note = 'a;)' OR \"note\" = 'n7'",
    "note LIKE '%7' AND id < 10 -- a comment; with ) all of it",
    "-- first\nid = 7",
    "EXISTS (SELECT 1 FROM x WHERE n = 1 AND t.id = 7)",
    "id = 7 OR note = E'a'\n'b\\';)'",
]


@pytest.mark.parametrize("where", ODD)
def test_whatever_is_one_condition_serves(table: Database, where: str) -> None:
    assert read_all(table, "shop.t", where=where) == [{"id": "7"}]


def _messages(table: Database) -> int:
    """How many logical messages the slot holds."""
    options = "'proto_version', '1', 'publication_names', 'none', 'messages', 'true'"
    changes = f"pg_logical_slot_peek_binary_changes('marks', NULL, NULL, {options})"
    return int(str(table.value(f"SELECT count(*) FROM {changes} WHERE get_byte(data, 0) = ascii('M')")))


def test_a_condition_that_does_not_fit_is_named_with_what_postgresql_minds(table: Database) -> None:
    table.execute("SELECT pg_create_logical_replication_slot('marks', 'pgoutput')")
    for where, reason in {
        "staus = 'paid'": 'column "staus" does not exist',
        "note": "argument of WHERE must be type boolean",
        "id = 'seven'": "invalid input syntax for type integer",
        "count(*) > 1": "aggregate functions are not allowed in WHERE",
        "id = = 1": "syntax error",
    }.items():
        with pytest.raises(SourceError) as refused:
            read_all(table, "shop.t", where=["id > 0", where])
        assert f"`{where}` does not fit shop.t: PostgreSQL says: {reason}" in str(refused.value)
    with pytest.raises(SourceError, match=r"the range does not fit shop\.t: PostgreSQL says: operator does not exist"):
        read_all(table, "shop.t", conditions=[since("note", 0, None)])
    assert _messages(table) == 0  # not even a mark was written
    read_all(table, "shop.t")
    assert _messages(table) > 0


def test_a_condition_that_fails_on_a_row_is_an_error_and_not_tried_again(table: Database) -> None:
    with pytest.raises(SourceError, match=r"shop\.t cannot be read with these conditions: PostgreSQL says: division by zero"):
        read_all(table, "shop.t", where="1 / (id - 50) >= 0")


def test_how_much_there_is_to_read_is_estimated(table: Database) -> None:
    table.execute(
        "INSERT INTO shop.t SELECT i, 'n', timestamptz '2026-01-01' + i * interval '1h' FROM generate_series(1000, 9999) i"
    )
    table.execute("ANALYZE shop.t")
    with table.connect() as connection:
        whole = extent(connection, "shop.t")
        half = extent(connection, "shop.t", "id <= 5000")
        late = extent(connection, "shop.t", None, [since("at", 1772323200_000000, None)])
        assert extent(connection, "shop.t", "id < 0").rows <= 1
    assert 8000 <= whole.rows <= 10000 and whole.bytes > 10 * whole.rows
    assert 3500 <= half.rows <= 4700
    assert 0 < late.rows < whole.rows


def test_a_role_with_the_least_rights_reads_once_it_may_select(table: Database) -> None:
    role = f"reader_{table.name}"
    table.execute(f'CREATE ROLE "{role}" LOGIN; GRANT CONNECT ON DATABASE {table.name} TO "{role}"')
    table.execute(
        "CREATE TABLE shop.p (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE shop.p1 PARTITION OF shop.p DEFAULT"
    )
    table.execute("INSERT INTO shop.p VALUES (1)")
    url = table.url_as(role)
    try:
        with pytest.raises(SourceError, match=f"{role} may not read") as refused:
            read_all(table, "shop.t", url=url)
        assert f'GRANT USAGE ON SCHEMA "shop" TO "{role}"; GRANT SELECT ON "shop"."t" TO "{role}";' in refused.value.hint
        table.execute(f'{refused.value.hint} GRANT SELECT ON shop.p TO "{role}"')
        assert len(read_all(table, "shop.t", ["note"], url=url, limit=50)) == 100
        assert read_all(table, "shop.p", url=url) == [{"id": "1"}]
        with reader(table, "shop.t", url=url) as given:
            given.read(None, 10)
            table.execute(f'REVOKE SELECT ON shop.t FROM "{role}"')
            with pytest.raises(SourceError, match="may not read") as refused:
                given.read(("10",), 10)
        table.execute(f'GRANT SELECT ON shop.t TO "{role}"; ALTER TABLE shop.t ENABLE ROW LEVEL SECURITY')
        with pytest.raises(SourceError, match="row-level security") as refused:
            read_all(table, "shop.t", url=url)
        table.execute(refused.value.hint.replace("; as a superuser", ""))
        assert len(read_all(table, "shop.t", ["note"], url=url, limit=50)) == 100
    finally:
        table.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_a_standby_cannot_be_read_and_says_so() -> None:
    with launch("pg18") as own:
        own.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        own.stop()
        (own.data / "standby.signal").touch()
        own.start()
        database = Database(own, "postgres")
        with connect(own.url()) as connection:
            usable_key(connection, "public.t")
            with pytest.raises(SourceError, match="standby"):
                write_watermark(connection, 1, "low")
        with pytest.raises(SourceError, match="standby") as refused:
            read_all(database, "public.t")
        assert "primary" in refused.value.hint
