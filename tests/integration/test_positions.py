"""A change's position, lsn and index are the same however it is read again: by either plugin, cut anywhere, in any segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import pytest

from cdc_tracker.journal import decode as unpack
from cdc_tracker.journal import encode as pack
from cdc_tracker.model import Change, Position, Segment
from cdc_tracker.sources.postgres import segments
from tests.integration.stream import MODULES, Seen, Tap, agreed, arriving, decode, decoder, flushed, gather, read, seen, tapped
from tests.postgres import Database, plugins

SCHEMA = """
CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100); CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (100) TO (200);
ALTER TABLE b REPLICA IDENTITY FULL; CREATE TABLE unpublished (id int)
"""
MIXED = """
BEGIN; INSERT INTO a VALUES (1, 'x'), (2, 'y'); INSERT INTO unpublished VALUES (1); INSERT INTO b VALUES (1, 'b');
SELECT pg_logical_emit_message(true, 'cdc_tracker', 'one'); SELECT pg_logical_emit_message(true, 'other', 'no');
UPDATE a SET v = 'z'; UPDATE b SET id = 2 WHERE id = 1; INSERT INTO p VALUES (1, 'p'), (150, 'q');
UPDATE p SET id = 160 WHERE id = 1;
ALTER TABLE a ADD w int; UPDATE a SET w = 5; DELETE FROM a WHERE id = 1; TRUNCATE a, b, p;
INSERT INTO a VALUES (3, 'end', 1); COMMIT
"""
TABLES = ("public.a", "public.b", "public.p")


@contextmanager
def streamed(database: Database) -> Iterator[Sequence[Tap]]:
    database.execute(SCHEMA)
    with tapped(database, plugins(database.server), TABLES) as taps:
        yield taps


def copied(database: Database, first: int, count: int) -> None:
    """A transaction of one COPY with a row before and after it."""
    with database.connect() as connection, connection.transaction():
        connection.execute(f"INSERT INTO a (id, v) VALUES ({first - 1}, 'before')".encode())
        with connection.cursor().copy("COPY a (id, v) FROM STDIN") as copy:
            for number in range(first, first + count):
                copy.write_row((number, "copied"))
        connection.execute(f"INSERT INTO b VALUES ({first}, 'after'), ({first + 1}, 'after')".encode())


def bare(changes: Sequence[Change]) -> list[Seen]:
    return [seen(change) for change in changes]


def is_tail(tail: Sequence[Seen], whole: Sequence[Seen], after: Position) -> bool:
    return list(tail) == [change for change in whole if change.position > after]


@pytest.mark.invariant(4)
@pytest.mark.servers("pg15", "pg18")
def test_a_builder_started_after_any_position_gives_exactly_the_tail(database: Database) -> None:
    """A worker that was killed reads from the slot again what it had read in part: at every row of a COPY."""
    with streamed(database) as taps:
        database.execute("INSERT INTO a VALUES (1, 'older')")
        copied(database, 100, 60)
        database.execute(MIXED.replace("(1, 'x')", "(11, 'x')"))
        database.execute("INSERT INTO a VALUES (5000, 'newer', NULL)")
        whole = agreed(taps)
        assert len({change.lsn for change in whole}) < len(whole) - 40  # the rows of the COPY share theirs
        for tap in taps:
            frames = tap.frames()
            made = gather(frames, tap.builder())
            ends = [segment.last for segment in made]
            for after in [change.position for change in whole] + ends:
                builder = tap.builder(after, like=made)
                tail = gather(frames, builder)
                assert is_tail(bare(decode(tail, after)), whole, after)  # a truncate's frame may hold more
                assert builder.seen == max(ends)


@pytest.mark.servers("pg15", "pg18")
def test_any_segment_can_be_read_from_any_position(database: Database) -> None:
    with streamed(database) as taps:
        copied(database, 100, 60)
        database.execute(MIXED)
        whole = agreed(taps)
        for tap in taps:
            found = tap.segments()
            reader = decoder(tap.plugin)
            for after in [change.position for change in whole]:
                assert is_tail(bare([c for segment in found for c in reader.changes(segment, after)]), whole, after)


@pytest.mark.invariant(4)
@pytest.mark.servers("pg15", "pg18")
@pytest.mark.parametrize("size", [1, 2, 7])
def test_segments_cut_anywhere_are_self_contained(database: Database, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    with streamed(database) as taps:
        copied(database, 100, 20)
        database.execute(MIXED)
        database.execute(MIXED.replace("ALTER TABLE a ADD w int", "ALTER TABLE a DROP w, ADD w bigint"))
        whole = agreed(taps)
        monkeypatch.setattr(segments, "MAX_FRAMES", size)
        for tap in taps:
            frames = tap.frames()
            found = gather(frames, tap.builder())
            assert len(found) > len(whole) / (size + 2)
            assert read(found) == whole
            assert read([unpack(pack(segment)) for segment in found]) == whole
            assert all(one.last < other.first for one, other in pairwise(found))
            assert sum(segment.changes for segment in found) == len(whole)
            for segment in found:
                assert bare(list(decoder(tap.plugin).changes(segment, segment.first)))[:1] != read([segment])[:1]
            for segment in found[::3]:
                assert is_tail(read(gather(frames, tap.builder(segment.last, like=found))), whole, segment.last)


def test_an_excerpt_is_the_one_change_and_nothing_else(database: Database) -> None:
    with streamed(database) as taps:
        database.execute(MIXED)
        whole = agreed(taps)
        for tap in taps:
            for segment in tap.segments():
                kept = MODULES[tap.plugin].excerpt(segment, {change.position for change in whole})
                assert list(kept) == [change.position for change in whole]
                for change in whole:
                    single: Segment = kept[change.position]
                    for form in (single, unpack(pack(single))):
                        assert [one for one in read([form]) if one.position == change.position] == [change]


def test_both_plugins_describe_the_same_relations(database: Database) -> None:
    """Columns, types, key and identity, where the catalog is of the moment of the row."""
    with streamed(database) as taps:
        database.execute("INSERT INTO a VALUES (1, 'x'); UPDATE a SET v = 'y'; INSERT INTO b VALUES (1, 'x'); DELETE FROM b")
        database.execute("INSERT INTO p VALUES (1, 'x'); UPDATE p SET id = 150; TRUNCATE p; TRUNCATE a")
        first, *others = [[change.relation for change in decode(tap.segments())] for tap in taps]
        assert all(other == first for other in others)
        assert {(relation.table, relation.identity) for relation in first if relation} == {
            ("public.a", "d"),
            ("public.b", "f"),
            ("public.p", "d"),
        }


@pytest.mark.invariant(4)
def test_reading_the_slot_twice_gives_the_same(database: Database) -> None:
    with streamed(database) as taps:
        copied(database, 100, 30)
        database.execute(MIXED)
        assert agreed(taps) == agreed(taps)
        middle = agreed(taps)[10].position
        assert agreed(taps, since=middle.commit_lsn) == agreed(taps)  # the server sends again what commits at that lsn


def test_between_transactions_the_server_s_end_is_where_we_are(database: Database) -> None:
    with streamed(database) as taps:
        database.execute("INSERT INTO a VALUES (1, 'x'); INSERT INTO unpublished VALUES (1)")
        for tap in taps:
            builder = tap.builder()
            gather(tap.frames(), builder)
            end = flushed(database)
            builder.idle_until(end)
            assert builder.seen == Position(end, -1)
            assert read(gather(tap.frames(), tap.builder(builder.seen))) == []


@pytest.mark.servers("pg15")
def test_a_transaction_of_300_000_rows_is_never_held_whole(database: Database) -> None:
    with streamed(database) as taps:
        database.execute("INSERT INTO a SELECT n, repeat('v', 50) FROM generate_series(1, 300000) n")
        (one, first, last), (other, begins, ends) = [_stream_within_bounds(tap) for tap in taps]
    assert (one, other) == (300_000, 300_000)
    assert first == begins
    assert min(last, ends) > first  # one may have seen more: of the transactions of autovacuum, wal2json shows borders


def _stream_within_bounds(tap: Tap) -> tuple[int, Position, Position]:
    """Changes, position of the first, and up to where it was read, as capture reads: at most a segment is held."""
    builder, changes, ordinal = tap.builder(), 0, 0
    first = last = Position(0, -1)
    with tap.session() as session:
        for frame in arriving(session, tap.created, flushed(tap.database)):
            builder.add(memoryview(frame))
            assert builder.size <= segments.MAX_BYTES + len(frame)
            assert builder.count <= segments.MAX_FRAMES + 1
            if not builder.full:
                continue
            segment = builder.close()
            assert segment
            assert segment.first.ordinal == ordinal
            first = first if changes else segment.first
            changes, ordinal, last = changes + segment.changes, ordinal + segment.changes, segment.last
    rest = builder.close()
    if rest:
        changes, last = changes + rest.changes, rest.last
    return changes, first, last
