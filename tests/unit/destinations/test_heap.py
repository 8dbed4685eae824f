"""Heap: tracks, user properties, limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.destinations.heap import HOSTS, HeapDestination, HeapSettings
from cdc_tracker.errors import DestinationUnavailable
from cdc_tracker.model import ASSUMED, SUPPRESSED, Outcome
from tests.unit.destinations.translating import EXACT, batch, call, message_id, settled
from tests.vendors.heap import APP_ID, HeapServer
from tests.vendors.server import Answer


@pytest.fixture
def vendor() -> Iterator[HeapServer]:
    with HeapServer() as running:
        yield running


def opened(vendor: HeapServer, **more: Any) -> HeapDestination:
    made = HeapSettings.model_validate({"type": "heap", "app_id": APP_ID, "host": vendor.url, **more})
    return HeapDestination("product", made, Path())


def test_tracks_go_in_one_request_and_user_properties_in_another(vendor: HeapServer) -> None:
    events = [call(0), call(1, "identify", traits={"plan": "pro"}), call(2), call(3, "identify", traits={"plan": "free"})]
    receipts, _ = settled(opened(vendor), batch(*events))
    assert receipts == [ASSUMED] * 4
    assert [request.path for request in vendor.requests] == ["/api/add_user_properties", "/api/track"]
    assert [one["messageId"] for one in vendor.held()] == [message_id(0), message_id(2)]
    assert vendor.users == {"3": {"plan": "free"}}


def test_a_track_call_keeps_its_bytes_and_its_time(vendor: HeapServer) -> None:
    settled(opened(vendor), batch(call(0, raw=EXACT, timestamp="2026-01-02T03:04:05.000006Z")))
    assert EXACT.encode() in vendor.requests[0].body
    [held] = vendor.held()
    assert (held["event"], held["userId"], held["timestamp"]) == ("Order Paid", "3", "2026-01-02T03:04:05.000006Z")


def test_values_that_heap_does_not_know_become_texts(vendor: HeapServer) -> None:
    given = {"yes": True, "none": None, "tags": ["a", "b"], "item": {"sku": "x", "deep": [1]}, "items": [{"sku": "y"}], "n": 1.5}
    receipts, _ = settled(opened(vendor), batch(call(0, properties=given)))
    assert receipts == [ASSUMED]
    held = json.loads(vendor.requests[0].body)["events"][0]["properties"]
    assert held == {"yes": "true", "tags": ["a", "b"], "item": '{"sku": "x", "deep": [1]}', "items": '[{"sku": "y"}]', "n": 1.5}


@pytest.mark.parametrize(("value", "taken"), [(None, None), (True, "true"), (False, "false"), ([1], [1]), ({"a": 1}, '{"a": 1}')])
def test_each_of_them_is_seen_among_numbers_and_texts(value: Any, taken: Any, vendor: HeapServer) -> None:
    settled(opened(vendor), batch(call(0, properties={"a": "x", "v": value, "n": 1})))
    assert json.loads(vendor.requests[0].body)["events"][0]["properties"].get("v") == taken


def test_an_event_that_comes_again_is_dropped_by_its_key(vendor: HeapServer) -> None:
    for _ in range(2):
        settled(opened(vendor), batch(call(0)))
    assert (len(vendor.held()), vendor.repeated) == (1, 1)


@pytest.mark.parametrize(
    ("made", "reason", "field"),
    [
        (call(1, userId="x" * 256), "id_too_long", "userId"),
        (call(1, userId=None, anonymousId="a-1"), "id_invalid", "anonymousId"),
        (call(1, userId=None, anonymousId="9007199254740992"), "id_invalid", "anonymousId"),
        (call(1, userId=None, anonymousId="٣"), "id_invalid", "anonymousId"),
        (call(1, event="x" * 1_025), "invalid_name", "event"),
        (call(1, properties={"note": "é" * 1_024}), "value_too_long", "properties.note"),
        (call(1, properties={"tags": ["x" * 600, "y" * 600]}), "value_too_long", "properties.tags"),
        (call(1, properties={"k" * 1_024: 1}), "invalid_name", "properties"),
        (call(1, "identify", userId=None, anonymousId="7"), "not_supported", "userId"),
        (call(1, "group", groupId="g"), "not_supported", "type"),
        (call(1, "alias", previousId="a"), "not_supported", "type"),
        (call(1, "page", name="Home"), "not_supported", "type"),
        (call(1, "screen", name="Main"), "not_supported", "type"),
    ],
)
def test_what_heap_would_not_take_is_refused_here_alone(made: Any, reason: str, field: str, vendor: HeapServer) -> None:
    receipts, troubles = settled(opened(vendor), batch(call(0), made, call(2)))
    assert [receipt.outcome for receipt in receipts] == [Outcome.ASSUMED, Outcome.REJECTED, Outcome.ASSUMED]
    assert (receipts[1].reason, receipts[1].field) == (reason, field)
    assert not troubles


def test_calls_without_a_counterpart_can_be_left_out(vendor: HeapServer) -> None:
    receipts, _ = settled(opened(vendor, unsupported="skip"), batch(call(0), call(1, "page", name="Home")))
    assert receipts == [ASSUMED, SUPPRESSED]


def test_long_texts_can_be_cut(vendor: HeapServer) -> None:
    made = call(0, properties={"note": "é" * 2_000, "items": [{"sku": "y" * 2_000}]})
    receipts, _ = settled(opened(vendor, long_values="truncate"), batch(made))
    assert receipts == [ASSUMED]
    assert {key: len(value) for key, value in vendor.held()[0]["properties"].items()} == {"note": 1_023, "items": 1_023}


def test_nobody_known_is_named_by_heaps_own_number(vendor: HeapServer) -> None:
    settled(opened(vendor), batch(call(0, userId=None, anonymousId="9007199254740991")))
    [item] = vendor.events.values()
    assert (item.user_id, item.identity) == ("9007199254740991", None)


def test_a_refusal_without_a_name_is_searched_for(vendor: HeapServer) -> None:
    destination = opened(vendor)
    vendor.answers(Answer(400, b'{"error":"no"}'), Answer(400, b'{"error":"no"}'), Answer(400, b'{"error":"no 11223344-app"}'))
    receipts, _ = settled(destination, batch(*[call(n) for n in range(4)]))
    assert [receipt.outcome for receipt in receipts] == [Outcome.REJECTED] + [Outcome.ASSUMED] * 3
    assert receipts[0].reason == "refused"
    assert "11223344" not in receipts[0].detail


def test_a_throttled_request_is_told_with_its_wait(vendor: HeapServer) -> None:
    vendor.answers(Answer(429, headers={"Retry-After": "9"}))
    destination = opened(vendor)
    with pytest.raises(DestinationUnavailable) as caught:
        destination.deliver(batch(call(0)))
    destination.close()
    assert caught.value.retry_after == 9.0


def test_when_the_tracks_fail_the_user_properties_do_not_go_again(vendor: HeapServer) -> None:
    vendor.answers(Answer(200, taken=True), Answer(503))
    receipts, _ = settled(opened(vendor), batch(call(0), call(1, "identify", traits={"plan": "pro"})))
    assert receipts == [ASSUMED, ASSUMED]
    assert [request.path for request in vendor.requests] == ["/api/add_user_properties", "/api/track", "/api/track"]


def test_regions() -> None:
    assert HOSTS == {"us": "https://heapanalytics.com", "eu": "https://c.eu.heap-api.com"}
    assert APP_ID not in repr(HeapSettings.model_validate({"type": "heap", "app_id": APP_ID}))
