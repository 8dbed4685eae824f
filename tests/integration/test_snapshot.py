"""Tables read in chunks by their keys."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from cdc_tracker.errors import SourceError, SourceUnavailable
from cdc_tracker.model import Position, parse_lsn
from cdc_tracker.sources.postgres.snapshot import since, usable_key
from tests.integration.stream import flushed
from tests.integration.tables import chunks, decode, read_all, reader, rows
from tests.postgres import Database

pytestmark = pytest.mark.servers("pg15", "pg18")

DAY = 86_400_000_000


def test_a_table_is_read_in_chunks_to_its_last_row(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t SELECT i, 'n' || i FROM generate_series(1, 10) i"
    )
    with reader(database, "public.t", ["note"]) as given:
        found = list(chunks(given, 4))
    assert [chunk.rows for chunk in found] == [4, 4, 2]
    assert [chunk.last_key for chunk in found] == [("4",), ("8",), ("10",)]
    assert [chunk.end for chunk in found] == [False, False, True]
    assert rows(found) == [{"id": str(i), "note": f"n{i}"} for i in range(1, 11)]


def test_a_chunk_that_is_just_full_is_followed_by_an_empty_one(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 4)")
    with reader(database, "public.t") as given:
        found = list(chunks(given, 4))
    assert [(chunk.rows, chunk.last_key, chunk.end) for chunk in found] == [(4, ("4",), False), (0, ("4",), True)]
    assert found[1].segment is None


def test_an_empty_table_is_one_chunk_without_rows(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with reader(database, "public.t") as given:
        [chunk] = chunks(given, 4)
    assert (chunk.segment, chunk.rows, chunk.last_key, chunk.end) == (None, 0, None, True)


KEYS = {
    "integer": ("id int", "SELECT (i * 7919) % 1009 - 500"),
    "composite": ('a int, "B c" text, d date', "SELECT i % 3, 'x' || i % 4, date '2026-01-01' + i"),
    "uuid": ("id uuid", "SELECT md5(i::text)::uuid"),
    "text": ("id text", "SELECT chr(60 + i % 40) || repeat(E'\\\\\\t''\"', i % 3) || i"),
    "collated": ('id text COLLATE "en-x-icu"', "SELECT chr(60 + i % 40) || 'Ä' || i"),
    "char": ("id char(5)", "SELECT lpad(i::text, 2 + i % 4)"),
    "float": ("id float8", "SELECT CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE (i / 7.0)::text END::float8"),
    "numeric": ("id numeric(9,3)", "SELECT 0.125 * i"),
    "timestamptz": ("id timestamptz", "SELECT CASE i WHEN 1 THEN timestamptz 'infinity' ELSE now() + i * interval '7 h' END"),
    "bytea": ("id bytea", "SELECT decode(md5(i::text), 'hex')"),
    "bits": ("id bit(9)", "SELECT i::bit(9)"),
    "boolean": ("id bool, n int", "SELECT i % 2 = 0, i"),
    "enum": ("id mood, n int", "SELECT (ARRAY['sad', 'ok', 'it''s']::mood[])[1 + i % 3], i"),
    "domain": ("id positive", "SELECT i"),
    "array": ("id int[]", "SELECT ARRAY[i % 5, i]"),
}  # fmt: skip


@pytest.mark.servers("pg15")
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("kind", KEYS)
def test_every_row_is_read_once_and_in_the_keys_order(database: Database, kind: str, order: str) -> None:
    columns, query = KEYS[kind]
    names = ", ".join(part.strip().rpartition('"')[0] + '"' if '"B' in part else part.split()[0] for part in columns.split(","))
    names = "id" if kind in {"collated", "numeric"} else names
    database.execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s'); CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
    database.execute(f'CREATE TABLE "Odd ""Table" ({columns}, "Note" text, PRIMARY KEY ({names}))')
    database.execute(f'INSERT INTO "Odd ""Table" SELECT DISTINCT *, \'n\' FROM ({query} FROM generate_series(1, 40) i) q')
    found = read_all(database, 'public.Odd "Table', ["Note"], limit=7, order=order)
    direction = ", ".join(f"{name} {order}" for name in names.split(","))
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'; SET extra_float_digits = 1")
        cursor.execute(f'SELECT {names} FROM "Odd ""Table" ORDER BY {direction}')
        result = cursor.pgresult
    assert result is not None
    expected = [
        tuple((result.get_value(row, place) or b"").decode() for place in range(result.nfields)) for row in range(result.ntuples)
    ]
    assert len(expected) > 20
    assert [tuple(row.values())[:-1] for row in found] == expected


def test_a_partitioned_table_is_read_by_its_root(database: Database) -> None:
    database.execute(
        "CREATE TABLE p (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') PARTITION BY LIST (id);"
        "CREATE TABLE p1a PARTITION OF p1 DEFAULT; CREATE TABLE p2 PARTITION OF p DEFAULT;"
        "INSERT INTO p SELECT i, date '2026-01-20' + i, 'n' FROM generate_series(1, 20) i"
    )
    assert [row["id"] for row in read_all(database, "public.p")] == [str(i) for i in range(1, 21)]
    for leaf in ("p1", "p1a", "p2"):
        with database.connect() as connection, pytest.raises(SourceError, match=f"public.{leaf} is a partition of public.p"):
            usable_key(connection, f"public.{leaf}")


def test_rows_of_tables_that_inherit_are_not_those_of_the_parent(database: Database) -> None:
    """The stream tells them as changes of the table that they are in."""
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (PRIMARY KEY (id)) INHERITS (a)")
    database.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1), (2)")
    assert read_all(database, "public.a") == [{"id": "1"}]


def test_without_a_primary_key_a_unique_index_serves(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (a int NOT NULL, b int, c text NOT NULL, d int NOT NULL);"
        "CREATE UNIQUE INDEX t_b ON t (b); CREATE UNIQUE INDEX t_part ON t (a) WHERE a > 3;"
        "CREATE UNIQUE INDEX t_ex ON t (lower(c));"
        'CREATE UNIQUE INDEX t_pattern ON t (c text_pattern_ops); CREATE UNIQUE INDEX t_c ON t (c COLLATE "C");'
    )
    with database.connect() as connection:
        with pytest.raises(SourceError, match=r"public\.t has no key") as refused:
            usable_key(connection, "public.t")
        assert "unique index on NOT NULL columns" in refused.value.hint
        connection.execute("CREATE UNIQUE INDEX t_da ON t (d, a) INCLUDE (b)")
        assert usable_key(connection, "public.t") == ("d", "a")
        connection.execute("ALTER TABLE t ADD PRIMARY KEY (a)")
        assert usable_key(connection, "public.t") == ("a",)


def test_what_is_no_table_is_refused_with_its_reason(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW v AS SELECT * FROM t; CREATE MATERIALIZED VIEW m AS SELECT * FROM t"
    )
    expected = {"public.v": "is a view", "public.m": "is a materialized view", "public.none": "there is no table public.none"}
    with database.connect() as connection:
        for table, message in expected.items():
            with pytest.raises(SourceError, match=message) as refused:
                usable_key(connection, table)
            assert refused.value.hint


def test_conditions_leave_rows_out_and_every_other_is_read(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT i, i % 100 FROM generate_series(1, 2000) i"
    )
    found = read_all(database, "public.t", ["n"], where=["n = 7 -- only these", "true"], limit=5)
    assert [row["id"] for row in found] == [str(i) for i in range(7, 2001, 100)]
    assert read_all(database, "public.t", where="id > 5000", limit=5) == []
    assert [row["id"] for row in read_all(database, "public.t", where="t.id <= 3 OR false", limit=5)] == ["1", "2", "3"]


def test_a_reader_with_little_patience_says_where_to_go_on(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
    with reader(database, "public.t", where="id > 990", patience=0.0) as given:
        first = given.read(None, 5)
        assert (first.segment, first.rows, first.last_key, first.end) == (None, 0, ("5",), False)
        assert [row["id"] for row in rows(list(chunks(given, 5)))] == [str(i) for i in range(991, 1001)]


@pytest.mark.parametrize("type_name", ["timestamptz", "timestamp", "date", "timestamp(0)"])
def test_a_time_range_fits_columns_of_every_type_of_time(database: Database, type_name: str) -> None:
    database.execute(f'CREATE TABLE t (id int PRIMARY KEY, "At" {type_name})')
    database.execute(
        "SET timezone = 'UTC'; INSERT INTO t SELECT i, timestamp '2026-03-01' + i * interval '1d' FROM generate_series(0, 9) i"
    )
    database.execute("INSERT INTO t VALUES (20, 'infinity'), (21, NULL), (22, '-infinity')")
    march = 1772323200_000000  # 2026-03-01 in UTC

    def ids(*bounds: int | None) -> list[object]:
        return [row["id"] for row in read_all(database, "public.t", conditions=[since("At", *bounds)])]

    assert ids(march + 2 * DAY, march + 4 * DAY) == ["2", "3"]
    assert ids(march + 2 * DAY + 1, march + 4 * DAY + 1) == ["3", "4"]
    assert ids(march + 8 * DAY, None) == ["8", "9", "20"]
    assert ids(None, march + DAY) == ["0", "22"]
    assert len(ids(None, None)) == 13


@pytest.mark.parametrize(("type_name", "there"), [("timestamptz", "0 1 2"), ("timestamp", "1 2 3"), ("date", "0 1 2")])
def test_a_time_range_takes_timestamps_as_those_of_the_time_zone(database: Database, type_name: str, there: str) -> None:
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, at {type_name})")
    database.execute(
        "SET timezone = 'UTC'; INSERT INTO t SELECT i, timestamp '2026-03-01' + i * interval '1d' FROM generate_series(0, 9) i"
    )
    march = 1772323200_000000  # 2026-03-01 in UTC, at one o'clock in Berlin
    conditions = [since("at", march, march + 3 * DAY, timezone="Europe/Berlin")]
    assert [row["id"] for row in read_all(database, "public.t", conditions=conditions)] == there.split()


def test_a_chunk_ends_early_where_its_rows_are_large(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, body text)")
    database.execute("INSERT INTO t SELECT i, repeat(i::text, 100000 / length(i::text)) FROM generate_series(1, 50) i")
    with reader(database, "public.t", ["body"], max_bytes=1_000_000) as given:
        found = list(chunks(given, 40))
    assert [row["id"] for row in rows(found)] == [str(i) for i in range(1, 51)]
    assert len(found) >= 5
    assert all(len(chunk.segment.frames) <= 1_200_000 for chunk in found if chunk.segment)


def test_one_row_larger_than_the_limit_is_a_chunk_of_its_own(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, body text); INSERT INTO t VALUES (1, 'a'), (2, repeat('x', 300000)), (3, 'b')"
    )
    with reader(database, "public.t", ["body"], max_bytes=100_000) as given:
        found = list(chunks(given, 10))
    assert [len(str(row["body"])) for row in rows(found)] == [1, 300000, 1]


def test_the_marks_stand_around_the_read(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    before = flushed(database)
    with reader(database, "public.t") as given:
        chunk = given.read(None, 10)
    assert before <= chunk.low < chunk.high < parse_lsn(str(database.value("SELECT pg_current_wal_insert_lsn()")))
    assert chunk.segment is not None
    [change] = decode(chunk.segment)
    assert (change.op, change.position, change.lsn, change.index) == ("r", Position(chunk.low, 0), chunk.low, 0)
    assert (change.transaction.xid, change.transaction.commit_lsn, change.old) == (0, chunk.low, None)
    now = int(str(database.value("SELECT (extract(epoch FROM now()) * 1000000)::int8")))
    assert now - 60_000_000 < change.transaction.committed_at <= now
    assert chunk.segment.first_time == chunk.segment.last_time == change.transaction.committed_at


def test_transactions_that_had_not_ended_are_named(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    with psycopg.connect(database.url) as writer, reader(database, "public.t") as given:
        row = writer.execute("INSERT INTO t VALUES (2) RETURNING pg_current_xact_id()::xid::text::int8").fetchone()
        assert row is not None
        chunk = given.read(None, 10)
        assert row[0] in chunk.running
        assert [cells["id"] for cells in rows([chunk])] == ["1"]
        writer.commit()
        again = given.read(None, 10)
        assert row[0] not in again.running
        assert [cells["id"] for cells in rows([again])] == ["1", "2"]


@pytest.fixture
def altered(database: Database) -> Iterator[Database]:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text); INSERT INTO t SELECT i, i, 'b' FROM generate_series(1, 9) i"
    )
    yield database


def test_ddl_between_chunks_is_followed(altered: Database) -> None:
    with reader(altered, "public.t", ["a", "b", "c"]) as given:
        first = given.read(None, 3)
        altered.execute("ALTER TABLE t DROP COLUMN a, ALTER b TYPE int USING 5, ADD c int DEFAULT 9")
        second = given.read(first.last_key, 3)
    assert rows([first])[0] == {"id": "1", "a": "1", "b": "b"}
    assert rows([second])[0] == {"id": "4", "b": "5", "c": "9"}
    assert second.segment is not None
    relation = decode(second.segment)[0].relation
    assert relation is not None and [column.type_oid for column in relation.columns] == [23, 23, 23]


def test_a_table_that_is_being_rewritten_is_not_found_empty(altered: Database) -> None:
    with reader(altered, "public.t", ["a"], lock_timeout=0.3) as given:
        first = given.read(None, 3)
        with psycopg.connect(altered.url) as owner:
            owner.execute("ALTER TABLE t ALTER a TYPE bigint")
            with pytest.raises(SourceUnavailable, match="lock"):
                given.read(first.last_key, 3)
            owner.commit()
        assert [row["id"] for row in rows([given.read(first.last_key, 10)])] == ["4", "5", "6", "7", "8", "9"]


def test_another_key_than_before_is_refused(altered: Database) -> None:
    with reader(altered, "public.t") as given:
        first = given.read(None, 3)
        altered.execute("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (a)")
        with pytest.raises(SourceError, match=r"key of public\.t has changed"):
            given.read(first.last_key, 3)


def test_a_read_that_takes_too_long_is_given_up_and_asks_for_less(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 40)")
    slow = "pg_sleep(0.05) IS NOT NULL"
    with reader(database, "public.t", where=slow, statement_timeout=0.5) as given:
        for _ in range(10):
            try:
                chunk = given.read(None, 40)
                break
            except SourceUnavailable as error:
                assert "timeout" in str(error)
        assert [cells["id"] for cells in rows([chunk])][:3] == ["1", "2", "3"]
        assert 0 < chunk.rows < 20 and not chunk.end


def test_generated_columns_are_read_and_those_kept_back_are_not(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, secret text)")
    database.execute("INSERT INTO t (id, a, secret) VALUES (1, 4, 'x'), (2, NULL, NULL)")
    found = read_all(database, "public.t", ["a", "twice", "secret", "none"], never_capture=["secret"])
    assert found == [{"id": "1", "a": "4", "twice": "8"}, {"id": "2", "a": None, "twice": None}]
    with pytest.raises(SourceError, match="never_capture excludes id"):
        read_all(database, "public.t", never_capture=["id"])
