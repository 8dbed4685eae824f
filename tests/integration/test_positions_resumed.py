"""A transaction that the journal has in part goes on where it left off, whatever has become of tables and settings meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest

from cdc_tracker.model import START, Segment
from cdc_tracker.sources.postgres import segments
from tests.integration.stream import Seen, Tap, gather, read, tapped
from tests.postgres import Database, plugins

SCHEMA = """
CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE c (id int PRIMARY KEY);
CREATE TABLE b (id int PRIMARY KEY, v text, w int)
"""
BETWEEN: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "a table is no longer mapped": ("ALTER PUBLICATION tap DROP TABLE b", ("a", "b"), ("a",)),
    "a table is mapped, too": ("ALTER PUBLICATION tap ADD TABLE b, c", ("a",), ("a", "b", "c")),
    "one table is mapped instead of another": ("ALTER PUBLICATION tap SET TABLE a, c", ("a", "b"), ("a", "c")),
    "a replica identity is made FULL": ("ALTER TABLE b REPLICA IDENTITY FULL", ("a", "b"), ("a", "b")),
    "a replica identity is made NOTHING": ("ALTER TABLE b REPLICA IDENTITY NOTHING", ("a", "b"), ("a", "b")),
    "a table is renamed": ("ALTER TABLE b RENAME TO d", ("a", "b"), ("a", "b")),
    "a table is dropped": ("DROP TABLE b", ("a", "b"), ("a", "b")),
    "a column is dropped": ("ALTER TABLE b DROP w", ("a", "b"), ("a", "b")),
}


def written(database: Database) -> None:
    """One transaction over three tables in turn: single rows, COPYs whose rows share an LSN, messages, a truncate of all."""
    with database.connect() as connection, connection.transaction():
        for turn in range(3):
            for table in ("b", "a", "c"):
                connection.execute(f"INSERT INTO {table} (id) VALUES ({turn})".encode())
                with connection.cursor().copy(f"COPY {table} (id) FROM STDIN".encode()) as copy:
                    for number in range(4):
                        copy.write_row((100 + 10 * turn + number,))
            connection.execute("UPDATE b SET v = v || 'x', w = id WHERE id > 100")
            connection.execute("SELECT pg_logical_emit_message(true, 'cdc_tracker', 'between')")
            connection.execute("DELETE FROM a WHERE id = 100")
        connection.execute("SELECT pg_logical_emit_message(true, 'cdc_tracker', 'it has the LSN of what comes next')")
        connection.execute("TRUNCATE b, a, c")
        connection.execute("INSERT INTO b (id) VALUES (1); INSERT INTO a (id) VALUES (1)")


def name(change: Seen) -> tuple[object, ...]:
    """What makes its event's id. A truncate's index counts the captured tables of its statement: its LSN and table name it."""
    return change.op, change.table, change.lsn, -1 if change.op == "t" else change.index


def of(table: str | None, changes: Iterable[Seen]) -> list[tuple[object, ...]]:
    return [name(change) for change in changes if change.table == table]


def past(changes: Sequence[Seen], last: Seen) -> list[Seen]:
    """Those that come after a change, by what the WAL says. The truncates of one statement are one."""

    def place(each: Seen) -> tuple[int, int]:
        return each.lsn, min(
            other.index for other in changes if other.lsn == each.lsn and other.op == "t"
        ) if each.op == "t" else each.index

    return [each for each in changes if place(each) > (last.lsn, last.index)]


@pytest.mark.invariant(4)
@pytest.mark.servers("pg15", "pg18")
@pytest.mark.parametrize("case", BETWEEN)
def test_nothing_is_lost_or_doubled_where_a_transaction_is_read_in_two_parts(
    database: Database, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    statement, before, after = BETWEEN[case]
    database.execute(SCHEMA)
    with tapped(database, plugins(database.server), [f"public.{table}" for table in before]) as taps:
        written(database)
        first = {tap.plugin: tap.frames() for tap in taps}
        monkeypatch.setattr(segments, "MAX_FRAMES", 1)  # so that it is cut at every change
        journals = {tap.plugin: gather(first[tap.plugin], tap.builder()) for tap in taps}
        database.execute(statement)
        for tap in taps:
            tap.tables = frozenset(f"public.{table}" for table in after)
            _agrees_at_every_cut(tap, journals[tap.plugin])
        if len(taps) > 1:  # and the slot may be another plugin's
            _agrees_at_every_cut(taps[1], journals[taps[0].plugin])
            _agrees_at_every_cut(taps[0], journals[taps[1].plugin])


def _agrees_at_every_cut(tap: Tap, journal: list[Segment]) -> None:
    again = tap.frames()
    with tap.session() as session:
        earlier, later = read(journal), read(gather(again, session.builder(START)))
        for table in ("public.a", None):  # captured before and after, and the messages
            assert of(table, earlier) == of(table, later) != []
        for cut in range(1, len(journal)):
            kept = journal[:cut]
            head = read(kept)
            tail = read(gather(again, session.builder(kept[-1].last, kept[-1])))
            for table in ("public.a", "public.b", "public.c", None):
                assert of(table, tail) == of(table, past(later, head[-1])), (cut, table)
            assert of("public.a", [*head, *tail]) == of("public.a", earlier)
            assert [one.position for one, other in pairwise([*head, *tail]) if one.position >= other.position] == []
            assert len({(each.lsn, each.index) for each in [*head, *tail]}) == len(head) + len(tail)
