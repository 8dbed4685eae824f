"""What every SQL journal does, whatever database holds it. A subclass gives the fixture `url`."""

from __future__ import annotations

import dataclasses
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from cdc_tracker.errors import ConfigError, Fenced, Stop
from cdc_tracker.journal import Journal
from cdc_tracker.journal.sql.store import KIND
from cdc_tracker.journal.sql.tables import metadata
from cdc_tracker.model import START, Position
from cdc_tracker.storage.database import Database
from tests.unit.journal.samples import SECOND, in_the_middle, segment
from tests.unit.state.stores import differences, program

YEAR = 365 * 86400.0
NO_LIMIT = 10**15
EVERYTHING = Position(10**15, -1)
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]  # the suite runs once for each kind of database

APPENDER = """
import sys
from cdc_tracker.journal import Journal
from tests.unit.journal.samples import segment
url, start, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Journal.open(url, "main") as journal:
    for number in range(start, stop):
        journal.append([segment(number, frames=b"%d " % number * 20000)])
        print(number, flush=True)
"""
OPENER = """
import sys
from cdc_tracker.journal import Journal
print("ready", flush=True)
sys.stdin.readline()
Journal.open(sys.argv[1], "main").close()
print("alembic" in sys.modules)
"""


class JournalSuite:
    @pytest.fixture
    def journal(self, url: str) -> Iterator[Journal]:
        with Journal.open(url, "main") as opened:
            yield opened

    def test_what_was_appended_is_read_in_order_and_unchanged(self, journal: Journal) -> None:
        first, second, third, fourth = segment(1), in_the_middle(2, 0), in_the_middle(2, 10), segment(3)
        journal.append([first, second])
        journal.append([third])
        journal.append([fourth])
        assert journal.read(START, 10) == [first, second, third, fourth]
        assert journal.end() == fourth.last
        assert journal.newest() == fourth

    def test_a_second_journal_object_reads_what_the_first_appended(self, journal: Journal, url: str) -> None:
        with Journal.open(url, "main") as reader:
            assert reader.read(START, 5) == []
            journal.append([segment(1)])
            assert reader.read(START, 5) == [segment(1)]

    def test_reading_begins_after_the_position_and_ends_at_the_limit(self, journal: Journal) -> None:
        journal.append([segment(number) for number in range(1, 6)])
        assert journal.read(segment(2).last, 2) == [segment(3), segment(4)]
        assert journal.read(segment(5).last, 10) == []

    def test_a_segment_is_read_while_any_of_its_changes_lies_after_the_position(self, journal: Journal) -> None:
        journal.append([in_the_middle(2, 0), in_the_middle(2, 10)])
        assert journal.read(Position(2000, 8), 10) == [in_the_middle(2, 0), in_the_middle(2, 10)]
        assert journal.read(Position(2000, 9), 10) == [in_the_middle(2, 10)]

    def test_a_new_journal_has_no_end_no_horizon_and_nothing_to_read(self, journal: Journal) -> None:
        assert journal.end() is None
        assert journal.horizon() is None
        assert journal.read(START, 10) == []
        assert journal.locate(0) == START
        assert journal.trim(age_s=0, size=0, keep_after=EVERYTHING).deleted == 0

    def test_sources_in_one_store_do_not_see_each_other(self, journal: Journal, url: str) -> None:
        with Journal.open(url, "other") as other:
            journal.append([segment(5)])
            other.append([segment(1), segment(2)])
            assert other.read(START, 10) == [segment(1), segment(2)]
            assert journal.read(START, 10) == [segment(5)]
            assert other.trim(age_s=0, size=0, keep_after=EVERYTHING).deleted == 1
            held = journal.horizon()
            assert held is not None
            assert held.segments == 1

    def test_appending_the_same_segments_again_adds_nothing(self, journal: Journal) -> None:
        journal.append([segment(1), segment(2)])
        journal.append([segment(1), segment(2), segment(3)])
        assert journal.read(START, 10) == [segment(1), segment(2), segment(3)]

    def test_a_segment_without_changes_at_the_end_is_passed_over(self, journal: Journal) -> None:
        journal.append([segment(1)])
        journal.append([segment(1, changes=0)])
        assert journal.read(START, 10) == [segment(1)]

    def test_a_segment_from_before_the_end_stops_and_nothing_of_the_append_is_kept(self, journal: Journal) -> None:
        journal.append([segment(5)])
        with pytest.raises(Stop, match="already ends at"):
            journal.append([segment(6), segment(2)])
        assert journal.read(START, 10) == [segment(5)]
        journal.append([segment(6)])
        assert journal.end() == segment(6).last

    def test_only_who_knows_where_the_journal_ends_appends(self, journal: Journal, url: str) -> None:
        journal.append([segment(1)], after=None)
        journal.append([segment(2)], after=segment(1).last)
        journal.append([segment(2)], after=segment(1).last)  # the answer was lost, and it had arrived
        with Journal.open(url, "main") as second:
            second.append([segment(3)], after=segment(2).last)
        for after in (None, segment(1).last, segment(2).last, segment(9).last):
            with pytest.raises(Fenced, match="another process appends to it, or its database was restored"):
                journal.append([segment(4)], after=after)
        assert journal.end() == segment(3).last

    def test_a_segment_from_before_the_end_that_another_has_stored_is_no_reason_to_stop_for_good(self, journal: Journal) -> None:
        journal.append([segment(1), segment(2)])
        with pytest.raises(Fenced):
            journal.append([segment(1, changes=7)], after=None)

    def test_the_horizon_tells_extent_count_and_bytes(self, journal: Journal) -> None:
        journal.append([segment(number, frames=b"x" * number) for number in range(3, 9)])
        horizon = journal.horizon()
        assert horizon is not None
        assert (horizon.first, horizon.last, horizon.segments) == (Position(3000, 0), Position(8500, -1), 6)
        assert (horizon.first_time, horizon.last_time) == (3 * SECOND, 8 * SECOND)
        assert horizon.start == Position(3000, -1)
        assert journal.read(horizon.start, 1) == [segment(3, frames=b"xxx")]
        assert horizon.bytes == self._stored_bytes(journal)

    def test_a_time_is_located_before_the_first_segment_that_reaches_it(self, journal: Journal) -> None:
        journal.append([segment(2), segment(4), in_the_middle(6, 0), in_the_middle(6, 10)])
        assert journal.locate(0) == Position(2000, -1)
        assert journal.locate(4 * SECOND) == Position(4000, -1)
        assert journal.locate(4 * SECOND + 1) == Position(6000, -1)
        assert journal.locate(7 * SECOND) == Position(6000, 19)
        assert journal.read(journal.locate(4 * SECOND), 1) == [segment(4)]

    def test_a_transaction_with_an_earlier_clock_does_not_hide_a_later_one_before_it(self, journal: Journal) -> None:
        journal.append([segment(1, at=1 * SECOND), segment(2, at=9 * SECOND), segment(3, at=5 * SECOND)])
        assert journal.locate(6 * SECOND) == Position(2000, -1)

    def test_the_last_segment_with_a_commit_before_a_time_is_located(self, journal: Journal) -> None:
        journal.append([segment(2), segment(4), in_the_middle(6, 0), in_the_middle(6, 10)])
        assert journal.locate_end(2 * SECOND) == START
        assert journal.locate_end(2 * SECOND + 1) == Position(2000, -1)
        assert journal.locate_end(6 * SECOND) == Position(4000, -1)
        assert journal.locate_end(7 * SECOND) == Position(6000, 9)

    def test_a_clock_that_was_set_back_hides_no_segment_before_a_time(self, journal: Journal) -> None:
        journal.append([segment(number, at=at * SECOND) for number, at in enumerate([10, 11, 90, 12, 13, 91, 14, 15], 1)])
        assert [journal.locate_end(at * SECOND).commit_lsn for at in (12, 13, 14, 90, 91, 92)] == [
            2000,
            4000,
            5000,
            8000,
            8000,
            8000,
        ]
        assert [journal.locate(at * SECOND).commit_lsn for at in (11, 12, 90, 91)] == [2000, 3000, 3000, 6000]
        journal.trim(age_s=0, size=NO_LIMIT, keep_after=Position(3500, -1))
        assert [journal.locate_end(at * SECOND).commit_lsn for at in (12, 13, 92)] == [0, 4000, 8000]
        assert [journal.locate(at * SECOND).commit_lsn for at in (11, 13, 14, 90)] == [4000, 5000, 6000, 6000]

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=30), st.integers(0, 29))
    @settings(max_examples=60, deadline=None, suppress_health_check=SHARED)
    def test_times_are_located_as_a_scan_would(self, journal: Journal, spans: list[tuple[int, int]], trimmed: int) -> None:
        journal.clear()
        made = [
            dataclasses.replace(segment(number), first_time=first, last_time=first + length)
            for number, (first, length) in enumerate(spans, 1)
        ]
        for start in range(0, len(made), 4):
            journal.append(made[start : start + 4])
        journal.trim(age_s=0, size=NO_LIMIT, keep_after=Position(trimmed * 1000 + 500, -1))
        there = journal.read(START, 100)
        for at in range(45):
            first = next((each.first.commit_lsn for each in there if each.last_time >= at), there[-1].last.commit_lsn)
            last = next((each.first.commit_lsn for each in reversed(there) if each.first_time < at), 0)
            assert (journal.locate(at).commit_lsn, journal.locate_end(at).commit_lsn) == (first, last)

    def test_a_journal_of_the_first_version_gets_the_times_of_its_segments(self, journal: Journal, url: str) -> None:
        times = [10, 11, 90, 12, 13, 91, 14]
        journal.append([segment(number, at=at * SECOND) for number, at in enumerate(times, 1)])
        with Journal.open(url, "other") as other:
            other.append([segment(number, at=at * SECOND) for number, at in enumerate([50, 40], 1)])
        before = self._stored_times(journal)
        with journal._database.writing() as connection:
            connection.execute(text("DROP TABLE cdc_tracker_segment_time"))
            connection.execute(text("UPDATE cdc_tracker_journal_version SET version_num = '0001'"))
        journal.close()
        with Journal.open(url, "main") as opened:
            assert self._stored_times(opened) == before
            assert len(before) == 9
            opened.append([segment(8, at=15 * SECOND)])
            assert opened.locate_end(15 * SECOND) == Position(7000, -1)

    def test_trimming_by_age_leaves_what_is_young_enough(self, journal: Journal) -> None:
        now = time.time_ns() // 1000
        journal.append([segment(number, at=now - (10 - number) * 3600 * SECOND) for number in range(1, 10)])
        trimmed = journal.trim(age_s=5.5 * 3600, size=NO_LIMIT, keep_after=EVERYTHING)
        assert (trimmed.deleted, trimmed.blocked) == (4, False)
        assert [found.first.commit_lsn for found in journal.read(START, 20)] == [5000, 6000, 7000, 8000, 9000]

    def test_trimming_by_size_deletes_the_oldest_until_the_rest_fits(self, journal: Journal) -> None:
        journal.append([segment(number) for number in range(1, 11)])
        before = journal.horizon()
        assert before is not None
        trimmed = journal.trim(age_s=100 * YEAR, size=before.bytes // 2, keep_after=EVERYTHING)
        after = journal.horizon()
        assert after is not None
        assert after.bytes <= before.bytes // 2 < after.bytes + before.bytes // 10 + 5
        assert (trimmed.deleted, trimmed.bytes) == (before.segments - after.segments, before.bytes - after.bytes)
        assert after.bytes == self._stored_bytes(journal)
        assert not trimmed.blocked

    def test_nothing_after_the_lowest_checkpoint_is_trimmed_and_a_full_journal_says_so(self, journal: Journal) -> None:
        journal.append([segment(number) for number in range(1, 11)])
        inside = Position(4000, 3)
        trimmed = journal.trim(age_s=0, size=0, keep_after=inside)
        assert (trimmed.deleted, trimmed.blocked) == (3, True)
        assert journal.read(inside, 1) == [segment(4)]
        again = journal.trim(age_s=0, size=NO_LIMIT, keep_after=inside)
        assert (again.deleted, again.blocked) == (0, False)

    def test_the_newest_segment_stays_so_that_the_journal_knows_its_end(self, journal: Journal) -> None:
        journal.append([segment(1), segment(2)])
        assert journal.trim(age_s=0, size=0, keep_after=EVERYTHING).deleted == 1
        assert journal.end() == segment(2).last
        trimmed = journal.trim(age_s=0, size=0, keep_after=EVERYTHING)
        assert (trimmed.deleted, trimmed.blocked) == (0, False)
        journal.append([segment(3)])
        assert journal.read(START, 5) == [segment(2), segment(3)]

    def test_more_than_one_transaction_s_worth_is_trimmed_in_one_call(self, journal: Journal) -> None:
        journal.append([segment(number) for number in range(1, 651)])
        assert journal.trim(age_s=0, size=NO_LIMIT, keep_after=segment(640).last).deleted == 640
        horizon = journal.horizon()
        assert horizon is not None
        assert (horizon.segments, horizon.first) == (10, Position(641_000, 0))

    def test_a_waiter_wakes_at_once_for_what_was_appended_since_its_last_wait(self, journal: Journal) -> None:
        with journal.waiter("one") as one, journal.waiter("two") as two:
            assert not one.wait(0)
            journal.append([segment(1)])
            journal.append([segment(2)])
            for waiter in (one, two):
                assert waiter.wait(5)
                # PostgreSQL may hand over the second notification a moment after the first.
                assert [waiter.wait(0.3) for _ in range(2)][-1] is False
            journal.append([segment(3)])
            assert one.wait(5)

    def test_waking_by_name_leaves_the_others_asleep(self, journal: Journal, url: str) -> None:
        with journal.waiter("one") as one, journal.waiter("two@x") as two, Journal.open(url, "other") as other:
            journal.wake("one")
            assert one.wait(5)
            assert not two.wait(0.05)
            journal.wake("two@x")
            assert two.wait(5)
            assert not one.wait(0.05)
            journal.wake()
            assert one.wait(5)
            assert two.wait(5)
            other.append([segment(1)])
            other.wake()
            assert not one.wait(0.05)

    def test_a_waiter_can_be_selected_on_beside_other_files(self, journal: Journal) -> None:
        with journal.waiter("one") as waiter:
            assert select.select([waiter], [], [], 0)[0] == []
            journal.append([segment(1)])
            assert select.select([waiter], [], [], 5)[0] == [waiter]
            assert waiter.wait(0)
            assert select.select([waiter], [], [], 0)[0] == []

    def test_a_reader_that_waits_and_reads_misses_nothing_of_another_process(self, journal: Journal, url: str) -> None:
        with journal.waiter("reader") as waiter, program(APPENDER, url, "1", "151") as appender:
            position, seen, waits = START, 0, 0
            while seen < 150:
                assert waiter.wait(20), f"nothing came after {seen} segments: {appender.poll()}"
                waits += 1
                while found := journal.read(position, 7):
                    seen += len(found)
                    position = found[-1].last
            assert position == segment(150).last
            assert 0 < waits <= 150

    def test_a_killed_writer_loses_nothing_it_was_told_is_durable_and_leaves_no_half_segment(
        self, journal: Journal, url: str
    ) -> None:
        start = 1
        for appends in (3, 17, 41):
            with program(APPENDER, url, str(start), "100000") as appender:
                assert appender.stdout is not None
                for _ in range(appends):
                    assert appender.stdout.readline(), appender.stderr.read() if appender.stderr else ""
                appender.kill()
                confirmed = [start + appends - 1, *map(int, appender.stdout.read().split())][-1]
            found = journal.read(START, 10_000)
            stored = [held.first.commit_lsn // 1000 for held in found]
            assert stored == list(range(1, len(stored) + 1))
            assert stored[-1] in (confirmed, confirmed + 1)  # one more may have been committed before it could say so
            assert all(held.frames == b"%d " % number * 20000 for number, held in zip(stored, found, strict=True))
            start = stored[-1] + 1

    def test_processes_that_open_a_new_journal_at_once_all_succeed(self, url: str) -> None:
        with program(OPENER, url) as one, program(OPENER, url) as two, program(OPENER, url) as three:
            processes = (one, two, three)
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            for process in processes:
                _, errors = process.communicate(timeout=60)
                assert process.returncode == 0, errors
        with Journal.open(url, "main") as journal:
            journal.append([segment(1)])

    def test_opening_a_journal_that_is_up_to_date_does_not_load_alembic(self, journal: Journal, url: str) -> None:
        with program(OPENER, url) as process:
            output, errors = process.communicate("\n", timeout=60)
            assert output == "ready\nFalse\n", errors

    def test_migrations_make_exactly_the_tables_that_the_code_declares(self, journal: Journal, url: str) -> None:
        assert differences(url, metadata, KIND.version_table) == []

    def test_a_journal_of_a_newer_version_stops(self, journal: Journal, url: str) -> None:
        database = Database(url, KIND)
        with database.writing() as connection:
            connection.execute(text("UPDATE cdc_tracker_journal_version SET version_num = '9999'"))
        database.close()
        with pytest.raises(Stop, match="newer cdc-tracker: its version is 9999") as raised:
            Journal.open(url, "main")
        assert not isinstance(raised.value, ConfigError)

    def test_a_damaged_segment_stops_and_is_named(self, journal: Journal, url: str) -> None:
        journal.append([segment(1), segment(2, frames=bytes(range(256)) * 100)])
        database = Database(url, KIND)
        with database.writing() as connection:
            blob = bytearray(connection.execute(text("SELECT segment FROM cdc_tracker_segment WHERE id = 2")).scalar_one())
            blob[len(blob) // 2] ^= 0x10
            connection.execute(text("UPDATE cdc_tracker_segment SET segment = :blob WHERE id = 2"), {"blob": bytes(blob)})
        database.close()
        assert journal.read(START, 1) == [segment(1)]
        with pytest.raises(Stop, match=r"Segment 2 of main in .* is damaged"):
            journal.read(START, 2)

    def test_threads_may_read_while_another_appends(self, journal: Journal) -> None:
        problems: list[BaseException] = []

        def read_all() -> None:
            try:
                position = START
                while position < segment(100).last:
                    for found in journal.read(position, 10):
                        assert found.first.commit_lsn == position.commit_lsn // 1000 * 1000 + 1000
                        position = found.last
            except BaseException as error:
                problems.append(error)

        readers = [threading.Thread(target=read_all, daemon=True) for _ in range(3)]
        for reader in readers:
            reader.start()
        for number in range(1, 101):
            journal.append([segment(number)])
        for reader in readers:
            reader.join(30)
        assert problems == []
        assert not any(reader.is_alive() for reader in readers)

    def test_a_closed_journal_opens_again_by_itself_when_it_is_used(self, journal: Journal) -> None:
        journal.append([segment(1)])
        journal.close()
        journal.append([segment(2)])
        assert journal.read(START, 5) == [segment(1), segment(2)]

    @staticmethod
    def _stored_times(journal: Journal) -> list[tuple[object, ...]]:
        with journal._database.reading() as connection:
            query = "SELECT source, number, first_time, last_time, reached, setback FROM cdc_tracker_segment_time ORDER BY 1, 2"
            return [tuple(row) for row in connection.execute(text(query))]

    @staticmethod
    def _stored_bytes(journal: Journal) -> int:
        with journal._database.reading() as connection:
            total = connection.execute(text("SELECT sum(length(segment)) FROM cdc_tracker_segment")).scalar_one()
        return int(total)


def files_of(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir()) if path.exists() else []
