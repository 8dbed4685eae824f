"""DDL and partitions in mid-stream.

With wal2json the catalog's word is of the moment of reading, the row of the moment of writing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from cdc_tracker.mapping import load_texts
from cdc_tracker.model import START, UNCHANGED, UNLOGGED, Change, Column, Event, Rejection
from cdc_tracker.pipeline import Pipeline
from tests.integration.stream import Seen, Tap, agreed, arriving, decode, decoder, flushed, gather, seen, tapped
from tests.postgres import Database, plugins

PARTITIONED = """
CREATE TABLE sale (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE sale_1 PARTITION OF sale FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE sale_2 PARTITION OF sale FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY LIST (id);
CREATE TABLE sale_2_a PARTITION OF sale_2 FOR VALUES IN (1, 2, 3);
CREATE TABLE sale_rest PARTITION OF sale DEFAULT
"""


@contextmanager
def streamed(database: Database, *tables: str) -> Iterator[Sequence[Tap]]:
    with tapped(database, plugins(database.server), tables) as taps:
        yield taps


def live(tap: Tap, database: Database, statements: Sequence[str]) -> list[Seen]:
    """Each statement run, streamed and described before the next, as a worker that keeps up does."""
    frames: list[bytes] = []
    builder, segments, since = tap.builder(), [], flushed(database)
    for statement in statements:
        database.execute(statement)
        with tap.session() as session:
            frames = list(arriving(session, since, flushed(database)))
        since = flushed(database)
        if hasattr(builder, "forget"):
            builder.forget()
        segments += gather(frames, builder)
    return [seen(change) for change in decode(segments)]


def news(changes: Sequence[Seen]) -> list[Mapping[str, object] | None]:
    return [change.new for change in changes]


ALTERED = [
    "CREATE TABLE t (id int PRIMARY KEY, a text, b text, c int); INSERT INTO t VALUES (1, 'a', 'b', 1)",
    "ALTER TABLE t ADD d text DEFAULT 'd'; INSERT INTO t VALUES (2, 'a', 'b', 2, 'e')",
    "ALTER TABLE t DROP b; INSERT INTO t VALUES (3, 'a', 3, 'e')",
    "ALTER TABLE t RENAME a TO z; INSERT INTO t VALUES (4, 'z', 4, 'e')",
    "ALTER TABLE t ALTER c TYPE text USING c::text; INSERT INTO t VALUES (5, 'z', 'five', 'e')",
    "ALTER TABLE t ADD b bytea; INSERT INTO t VALUES (6, 'z', 'six', 'e', '\\x00ff')",
    "BEGIN; INSERT INTO t VALUES (7, 'z', '7', 'e', NULL); ALTER TABLE t DROP d; INSERT INTO t VALUES (8, 'z', '8', NULL);"
    "ALTER TABLE t ADD d int; INSERT INTO t VALUES (9, 'z', '9', NULL, 9); COMMIT",
]
EXPECTED: list[dict[str, str | None]] = [
    {"id": "1", "a": "a", "b": "b", "c": "1"},
    {"id": "2", "a": "a", "b": "b", "c": "2", "d": "e"},
    {"id": "3", "a": "a", "c": "3", "d": "e"},
    {"id": "4", "z": "z", "c": "4", "d": "e"},
    {"id": "5", "z": "z", "c": "five", "d": "e"},
    {"id": "6", "z": "z", "c": "six", "d": "e", "b": "\\x00ff"},
    {"id": "7", "z": "z", "c": "7", "d": "e", "b": None},
    {"id": "8", "z": "z", "c": "8", "b": None},
    {"id": "9", "z": "z", "c": "9", "b": None, "d": "9"},
]


@pytest.mark.parametrize("behind", [True, False], ids=["a backlog read after it", "as it happens"])
def test_each_row_has_the_columns_it_was_written_with(database: Database, behind: bool) -> None:
    """Also where wal2json's description is of after all of the DDL: inserts show every column."""
    database.execute(ALTERED[0].split(";")[0])
    changes = [ALTERED[0].split(";")[1], *ALTERED[1:]]
    with streamed(database, "public.t") as taps:
        if behind:
            for statement in changes:
                database.execute(statement)
            found = agreed(taps)
        else:
            found = live(taps[0], database, changes)
            assert all(tap.read() == found for tap in taps)
        types = [[column.type_oid for column in _relation(change)] for tap in taps for change in decode(tap.segments())]
    assert news(found) == EXPECTED
    assert types[:9] == types[-9:]
    assert types[4] == [23, 25, 25, 25]


def _relation(change: Change) -> Sequence[Column]:
    assert change.relation
    return change.relation.columns


def test_a_backlog_of_updates_and_deletes_read_after_ddl_shifts_no_cell(database: Database) -> None:
    """An update may leave out unchanged TOAST: under wal2json a later column is UNCHANGED or absent, never another's."""
    long = "x" * 9000
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, body text, n int)")
    database.execute("ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
    with streamed(database, "public.t") as taps:
        database.execute(f"INSERT INTO t VALUES (1, 'a', '{long}', 1); UPDATE t SET n = 2; UPDATE t SET id = 2")
        database.execute("ALTER TABLE t ADD late text, ADD later int; UPDATE t SET n = 3, late = 'l'; ALTER TABLE t DROP a")
        database.execute("UPDATE t SET n = 4, later = 5; ALTER TABLE t RENAME n TO m; UPDATE t SET m = 6; DELETE FROM t")
        told = [tap.read() for tap in taps]
    truth = told[-1]  # pgoutput's
    assert [change.op for change in truth] == ["c", "u", "u", "u", "u", "u", "d"]
    for changes in told:
        for place, change in enumerate(changes):
            assert change.where == truth[place].where
            for name, cell in (change.new or {}).items():
                known = (truth[place].new or {}).get(name, UNCHANGED)
                assert cell in (known, UNCHANGED), (place, name)
            for name, cell in (change.old or {}).items():
                assert cell in ((truth[place].old or {}).get(name, UNLOGGED), UNLOGGED), (place, name)


def test_a_column_wanted_before_it_existed_is_missing_not_another(database: Database) -> None:
    """The mapping names a column that the catalog has now and the row, written before, has not."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    with streamed(database, "public.t") as taps:
        database.execute("INSERT INTO t VALUES (1, 'a'); UPDATE t SET a = 'b'; DELETE FROM t; ALTER TABLE t ADD late text")
        for tap in taps:
            asked = decoder(tap.plugin, lambda relation: (("late", "a"), ("late", "id")))
            found = [
                change for segment in tap.segments() for change in asked.changes(segment, segment.first._replace(ordinal=-1))
            ]
            assert [change.op for change in found] == ["c", "u", "d"]
            assert [change.new for change in found] == [(None, "a"), (None, "b"), None]
            assert [change.old for change in found] == [None, (UNLOGGED, "1"), (UNLOGGED, "1")]
            assert found[0].relation
            assert [column.name for column in found[0].relation.columns] == ["id", "a"]


RENAMED = """
version: 1
events:
  - {name: Added, table: public.t, user_id: new.id, properties: {v: new.v}}
  - {name: Set, table: public.t, on: update, user_id: new.id, properties: {was: old.v}}
  - {name: Gone, table: public.t, on: delete, user_id: old.id, properties: {had: old.v}}
"""


@pytest.mark.parametrize(
    "written",
    [
        "INSERT INTO t VALUES (1, 'a'); ALTER TABLE t RENAME v TO w; INSERT INTO t VALUES (2, 'b'); ALTER TABLE t RENAME w TO v;"
        "INSERT INTO t VALUES (3, 'c'); UPDATE t SET v = 'd' WHERE id = 3",
        "INSERT INTO t VALUES (1, 'a'), (3, 'c'); UPDATE t SET v = 'd' WHERE id = 3; ALTER TABLE t RENAME v TO w;"
        "INSERT INTO t VALUES (2, 'b')",
    ],
    ids=["renamed and back", "renamed since"],
)
def test_only_rows_written_without_a_mapped_column_are_rejected(database: Database, written: str) -> None:
    """A row is told from one of another shape also by the mapped column that the other shape has not."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY FULL")
    database.execute("INSERT INTO t VALUES (0, 'z')")
    with streamed(database, "public.t") as taps:
        database.execute(f"BEGIN; DELETE FROM t; {written}; COMMIT")
        for tap in taps:
            pipeline = Pipeline(
                load_texts({"m.yml": RENAMED}), outbox=None, namespace=uuid.UUID(int=7), database="d", destination=None
            )
            made = [one for segment in tap.segments() for one in pipeline.results(segment, START)]
            events = [one.decoded() for one in made if isinstance(one, Event)]
            assert [(one["userId"], one["properties"]) for one in events] == [
                ("0", {"had": "z"}),
                ("1", {"v": "a"}),
                ("3", {"v": "c"}),
                ("3", {"was": "c"}),
            ]
            assert [one.reason for one in made if isinstance(one, Rejection)] == ["column_missing"]


def test_a_table_dropped_and_made_again_keeps_both_shapes(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with streamed(database, "public.t") as taps:
        database.execute("INSERT INTO t VALUES (1, 'a'); DROP TABLE t; CREATE TABLE t (v int PRIMARY KEY, w text, id text)")
        database.execute("ALTER PUBLICATION tap ADD TABLE t; INSERT INTO t VALUES (7, 'w', 'x')")
        found = agreed(taps)
    assert news(found) == [{"id": "1", "v": "a"}, {"v": "7", "w": "w", "id": "x"}]


def test_a_table_that_is_gone_still_gives_its_rows(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with streamed(database, "public.t") as taps:
        database.execute("INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 'b'; DROP TABLE t")
        told = [tap.read() for tap in taps]
    for changes in told:
        assert news(changes) == [{"id": "1", "v": "a"}, {"id": "1", "v": "b"}]
        assert [change.position for change in changes] == [change.position for change in told[0]]


def test_changes_of_partitions_come_under_their_root(database: Database) -> None:
    database.execute(PARTITIONED)
    with streamed(database, "public.sale") as taps:
        database.execute("INSERT INTO sale VALUES (1, '2026-01-05', 'a'), (2, '2026-02-05', 'b'), (3, '2030-01-01', 'rest')")
        database.execute("UPDATE sale SET at = '2026-02-06' WHERE id = 1")  # another leaf: a delete and an insert
        database.execute("UPDATE sale SET note = 'n' WHERE id = 2; DELETE FROM sale_rest")
        # its columns stand in another order than the root's
        database.execute("CREATE TABLE sale_3 (note text, id int NOT NULL, at date NOT NULL)")
        database.execute("ALTER TABLE sale ATTACH PARTITION sale_3 FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')")
        database.execute("INSERT INTO sale VALUES (4, '2026-03-05', 'late leaf')")
        database.execute("UPDATE sale SET note = 'twice' WHERE id = 4")
        found = agreed(taps)
    assert {change.table for change in found} == {"public.sale"}
    rows = [(change.op, change.new or change.old or {}) for change in found]
    assert [(op, row["id"], row["at"], row["note"]) for op, row in rows] == [
        ("c", "1", "2026-01-05", "a"),
        ("c", "2", "2026-02-05", "b"),
        ("c", "3", "2030-01-01", "rest"),
        ("d", "1", "2026-01-05", UNLOGGED),
        ("c", "1", "2026-02-06", "a"),
        ("u", "2", "2026-02-05", "n"),
        ("d", "3", "2030-01-01", UNLOGGED),
        ("c", "4", "2026-03-05", "late leaf"),
        ("u", "4", "2026-03-05", "twice"),
    ]


def test_a_partition_truncated_alone_is_no_truncate_of_its_root(database: Database) -> None:
    database.execute(PARTITIONED)
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with streamed(database, "public.sale", "public.t") as taps:
        database.execute("BEGIN; INSERT INTO t VALUES (1); TRUNCATE sale_1; TRUNCATE sale_2, t; INSERT INTO t VALUES (2); COMMIT")
        database.execute("BEGIN; TRUNCATE t, sale; INSERT INTO t VALUES (3); COMMIT")
        found = agreed(taps)
    assert [(change.op, change.table, change.position.ordinal, change.index) for change in found] == [
        ("c", "public.t", 0, 0),
        ("t", "public.t", 1, 0),
        ("c", "public.t", 2, 0),
        ("t", "public.t", 0, 0),
        ("t", "public.sale", 1, 1),
        ("c", "public.t", 2, 0),
    ]


def test_a_leaf_detached_or_dropped_while_the_stream_runs_loses_no_row(database: Database) -> None:
    database.execute(PARTITIONED)
    statements = [
        "INSERT INTO sale VALUES (1, '2026-01-05', 'a'), (2, '2026-02-05', 'b')",
        "INSERT INTO sale VALUES (3, '2026-02-05', 'c'); DROP TABLE sale_2",  # read only after it is gone
        "ALTER TABLE sale DETACH PARTITION sale_1",
        "INSERT INTO sale_1 VALUES (4, '2026-01-06', 'no longer ours'); TRUNCATE sale_1",
        "INSERT INTO sale VALUES (5, '2026-01-07', 'in the default leaf')",
    ]
    with streamed(database, "public.sale") as taps:
        found = live(taps[0], database, statements)
        assert [change.new["id"] for change in found if change.new] == ["1", "2", "3", "5"]
        assert [change.op for change in found] == ["c"] * 4
        for tap in taps[1:]:
            assert tap.read() == found


def test_a_root_that_logs_more_than_its_leaf_does_not_pretend_to_know_the_old_row(database: Database) -> None:
    """REPLICA IDENTITY FULL of a root does not reach its leaves: the new row must not be taken for the old one."""
    database.execute(f"{PARTITIONED}; ALTER TABLE sale REPLICA IDENTITY FULL")
    with streamed(database, "public.sale") as taps:
        database.execute("INSERT INTO sale VALUES (1, '2026-01-05', 'a'); UPDATE sale SET note = 'b'")
        told = [tap.read() for tap in taps]
    for changes in told:
        assert changes[1].new == {"id": "1", "at": "2026-01-05", "note": "b"}
        assert changes[1].old
        assert changes[1].old["note"] is UNLOGGED
