"""Changes as the two decoders tell them, on every server with every plugin it has: `agreed` holds them to be equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from cdc_tracker.model import UNCHANGED, UNLOGGED, Missing, Text
from tests.integration.stream import Seen, Tap, agreed, tapped
from tests.postgres import Database, Server, fresh_database, launch, plugins

LONG = "x" * 9000
TOASTED = (
    "CREATE TABLE doc (id int PRIMARY KEY, code int NOT NULL, body text, n int); ALTER TABLE doc ALTER body SET STORAGE EXTERNAL"
)


@contextmanager
def streamed(database: Database, *tables: str) -> Iterator[Sequence[Tap]]:
    with tapped(database, plugins(database.server), tables) as taps:
        yield taps


def rows(changes: Sequence[Seen]) -> list[tuple[object, ...]]:
    """(op, new cells, old cells) of each change; LONG as "long", for readable failures."""

    def cells(row: Mapping[str, object] | None) -> tuple[object, ...] | None:
        return None if row is None else tuple("long" if cell == LONG else cell for cell in row.values())

    return [(change.op, cells(change.new), cells(change.old)) for change in changes]


def order(changes: Sequence[Seen]) -> list[tuple[str, Text, int]]:
    """(op, table or message, ordinal)."""
    return [(change.op, change.table or change.content, change.position.ordinal) for change in changes]


@pytest.mark.invariant(8)
@pytest.mark.parametrize("identity", ["DEFAULT", "FULL", "USING INDEX doc_code"])
def test_unchanged_toast_is_told_from_null_under_each_identity(database: Database, identity: str) -> None:
    database.execute(f"{TOASTED}; CREATE UNIQUE INDEX doc_code ON doc (code); ALTER TABLE doc REPLICA IDENTITY {identity}")
    with streamed(database, "public.doc") as taps:
        database.execute(f"INSERT INTO doc VALUES (1, 10, '{LONG}')")
        for statement in ("n = 5", "code = 11", "id = 11", "body = 'short'"):
            database.execute(f"UPDATE doc SET {statement}")
        database.execute("DELETE FROM doc")
        database.execute("INSERT INTO doc VALUES (2, 20, NULL); UPDATE doc SET n = 5")
        found = agreed(taps)

    def old(*cells: str | None) -> tuple[object, ...]:
        logged = {"DEFAULT": {0}, "FULL": {0, 1, 2, 3}}.get(identity, {1})
        return tuple(cell if place in logged else UNLOGGED for place, cell in enumerate(cells))

    kept = "long" if identity == "FULL" else UNCHANGED
    assert rows(found) == [
        ("c", ("1", "10", "long", None), None),
        ("u", ("1", "10", kept, "5"), old("1", "10", "long", None)),
        ("u", ("1", "11", kept, "5"), old("1", "10", "long", "5")),
        ("u", ("11", "11", kept, "5"), old("1", "11", "long", "5")),
        ("u", ("11", "11", "short", "5"), old("11", "11", "long", "5")),
        ("d", None, old("11", "11", "short", "5")),
        ("c", ("2", "20", None, None), None),
        ("u", ("2", "20", None, "5"), old("2", "20", None, None)),
    ]


def test_a_toasted_column_that_did_not_change_is_filled_from_the_full_old_row(database: Database) -> None:
    database.execute("CREATE TABLE full_k (key text, n int); ALTER TABLE full_k ALTER key SET STORAGE EXTERNAL")
    database.execute("ALTER TABLE full_k REPLICA IDENTITY FULL")
    with streamed(database, "public.full_k") as taps:
        database.execute(f"INSERT INTO full_k VALUES ('{LONG}', 1); UPDATE full_k SET n = NULL")
        found = agreed(taps)
    assert rows(found)[1] == ("u", ("long", None), ("long", "1"))


def test_a_table_without_identity_gives_its_inserts_only(database: Database) -> None:
    database.execute("CREATE TABLE log (a int, b text); CREATE TABLE t (id int PRIMARY KEY)")
    with streamed(database, "public.t") as taps:
        database.execute("CREATE PUBLICATION tap_inserts FOR TABLE log WITH (publish = 'insert')")
        for tap in taps:
            tap.capture("public.log")
        database.execute("INSERT INTO log VALUES (1, 'a'); UPDATE log SET b = 'c'; DELETE FROM log; TRUNCATE log, t")
        database.execute("ALTER TABLE log REPLICA IDENTITY NOTHING; INSERT INTO log VALUES (2, NULL); INSERT INTO t VALUES (1)")
        found = agreed(taps)
    assert order(found) == [("c", "public.log", 0), ("t", "public.t", 1), ("c", "public.log", 0), ("c", "public.t", 1)]


def test_truncate_of_several_tables_counts_once_per_table(database: Database) -> None:
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a)")
    database.execute("CREATE TABLE other (id int PRIMARY KEY REFERENCES a); CREATE TABLE c (id int PRIMARY KEY)")
    with streamed(database, "public.a", "public.b", "public.c") as taps:
        database.execute("BEGIN; INSERT INTO a VALUES (1); TRUNCATE c, a CASCADE; INSERT INTO c VALUES (1); COMMIT")
        found = agreed(taps)
    assert sorted(order(found)[1:4], key=lambda item: item[2]) == order(found)[1:4]
    assert {table for op, table, _ in order(found) if op == "t"} == {"public.a", "public.b", "public.c"}
    assert [change.index for change in found if change.op == "t"] == [0, 1, 2]
    assert order(found)[0] == ("c", "public.a", 0)
    assert order(found)[4] == ("c", "public.c", 4)


def test_what_was_rolled_back_does_not_exist(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with streamed(database, "public.t") as taps:
        database.execute("BEGIN; INSERT INTO t VALUES (1); ROLLBACK")
        database.execute("BEGIN; SELECT txid_current(); COMMIT")
        database.execute(
            "BEGIN; INSERT INTO t VALUES (2); SAVEPOINT a; INSERT INTO t VALUES (3); SAVEPOINT b; INSERT INTO t VALUES (4);"
            "ROLLBACK TO b; INSERT INTO t VALUES (5); RELEASE a; SAVEPOINT c; INSERT INTO t VALUES (6); ROLLBACK TO c;"
            "INSERT INTO t VALUES (7); COMMIT"
        )
        found = agreed(taps)
    assert [(change.new, change.position.ordinal) for change in found] == [
        ({"id": number}, place) for place, number in enumerate(["2", "3", "5", "7"])
    ]
    assert len({change.transaction for change in found}) == 1


@pytest.mark.servers("pg15", "pg18")
def test_a_prepared_transaction_comes_when_it_is_committed(server: Server) -> None:
    with launch(server.name, max_prepared_transactions=2) as own, fresh_database(own) as database:
        _prepare_and_commit(database)


def _prepare_and_commit(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with streamed(database, "public.t") as taps:
        database.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one'")
        database.execute("INSERT INTO t VALUES (2)")
        database.execute("COMMIT PREPARED 'one'")
        found = agreed(taps)
    assert [change.new for change in found] == [{"id": "2"}, {"id": "1"}]


def test_only_our_transactional_messages_count(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    messages = [
        ("true", "cdc_tracker", "'héllo 🛒 \"q\" \\ '"),
        ("true", "cdc_tracker.heartbeat", "'no'"),
        ("true", "other", "'no'"),
    ]
    messages += [("true", "cdc_tracke", "'no'"), ("false", "cdc_tracker", "'no'"), ("true", "cdc_tracker", "'\\xff41'::bytea")]
    emitted = "; ".join(f"SELECT pg_logical_emit_message({how}, '{prefix}', {content})" for how, prefix, content in messages)
    with streamed(database, "public.t") as taps:
        database.execute(f"BEGIN; INSERT INTO t VALUES (1); {emitted}; INSERT INTO t VALUES (2); COMMIT")
        database.execute("SELECT pg_logical_emit_message(true, 'cdc_tracker', 'alone')")
        database.execute("SELECT pg_logical_emit_message(true, 'other', 'not ours')")
        found = agreed(taps)
    assert order(found) == [
        ("c", "public.t", 0),
        ("m", 'héllo 🛒 "q" \\ ', 1),
        ("m", Missing.UNREADABLE, 2),  # what is not UTF-8 does not stop the stream
        ("c", "public.t", 3),
        ("m", "alone", 0),
    ]
    assert {change.prefix for change in found if change.op == "m"} == {"cdc_tracker"}


def test_names_need_no_mercy(database: Database) -> None:
    database.execute(
        'CREATE SCHEMA "Gr""öße"; CREATE TABLE "Gr""öße"."Bestell.ung 🛒" ("I d" int PRIMARY KEY, "a\\b""c" text, "SELECT" int)'
    )
    name = 'Gr"öße.Bestell.ung 🛒'  # in a schema's name, a dot could not be told from the one between
    with streamed(database, name) as taps:
        database.execute('INSERT INTO "Gr""öße"."Bestell.ung 🛒" VALUES (1, \'x\', NULL)')
        database.execute('UPDATE "Gr""öße"."Bestell.ung 🛒" SET "I d" = 2')
        found = agreed(taps)
    assert [change.table for change in found] == [name, name]
    assert found[0].new == {"I d": "1", 'a\\b"c': "x", "SELECT": None}
    assert found[1].old == {"I d": "1", 'a\\b"c': UNLOGGED, "SELECT": UNLOGGED}


@pytest.mark.servers("pg15", "pg18")
def test_generated_columns_come_where_the_plugin_can_send_them(database: Database) -> None:
    """wal2json always does, pgoutput from 18 on."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED, v text)")
    major = database.server.major
    with tapped(database, plugins(database.server), ["public.t"], generated=major >= 18) as taps:
        database.execute("INSERT INTO t VALUES (1, DEFAULT, 'a')")
        database.execute("UPDATE t SET id = 2")
        found = {tap.plugin: [change.new for change in tap.read()] for tap in taps}
    with_it = [{"id": "1", "g": "2", "v": "a"}, {"id": "2", "g": "4", "v": "a"}]
    assert found["pgoutput"] == (with_it if major >= 18 else [{"id": "1", "v": "a"}, {"id": "2", "v": "a"}])
    assert found.get("wal2json", with_it) == with_it


def test_rows_of_one_copy_share_an_lsn_and_are_told_apart_by_index(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with streamed(database, "public.t") as taps:
        with database.connect() as connection, connection.cursor().copy("COPY t FROM STDIN") as copy:
            for number in range(1000):
                copy.write_row((number, f"row {number}"))
        database.execute("INSERT INTO t SELECT n, 'x' FROM generate_series(2001, 2100) n")
        found = agreed(taps)
    copied = found[:1000]
    assert [change.position.ordinal for change in copied] == list(range(1000))
    assert len({change.lsn for change in copied}) < 20
    assert len({(change.lsn, change.index) for change in found}) == 1100
    assert [change.new["id"] for change in found if change.new][-1] == "2100"
