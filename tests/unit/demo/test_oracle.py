"""The oracle must see what is wrong: it is shown files that were tampered with."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.demo import oracle
from cdc_tracker.demo.oracle import Verdict
from cdc_tracker.demo.screen import sum_line

ORDERS = 5


def _wanted() -> oracle.Expected:
    rows = [("track", "Order Paid", str(order), {"order_id": order, "revenue": Decimal("9.50")}) for order in range(ORDERS)]
    rows.append(("identify", "", "7", {"name": "Ada", "about_length": None}))
    return oracle.expectation(rows)


def _events() -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [
        {
            "type": "track",
            "event": "Order Paid",
            "messageId": f"m{order}",
            "userId": str(order),
            "properties": {"order_id": order, "revenue": 9.5, "currency": "EUR"},
        }
        for order in range(ORDERS)
    ]
    return [*events, {"type": "identify", "messageId": "i", "userId": "7", "traits": {"name": "Ada"}}]


def _write(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def _verdict(path: Path, events: list[dict[str, Any]]) -> Verdict:
    return oracle.compare("events", _wanted(), oracle.in_jsonl([_write(path / "events.jsonl", events)]))


def test_events_that_all_arrived_once_pass(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, _events())
    assert verdict.good
    assert (verdict.expected, verdict.delivered, verdict.lost, verdict.duplicated) == (6, 6, 0, 0)
    assert sum_line([verdict, verdict]) == "expected 12, delivered 12, lost 0, duplicated 0"


@pytest.mark.parametrize("missing", range(ORDERS + 1))
def test_a_missing_event_is_lost_whichever_it_is(tmp_path: Path, missing: int) -> None:
    events = _events()
    gone = events.pop(missing)
    verdict = _verdict(tmp_path, events)
    assert not verdict.good
    assert (verdict.delivered, verdict.lost, verdict.duplicated) == (5, 1, 0)
    assert f"user {gone['userId']} " in verdict.examples[0]


def test_an_event_written_twice_is_a_duplicate_also_under_another_id(tmp_path: Path) -> None:
    events = _events()
    verdict = _verdict(tmp_path, [*events, events[2], {**events[3], "messageId": "another"}])
    assert not verdict.good
    assert (verdict.delivered, verdict.lost, verdict.duplicated) == (6, 0, 2)


def test_one_lost_and_one_doubled_do_not_cancel_out(tmp_path: Path) -> None:
    events = _events()
    events[1] = events[0]
    verdict = _verdict(tmp_path, events)
    assert (verdict.lost, verdict.duplicated, verdict.unexpected) == (1, 1, 0)
    assert not verdict.good


def test_a_wrong_property_is_a_loss_and_an_event_that_nothing_calls_for(tmp_path: Path) -> None:
    events = _events()
    events[0]["properties"]["revenue"] = 9.51
    verdict = _verdict(tmp_path, events)
    assert (verdict.lost, verdict.duplicated, verdict.unexpected) == (1, 0, 1)
    assert "unexpected 1" in sum_line([verdict])


def test_a_property_that_should_not_be_there_is_noticed(tmp_path: Path) -> None:
    events = _events()
    events[-1]["traits"]["about_length"] = 12
    assert not _verdict(tmp_path, events).good


def test_an_event_of_a_rolled_back_transaction_is_not_called_for(tmp_path: Path) -> None:
    ghost = {"type": "track", "event": "Never Happened", "messageId": "g", "userId": "1", "properties": {}}
    verdict = _verdict(tmp_path, [*_events(), ghost])
    assert (verdict.lost, verdict.duplicated, verdict.unexpected) == (0, 0, 1)
    assert not verdict.good


def test_a_wrong_user_is_a_loss(tmp_path: Path) -> None:
    events = _events()
    events[0]["userId"] = "someone else"
    assert _verdict(tmp_path, events).lost == 1


def test_a_line_that_is_still_being_written_does_not_count(tmp_path: Path) -> None:
    path = _write(tmp_path / "events.jsonl", _events())
    path.write_bytes(path.read_bytes()[:-5])
    assert oracle.compare("events", _wanted(), oracle.in_jsonl([path])).lost == 1


def test_the_vendor_drops_what_comes_again_under_its_id_and_the_repeat_is_counted_apart(tmp_path: Path) -> None:
    events = _events()
    path = _write(tmp_path / "vendor.jsonl", [*events, *events[:2]])
    verdict = oracle.compare("segment", _wanted(), oracle.at_vendor(path))
    assert verdict.good
    assert (verdict.delivered, verdict.duplicated, verdict.repeats) == (6, 0, 2)


def test_a_repeat_with_other_content_under_the_same_id_fails(tmp_path: Path) -> None:
    events = _events()
    path = _write(tmp_path / "vendor.jsonl", [*events, {**events[0], "timestamp": "2026-01-01T00:00:00Z"}])
    verdict = oracle.compare("segment", _wanted(), oracle.at_vendor(path))
    assert verdict.torn == 1
    assert not verdict.good


def test_one_event_under_two_ids_is_a_duplicate_at_the_vendor(tmp_path: Path) -> None:
    events = _events()
    path = _write(tmp_path / "vendor.jsonl", [*events, {**events[0], "messageId": "new"}])
    assert oracle.compare("segment", _wanted(), oracle.at_vendor(path)).duplicated == 1


def _warehouse(path: Path, events: list[dict[str, Any]]) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE tracks (type text, event text, user_id text, anonymous_id text, properties text, traits text)"
        )
        for event in events:
            said = [json.dumps(event[key]) if key in event else None for key in ("properties", "traits")]
            connection.execute(
                "INSERT INTO tracks VALUES (?, ?, ?, NULL, ?, ?)", [event["type"], event.get("event"), event["userId"], *said]
            )
    return path


def test_every_row_of_the_warehouse_counts(tmp_path: Path) -> None:
    events = _events()
    assert oracle.compare("warehouse", _wanted(), oracle.in_warehouse(_warehouse(tmp_path / "good.db", events))).good
    verdict = oracle.compare(
        "warehouse", _wanted(), oracle.in_warehouse(_warehouse(tmp_path / "bad.db", [*events[1:], events[-1]]))
    )
    assert (verdict.lost, verdict.duplicated) == (1, 1)


def test_files_that_are_not_there_hold_nothing(tmp_path: Path) -> None:
    assert oracle.compare("segment", _wanted(), oracle.at_vendor(tmp_path / "none.jsonl")).lost == 6
    assert oracle.compare("warehouse", _wanted(), oracle.in_warehouse(tmp_path / "none.db")).lost == 6
    sqlite3.connect(tmp_path / "empty.db").close()
    assert oracle.compare("warehouse", _wanted(), oracle.in_warehouse(tmp_path / "empty.db")).lost == 6
