"""Points in history, as they are written and where in the journal they are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc_tracker.delivery.points import EARLIEST, Target, bare_changes, parse_since, parse_target, range_of
from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal, segments_between
from cdc_tracker.model import START, Position
from tests.unit.pipeline.frames import BASE, START_LSN, Commit, Order, at, lsn_of, segments

NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)


def _us(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("earliest", EARLIEST),
        ("EARLIEST", EARLIEST),
        ("16/B374D848", Target(lsn=0x16_B374D848)),
        ("2h", Target(time_us=_us(NOW - timedelta(hours=2)))),
        ("1.5d", Target(time_us=_us(NOW - timedelta(days=1.5)))),
        ("2026-01-30", Target(time_us=_us(datetime(2026, 1, 30, tzinfo=UTC)))),
        ("2026-01-30T10:00:00Z", Target(time_us=_us(datetime(2026, 1, 30, 10, tzinfo=UTC)))),
        ("2026-01-30T10:00:00+02:00", Target(time_us=_us(datetime(2026, 1, 30, 8, tzinfo=UTC)))),
        ("2026-01-30 10:00", Target(time_us=_us(datetime(2026, 1, 30, 10, tzinfo=UTC)))),
    ],
)
def test_a_point_in_history_is_read_as_people_write_it(text: str, target: Target) -> None:
    assert parse_target(text, NOW) == target


@pytest.mark.parametrize("text", ["", "yesterday", "12", "1700000000", "16/", "16/XYZ", "2 fortnights", "2026-13-01"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="LSN"):
        parse_target(text, NOW)


def test_since_is_told_in_whole_hours() -> None:
    assert parse_since("1h", NOW) == int(NOW.timestamp()) // 3600 - 1
    with pytest.raises(ValueError, match="how long ago"):
        parse_since("16/B374D848", NOW)


# In the journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(f"sqlite:///{tmp_path}/journal.sqlite", "main") as opened:
        yield opened


def _at(number: float) -> Target:
    return Target(time_us=at(number))


def _committed(journal: Journal, after: Position, upto: Position) -> list[int]:
    """The commit times of the transactions between two positions, in seconds."""
    found = {
        change.transaction
        for segment, begin in segments_between(journal, after, upto)
        for change in bare_changes(segment, begin)
        if change.position <= upto
    }
    return [(one.committed_at - BASE) // 1_000_000 for one in sorted(found, key=lambda one: one.commit_lsn)]


@pytest.mark.parametrize("each", [1, 3, 100])
def test_a_range_of_times_holds_exactly_the_transactions_committed_in_it(journal: Journal, each: int) -> None:
    journal.append(segments([Commit(at(second), (Order(1), Order(2))) for second in range(100, 120)], each))
    end = journal.end() or START
    for start in range(100, 120):
        for stop in range(start + 1, 122):
            after, upto = range_of(journal, _at(start), _at(stop), end)
            assert _committed(journal, after, upto) == list(range(start, min(stop, 120)))
            assert start == 100 or range_of(journal, _at(start - 0.5), _at(stop - 0.5), end) == (after, upto)


def test_ranges_that_meet_share_nothing_and_leave_nothing_out(journal: Journal) -> None:
    journal.append(segments([Commit(at(second)) for second in range(100, 120)], 3))
    end = journal.end() or START
    first, second = range_of(journal, EARLIEST, _at(107), end), range_of(journal, _at(107), None, end)
    assert first[1] <= second[0]
    assert [*_committed(journal, *first), *_committed(journal, *second)] == list(range(100, 120))


@given(st.lists(st.integers(100, 130), min_size=1, max_size=40), st.integers(1, 7), st.integers(100, 131), st.integers(1, 30))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_clock_does_no_transaction_of_the_time_is_left_out(
    journal: Journal, times: list[int], each: int, start: int, length: int
) -> None:
    """And none is in it before the first of that time, nor after the last."""
    journal.clear()
    journal.append(segments([Commit(at(second)) for second in times], each))
    stop = start + length
    wanted = [place for place, second in enumerate(times) if second >= start]
    last = max((place for place, second in enumerate(times) if second < stop), default=-1)
    try:
        after, upto = range_of(journal, _at(start), _at(stop), journal.end() or START)
    except Stop:
        assert start < min(times[:each]) or not wanted
        return
    assert _committed(journal, after, upto) == times[wanted[0] : last + 1]


def test_a_transaction_over_several_segments_is_in_a_range_whole_or_not_at_all(journal: Journal) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.unit.pipeline.frames.EVERY_ROWS", 4)
        found = segments([Commit(at(100)), Commit(at(101), [Order(n) for n in range(30)]), Commit(at(102))])
    assert len(found) > 6
    journal.append(found)
    after, upto = range_of(journal, _at(101), _at(102), journal.end() or START)
    assert (after, upto) == (Position(lsn_of(1), -1), Position(lsn_of(1) + 8, -1))
    assert _committed(journal, after, upto) == [101]
    changes = [change for segment, begin in segments_between(journal, after, upto) for change in bare_changes(segment, begin)]
    assert sum(after < change.position <= upto for change in changes) == 30


def test_a_segment_tells_its_earliest_and_latest_commit_in_whatever_order_they_are() -> None:
    [found] = segments([Commit(at(second)) for second in (105, 103, 109, 104)], 4)
    assert (found.first_time, found.last_time) == (at(103), at(109))


def test_an_lsn_is_the_end_of_everything_older_than_it(journal: Journal) -> None:
    journal.append(segments([Commit(at(second)) for second in range(100, 110)], 4))
    end = journal.end() or START
    after, upto = range_of(journal, Target(lsn=lsn_of(3)), Target(lsn=lsn_of(5)), end)
    assert _committed(journal, after, upto) == [103, 104]
    assert _committed(journal, *range_of(journal, Target(lsn=lsn_of(3) + 1), None, Position(lsn_of(6), 0))) == [104, 105, 106]


@pytest.mark.parametrize(
    ("start", "end"), [(_at(99), None), (Target(lsn=START_LSN - 1), None), (_at(90), _at(95)), (Target(lsn=1), Target(lsn=2))]
)
def test_a_range_before_the_journal_is_refused_with_its_horizon_and_what_to_do(
    journal: Journal, start: Target, end: Target | None
) -> None:
    journal.append(segments([Commit(at(second)) for second in range(100, 110)], 4))
    with pytest.raises(Stop, match=r"begins at 0/1000 \(2026-01-01 00:01:40Z\)") as raised:
        range_of(journal, start, end, journal.end() or START)
    assert "`backfill`" in raised.value.hint


@pytest.mark.parametrize("start", [_at(110), Target(lsn=lsn_of(10))])
def test_a_range_past_the_journal_s_end_is_refused_with_the_end(journal: Journal, start: Target) -> None:
    journal.append(segments([Commit(at(second)) for second in range(100, 110)], 4))
    with pytest.raises(Stop, match=r"it reaches to 0/A008 \(2026-01-01 00:01:49Z\)"):
        range_of(journal, start, None, journal.end() or START)


def test_a_range_that_ends_before_it_begins_is_refused(journal: Journal) -> None:
    journal.append(segments([Commit(at(second)) for second in range(100, 110)], 4))
    with pytest.raises(Stop, match="ends before it begins"):
        range_of(journal, _at(105), _at(103), journal.end() or START)


def test_an_empty_journal_has_no_range(journal: Journal) -> None:
    with pytest.raises(Stop, match="journal is empty"):
        range_of(journal, EARLIEST, None, START)


def test_a_quiet_time_within_the_journal_is_an_empty_range(journal: Journal) -> None:
    journal.append(segments([Commit(at(100)), Commit(at(200))]))
    after, upto = range_of(journal, _at(120), _at(150), journal.end() or START)
    assert after == upto


def test_times_are_found_after_the_oldest_segments_are_gone(journal: Journal) -> None:
    times = [100, 500, *range(101, 140)]  # the clock was wrong for a moment
    journal.append(segments([Commit(at(second)) for second in times]))
    journal.trim(age_s=0, size=0, keep_after=Position(lsn_of(9), -1))
    horizon = journal.horizon()
    assert horizon is not None
    first = (horizon.first_time - BASE) // 1_000_000
    assert first > 101
    assert _committed(journal, *range_of(journal, _at(first + 2), _at(130), horizon.last)) == list(range(first + 2, 130))
