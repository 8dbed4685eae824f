"""What a range would send, and what a destination would do with it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cdc_tracker.delivery.jobs.spec import event_time
from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.journal import Journal
from cdc_tracker.model import START, Event, Position
from cdc_tracker.operations.estimate import ReplayEstimate, estimate_replay
from cdc_tracker.pipeline import Pipeline, route_of
from cdc_tracker.state import sent_id
from tests.unit.pipeline.frames import Commit, Order, at, lsn_of, pipeline, segments

MAPPING = """
version: 1
events:
  - {name: Order Placed, table: shop.orders, user_id: new.user_id, properties: {total: {value: new.amount, maximum: 100}}}
  - {name: Order Paid, table: shop.orders, user_id: new.user_id, when: new.status == 'paid', timestamp: new.email}
"""
OLD = "2025-12-01T00:00:00Z"
COMMITS = [
    Commit(at(10), [Order(1, email=OLD)]),
    Commit(at(20), [Order(2, status="new", email=OLD), Order(3, amount="100.01", email="2026-01-01 00:00:20Z")]),
    Commit(at(30), [Order(4, email="2026-01-01 00:00:30Z"), Order(5, status="new", email=OLD)]),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(f"sqlite:///{tmp_path}/journal.sqlite", "main") as opened:
        opened.append(segments(COMMITS))
        yield opened


def _in(ledger: set[bytes]) -> Callable[[Sequence[bytes]], set[bytes]]:
    return ledger.intersection


def _made(made_by: Pipeline, journal: Journal) -> list[Event]:
    found = [made for segment in journal.read(START, 10) for made in made_by.results(segment, START)]
    return [each for each in found if isinstance(each, Event)]


def _of(
    journal: Journal,
    after: Position = START,
    upto: Position | None = None,
    *,
    window: float = math.inf,
    age: float = math.inf,
    already_sent: Callable[[Sequence[bytes]], set[bytes]] | None = None,
    sent_since: int | None = None,
    events: Sequence[str] | None = None,
) -> ReplayEstimate:
    return estimate_replay(
        pipeline(MAPPING, only=events),
        journal,
        after,
        upto or journal.end() or START,
        now_us=at(40),
        dedupe_window=window,
        age_limit=age,
        already_sent=already_sent,
        sent_since=sent_since,
    )


def test_events_and_rejections_are_counted_by_mapping(journal: Journal) -> None:
    found = _of(journal)
    assert found.events == {"Order Placed": 4, "Order Paid": 3}
    assert found.rejections == {"Order Placed": 1}
    assert found.reasons == {"above_maximum": 1}
    assert (found.oldest, found.newest) == (at(10), at(30))
    assert (found.sent, found.withheld, found.outside_window, found.past_age) == (7, 0, 0, 0)


def test_only_the_range_counts_to_the_change(journal: Journal) -> None:
    assert _of(journal, Position(lsn_of(0), 0), Position(lsn_of(1), 0)).events == {"Order Placed": 1}
    assert _of(journal, Position(lsn_of(2), -1)).events == {"Order Placed": 2, "Order Paid": 1}
    assert _of(journal, events=["Order Paid"]).events == {"Order Paid": 3}
    assert not _of(journal, events=["Order Paid"]).rejections


@pytest.mark.parametrize(("window", "outside"), [(math.inf, 0), (31, 0), (30, 0), (29, 2), (15, 4), (5, 7), (0, 7)])
def test_what_was_committed_longer_ago_than_the_window_lies_outside_it(journal: Journal, window: float, outside: int) -> None:
    assert _of(journal, window=window).outside_window == outside


def test_age_goes_by_an_event_s_own_time(journal: Journal) -> None:
    week = 7 * 86400.0
    assert _of(journal, age=week).past_age == 1  # the first order's payment; the others were not paid
    assert _of(journal, age=25).past_age == 1 + 1  # and the first order by its commit time
    assert _of(journal, age=15).past_age == 1 + 1 + 1 + 1  # and those of the second commit
    assert _of(journal, age=9).past_age == 7


def _timed(timestamp: str) -> Event:
    body = f'{{"messageId":"id","type":"track","event":"Order Paid","userId":"1"{timestamp}}}'
    return Event("id", "track", body.encode(), "Order Paid", START, at(7))


@pytest.mark.parametrize("time", ["infinity", "0044-03-15 BC", None, 5])
def test_where_an_event_s_time_is_none_that_of_its_commit_counts(time: str | int | None) -> None:
    assert event_time(_timed(f',"timestamp":{json.dumps(time)}' if time else "")) == at(7)


def test_an_event_s_own_time_is_read_to_the_microsecond() -> None:
    assert event_time(_timed(',"timestamp":"2026-01-01T01:00:09.000001+01:00"')) == at(9) + 1


def test_what_the_sent_ledger_knows_is_withheld_and_is_not_twice(journal: Journal) -> None:
    delivered = _made(pipeline(MAPPING), journal)[:3]
    ledger = {sent_id(event.message_id) for event in delivered}
    found = _of(journal, window=0, age=15, already_sent=_in(ledger))
    assert (found.events.total(), found.withheld, found.sent) == (7, 3, 4)
    assert found.outside_window == 4  # it is not known from when on the ledger knows
    assert found.past_age == 1
    found = _of(journal, window=0, already_sent=_in(ledger), sent_since=at(25))
    assert found.outside_window == 1  # what was committed since and is not in it was never delivered
    assert _of(journal, window=0, already_sent=_in(ledger), sent_since=at(5)).outside_window == 0


def test_a_range_without_events_has_no_times(journal: Journal) -> None:
    found = _of(journal, journal.end() or START)
    assert (found.events.total(), found.oldest, found.newest) == (0, 0, 0)


def test_what_the_destination_s_own_settings_leave_out_is_counted_by_itself(journal: Journal) -> None:
    route = route_of(DestinationSettings.model_validate({"type": "x", "events": {"except": ["* Paid"]}}))
    found = estimate_replay(
        pipeline(MAPPING, route=route),
        journal,
        START,
        journal.end() or START,
        now_us=at(40),
        dedupe_window=0,
        age_limit=math.inf,
    )
    assert (found.events, found.left_out, found.sent, found.outside_window) == ({"Order Placed": 4}, 3, 4, 4)
    assert found.rejections == {"Order Placed": 1}
