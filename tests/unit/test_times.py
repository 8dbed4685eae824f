"""Conversions of points in time, at the edges of what each form can hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_tracker.times import EPOCH, aware, for_display, from_micros, iso, now_iso, parse_iso, to_micros

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999  # of the years 1 and 9999


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("0001-01-01T00:00:00Z", FIRST),
        ("9999-12-31T23:59:59.999999Z", LAST),
        ("2026-01-31T12:00:00.000001Z", 1_769_860_800_000_001),
        ("2262-04-11T23:47:16.854775Z", 9_223_372_036_854_775),  # above it a float of seconds loses microseconds
    ],
)
def test_text_and_microseconds_say_the_same(text: str, micros: int) -> None:
    assert iso(micros) == text
    assert to_micros(parse_iso(text)) == micros


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-01-31T12:00:00", "2026-01-31T12:00:00Z"),
        ("2026-01-31", "2026-01-31T00:00:00Z"),
        ("2026-01-31 12:00:00+05:30", "2026-01-31T06:30:00Z"),
        ("2026-01-31T12:00:00.1-00:00", "2026-01-31T12:00:00.100000Z"),
        ("20260131T120000Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00.1234567Z", "2026-01-31T12:00:00.123456Z"),  # what is finer is cut off
        ("0001-01-01T00:00:00-01:00", "0001-01-01T01:00:00Z"),
    ],
)
def test_every_form_of_iso_8601_is_read(text: str, same: str) -> None:
    assert iso(to_micros(parse_iso(text))) == same


@pytest.mark.parametrize("text", ["", "yesterday", "2026-06-30T23:59:60Z", "10000-01-01T00:00:00Z", "infinity", "2026-02-30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"[Ii]nvalid|hour|second|day"):
        parse_iso(text)


@pytest.mark.parametrize("micros", [FIRST - 1, LAST + 1, 10**20])
def test_a_time_outside_of_the_years_1_to_9999_has_no_text(micros: int) -> None:
    for convert in (from_micros, iso, for_display):
        with pytest.raises(OverflowError):
            convert(micros)


def test_a_zone_may_lead_outside_of_them() -> None:
    assert to_micros(parse_iso("0001-01-01T00:00:00+01:00")) == FIRST - 3_600_000_000
    assert to_micros(parse_iso("9999-12-31T23:59:59.999999-01:00")) == LAST + 3_600_000_000


def test_what_is_shown_has_no_fraction() -> None:
    assert for_display(1_769_860_800_999_999) == "2026-01-31 12:00:00Z"
    assert for_display(0) == for_display(None) == "–"
    assert for_display(-1) == "1969-12-31 23:59:59Z"


def test_the_present_has_milliseconds() -> None:
    text = now_iso()
    assert len(text) == len("2026-01-31T12:00:00.000Z")
    assert abs(parse_iso(text) - datetime.now(UTC)) < timedelta(minutes=1)


@given(st.integers(FIRST, LAST))
def test_microseconds_stay_exact_through_every_form(micros: int) -> None:
    moment = from_micros(micros)
    assert to_micros(moment) == to_micros(moment.replace(tzinfo=None)) == to_micros(parse_iso(iso(micros))) == micros
    seconds = (moment - EPOCH).days * 86_400 + (moment - EPOCH).seconds
    assert Decimal(micros) == Decimal(seconds) * 1_000_000 + moment.microsecond


@given(st.datetimes(timezones=st.none() | st.integers(-1_439, 1_439).map(lambda m: timezone(timedelta(minutes=m)))))
def test_a_time_without_a_zone_is_utc_and_any_other_keeps_its_own(moment: datetime) -> None:
    assert aware(moment) == (moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    assert to_micros(parse_iso(moment.isoformat())) == to_micros(moment)
