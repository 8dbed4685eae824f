"""What became of a destination's events in the last minutes, and the log's lines about rejections."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cdc_tracker.delivery.outcomes import Kind, RecentOutcomes, added_up
from cdc_tracker.state import DeliveryReport, State
from cdc_tracker.state.tables import roles

MISSING = Kind("Order Paid", "column_missing", "properties.total")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"time": 1_700_000_000.0, "monotonic": 50.0}
    monkeypatch.setattr("cdc_tracker.delivery.outcomes.time.time", lambda: now["time"])
    monkeypatch.setattr("cdc_tracker.delivery.outcomes.time.monotonic", lambda: now["monotonic"])
    return now


def later(clock: dict[str, float], seconds: float) -> None:
    for name in clock:
        clock[name] += seconds


def test_counts_are_of_the_last_minutes_alone(clock: dict[str, float]) -> None:
    recent = RecentOutcomes("events", {})
    said: Any = recent.taken(Counter(delivered=10), Counter())
    assert added_up(said) == Counter(delivered=10)
    later(clock, 120)
    said = recent.taken(Counter(delivered=14, rejected=2), Counter({MISSING: 2}))
    assert added_up(said) == Counter({"delivered": 14, "rejected": 2, "rejected:column_missing": 2})
    later(clock, 240)
    assert added_up(said) == Counter({"delivered": 4, "rejected": 2, "rejected:column_missing": 2})  # as a reader sees it
    later(clock, 300)
    assert recent.taken(Counter(delivered=14, rejected=2), Counter({MISSING: 2})) == {} and not added_up(said)


def test_they_outlast_a_restart(clock: dict[str, float]) -> None:
    said = RecentOutcomes("events", {}).taken(Counter(rejected=3), Counter({MISSING: 3}))
    again = RecentOutcomes("events", said)
    assert added_up(again.taken(Counter(delivered=1), Counter()))["rejected"] == 3


@pytest.mark.parametrize("said", [None, {}, "nonsense", 5])
def test_a_report_of_an_older_version_says_nothing_of_them(said: Any, tmp_path: Path) -> None:
    with State.open(f"sqlite:///{tmp_path}/state.sqlite") as state:
        state.reports.save("main", "deliver:events", 1, "idle", DeliveryReport(recent={"1": {"delivered": 5}}))
        with state._database.writing() as connection:
            connection.execute(roles.update().values(detail=json.dumps({"recent": said})))
        recent = state.reports.last("main", "deliver:events", DeliveryReport).recent
    assert not added_up(recent) and RecentOutcomes("events", recent).taken(Counter(), Counter()) == {}


def test_each_kind_of_rejection_is_logged_at_once_and_then_no_more_than_every_five_minutes(clock: dict[str, float]) -> None:
    recent, other = RecentOutcomes("events", {}), Kind("Order Paid", "too_large", "")
    with capture_logs() as lines:
        for second in range(600):
            recent.taken(Counter(), Counter({MISSING: second + 1, **({other: 1} if second > 5 else {})}))
            later(clock, 1)
    told = [(line["reason"], line["number"]) for line in lines]
    assert told == [("column_missing", 1), ("too_large", 1), ("column_missing", 300)]
    assert lines[0]["log_level"] == "error" and lines[0]["mapping"] == "Order Paid" and "dead-letters list" in lines[0]["hint"]
