"""`timezone`: when a clock showed what a column without a zone holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cdc_tracker.mapping import load_texts, run_examples
from cdc_tracker.mapping.language.zones import instant, names, zone
from cdc_tracker.model import Event, Text
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import change, event, mappings, one, outcome, plan, problems, rejection, relation

BERLIN = "Europe/Berlin"


def x_of(value: str, new: dict[str, Text] | None = None, **more: Any) -> Any:
    return event(one(**{"timezone": BERLIN, "properties": {"x": value}, **more}), new=new)["properties"]["x"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("new.local_at", "2026-01-05T09:00:00.500000Z"),
        ("[new.local_at]", ["2026-01-05T09:00:00.500000Z"]),
        ("new.local_at < new.paid_at", True),
        ("new.local_at == timestamp('2026-01-05T09:00:00.5Z')", True),
        ("date_diff('second', new.local_at, new.paid_at)", 3599),
        ("hour(new.local_at)", 9),
        (f"hour(new.local_at, '{BERLIN}')", 10),
        ("epoch_ms(new.local_at)", 1767603600500),
        ("new.paid_at", "2026-01-05T10:00:00Z"),
        ("new.day", "2026-01-05"),
        ("string(new.local_at)", "2026-01-05T09:00:00.500000Z"),
        ("new.local_at is None", False),
        ("changed(new.local_at, new.paid_at)", True),
    ],
)
def test_a_column_without_a_zone_is_a_time_in_utc(value: str, expected: Any) -> None:
    assert x_of(value) == expected


def test_the_event_happened_when_the_clock_showed_it() -> None:
    assert event(one(timezone=BERLIN, timestamp="new.local_at"))["timestamp"] == "2026-01-05T09:00:00.500000Z"
    assert event(one(timezone=BERLIN, timestamp="coalesce(new.local_at, None)"))["timestamp"] == "2026-01-05T09:00:00.500000Z"
    typed = {"x": {"value": "new.local_at", "type": "timestamp", "required": True}}
    assert x_of("", properties=typed) == "2026-01-05T09:00:00.500000Z"
    assert x_of("new.local_at", {"local_at": None}) is None


def test_without_a_timezone_nothing_changes() -> None:
    plain = {
        "properties": {"x": "new.local_at", "y": "[new.local_at]", "z": "new.local_at < new.paid_at"},
        "timestamp": "new.local_at",
    }
    made = event(one(**plain))
    assert made["properties"] == {"x": "2026-01-05T10:00:00.500000", "y": ["2026-01-05T10:00:00.500000"], "z": False}
    assert made["timestamp"] == "2026-01-05T10:00:00.500000Z"
    other = {"properties": {"x": "new.paid_at", "y": "date(new.paid_at)", "z": "new.status == 'paid'"}}
    bodies = []
    for text in (one(**other), one(**other, timezone="Asia/Tokyo")):
        found = outcome(text)
        assert isinstance(found, Event)
        bodies.append(found.body)
    assert bodies[0] == bodies[1]


def test_an_event_overrides_the_default_of_its_file() -> None:
    text = '{"version": 1, "defaults": {"timezone": "Asia/Tokyo"}, "events": [%s, %s]}'
    shape = '{"name": "A B", "key": "%s", "table": "shop.orders", "user_id": "new.user_id", "timestamp": "new.local_at"%s}'
    made = plan(text % (shape % ("a", ""), shape % ("b", ', "timezone": "America/New_York"')))
    found = [function(change(made)) for function in made.by_op["c"]]
    times = [each.decoded()["timestamp"] for each in found if isinstance(each, Event)]
    assert times == ["2026-01-05T01:00:00.500000Z", "2026-01-05T15:00:00.500000Z"]
    assert [mapping.timezone for mapping in mappings(text % (shape % ("a", ""), shape % ("b", ""))).all] == ["Asia/Tokyo"] * 2


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        ("2026-03-29 01:59:59", "2026-03-29T00:59:59Z"),
        ("2026-03-29 02:30:00", "2026-03-29T01:30:00Z"),  # no clock shows it: as if it had not been moved yet
        ("2026-03-29 03:00:00", "2026-03-29T01:00:00Z"),
        ("2026-10-25 01:59:59", "2026-10-24T23:59:59Z"),
        ("2026-10-25 02:30:00", "2026-10-25T01:30:00Z"),  # clocks show it twice: the second time
        ("2026-10-25 03:00:00", "2026-10-25T02:00:00Z"),
    ],
)
def test_a_skipped_time_and_one_shown_twice_are_read_as_postgresql_does(clock: str, expected: str) -> None:
    assert x_of("new.local_at", {"local_at": clock}) == expected


def test_two_columns_are_compared_by_their_times_not_by_their_texts() -> None:
    gap: dict[str, Text] = {"local_at": "2026-03-29 02:30:00"}  # is 03:30 in summer time
    text = one(on="update", timezone=BERLIN, properties={"x": "changed(new.local_at, old.local_at)"})
    assert event(text, "u", gap, {"local_at": "2026-03-29 03:30:00"})["properties"]["x"] is False
    assert event(text, "u", gap, {"local_at": "2026-03-29 03:30:01"})["properties"]["x"] is True
    same = {"local_at": "2026-01-05 10:00:00", "paid_at": "2026-01-05 09:00:00+00"}
    assert event(one(timezone=BERLIN, properties={"x": "new.local_at == new.paid_at"}), new=same)["properties"]["x"] is True


def test_arrays_of_timestamps_are_read_in_the_zone_too() -> None:
    columns = {"id": "int8", "user_id": "int8", "slots": "timestamp[]"}
    made = plan(one(timezone=BERLIN, properties={"x": "new.slots", "y": "new.slots[1][0]"}), relation(columns=columns))
    row = {"user_id": "1", "slots": '{{"2026-01-05 10:00:00"},{"2026-07-05 10:00:00"},{NULL},{infinity}}'}
    found = made.by_op["c"][0](change(made, new=row))
    assert isinstance(found, Event)
    x = [["2026-01-05T09:00:00Z"], ["2026-07-05T08:00:00Z"], [None], ["infinity"]]
    assert found.decoded()["properties"] == {"x": x, "y": "2026-07-05T08:00:00Z"}


@pytest.mark.parametrize("special", ["infinity", "-infinity", "0044-03-15 12:00:00 BC", "12026-01-05 10:00:00"])
def test_special_values_stay_special(special: str) -> None:
    assert x_of("new.local_at", {"local_at": special}) == special
    for policy, expected in (("null", None), ("text", special)):
        assert x_of("coalesce(new.local_at, None)", {"local_at": special}, special_values=policy) == expected
    refused = one(timezone=BERLIN, timestamp="new.local_at", special_values="reject")
    assert rejection(refused, new={"local_at": special}).reason == "special_value"


def test_a_time_beyond_the_years_of_utc_is_rejected() -> None:
    row: dict[str, Text] = {"local_at": "0001-01-01 00:00:00"}
    for value in ("new.local_at", "[new.local_at]"):
        found = rejection(one(timezone="Asia/Tokyo", properties={"x": value}), new=row)
        assert (found.reason, found.detail) == ("expression_error", "a time is outside of the years 1 to 9999 in UTC")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Europe/Berln", "there is no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'?"),
        ("CEST", "there is no time zone 'CEST'"),
        ("+01:00", "there is no time zone '+01:00', such as Europe/Berlin"),
        ("../zones", "there is no time zone '../zones'"),
        ("localtime", "there is no time zone 'localtime'"),
        ("", "there is no time zone ''"),
    ],
)
def test_a_zone_that_is_not_there_is_found_at_load(name: str, message: str) -> None:
    found = problems(one(timezone=name))
    assert len(found) == 1 and found[0].startswith("shop.yml:1: events[0].timezone: ") and message in found[0]
    shared = '{"version": 1, "defaults": {"timezone": "%s"}, "events": [{"name": "A B", "table": "s.t", "user_id": "new.x"}]}'
    assert "defaults.timezone: there is no time zone" in problems(shared % name)[0]


def test_an_example_may_write_a_time_as_its_column_has_it() -> None:
    text = """
version: 1
events:
  - name: Shift Started
    table: shop.shifts
    timezone: Europe/Berlin
    user_id: new.user_id
    timestamp: new.starts_at
    properties: {day: "date(new.starts_at, 'Europe/Berlin')", ends: {value: new.ends_at, type: timestamp}}
    examples:
      - new: {user_id: 1, starts_at: "2026-07-01 00:30:00", ends_at: "2026-07-01T08:30:00.250"}
        event: {timestamp: "2026-06-30T22:30:00Z", properties: {day: "2026-07-01", ends: "2026-07-01T06:30:00.250000Z"}}
      - new: {user_id: 1, starts_at: "2026-07-01 00:30:00", ends_at: "2026-07-01T08:30:00Z"}
        event: {timestamp: "2026-06-30T22:30:00Z", properties: {day: "2026-07-01", ends: "2026-07-01T08:30:00Z"}}
"""
    assert [str(result) for result in run_examples(load_texts({"shop.yml": text}), codec) if not result.passed] == []


def test_every_zone_can_be_read() -> None:
    noon = datetime(2026, 1, 5, 12)
    for name in names():
        found = zone(name)
        assert found is not None
        assert abs((instant(noon, found) - noon.replace(tzinfo=UTC)).total_seconds()) <= 14 * 3600
