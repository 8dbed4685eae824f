from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cdc_tracker.cli.targets import EARLIEST, Target, parse_since, parse_target

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
