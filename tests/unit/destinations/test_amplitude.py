"""Amplitude: how each call is translated, which way it goes, and what each answer means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.destinations.support.vendor import Item, request_groups
from cdc_tracker.errors import BatchRejected, CdcTrackerError, DestinationBlocked, DestinationUnavailable, TooLarge
from cdc_tracker.model import ASSUMED, DELIVERED, Batch, Event, Outcome, Position, Receipt
from tests.proxy import closed_proxy
from tests.vendors.amplitude import INVALID, AmplitudeServer
from tests.vendors.kit import made
from tests.vendors.server import Answer, Request

KEY = "amp-71d2e9"
QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)
RETRY, REJECTED = Outcome.RETRY, Outcome.REJECTED
RECENT = datetime.now(UTC).replace(microsecond=6_007).isoformat()
OLD = "2026-01-02T03:04:05.006007Z"


@pytest.fixture
def vendor() -> Iterator[AmplitudeServer]:
    with AmplitudeServer(api_key=KEY) as running:
        yield running


@pytest.fixture
def amplitude(vendor: AmplitudeServer) -> Iterator[Destination]:
    destination = opened(vendor.url)
    yield destination
    destination.close()


def opened(url: str, **settings: Any) -> Destination:
    return made("amplitude", Path(), api_key=KEY, endpoint=url, **settings)()


def call(n: int = 0, kind: str = "track", **fields: Any) -> Event:
    """What is None is left out."""
    named = {"event": "Order Paid"} if kind == "track" else {}
    body = {"type": kind, **named, "messageId": f"id-{n}", "userId": "u-1", "timestamp": RECENT} | fields
    text = json.dumps({key: value for key, value in body.items() if value is not None}, ensure_ascii=False)
    return Event(f"id-{n}", kind, text.encode(), "m", Position(100, n), 1_700_000_000_123_456)


def batch(*events: Event, history: bool = False) -> Batch:
    return Batch(events, Position(500, -1), history=history)


def settled(destination: Destination, *events: Event) -> tuple[list[Receipt], list[CdcTrackerError]]:
    troubles: list[CdcTrackerError] = []
    return send(destination, batch(*events), stop=lambda: False, on_trouble=troubles.append, backoff=QUICK), troubles


def sent(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.body, parse_float=Decimal)
    return found


def reasons(receipts: list[Receipt]) -> list[str]:
    return [receipt.reason for receipt in receipts]


# Translation.


def test_a_track_becomes_an_event_and_its_properties_stay_as_they_are(vendor: AmplitudeServer, amplitude: Destination) -> None:
    exact = '{"big":123456789012345678901234567890,"fraction":0.100000000000000000000001,"é":"日本 😀","none":null,"o":{"a":[1]}}'
    event = call(1, anonymousId="device-1", properties={"x": 1})
    body = event.body.replace(b'{"x": 1}', exact.encode())
    assert amplitude.deliver(batch(Event("id-1", "track", body, "m", event.position, 0))) == [DELIVERED]
    [request] = vendor.requests
    assert (request.path, request.headers["content-encoding"]) == ("/2/httpapi", "gzip")
    assert exact.encode() in request.body
    assert sent(request)["options"] == {"min_id_length": 1}
    assert sent(request)["events"] == [
        {
            "user_id": "u-1",
            "device_id": "device-1",
            "event_type": "Order Paid",
            "time": int(datetime.fromisoformat(RECENT).timestamp()) * 1_000 + 6,
            "insert_id": "id-1",
            "event_properties": json.loads(exact, parse_float=Decimal),
        }
    ]


@pytest.mark.parametrize(
    ("fields", "name", "properties", "groups"),
    [
        ({"kind": "page", "name": "Home", "properties": {"url": "/"}}, "Page Viewed", {"name": "Home", "url": "/"}, None),
        ({"kind": "screen", "name": "Main"}, "Screen Viewed", {"name": "Main"}, None),
        ({"kind": "track"}, "Order Paid", {}, None),
        ({"kind": "track", "context": {"groupId": "g7"}}, "Order Paid", {}, {"company": "g7"}),
    ],
)
def test_calls_that_become_events(
    fields: dict[str, Any],
    name: str,
    properties: dict[str, Any],
    groups: dict[str, str] | None,
    vendor: AmplitudeServer,
    amplitude: Destination,
) -> None:
    assert amplitude.deliver(batch(call(**fields))) == [DELIVERED]
    [event] = vendor.events
    assert (event["event_type"], event["event_properties"], event.get("groups")) == (name, properties, groups)


def test_an_identify_sets_user_properties(vendor: AmplitudeServer, amplitude: Destination) -> None:
    receipts = amplitude.deliver(batch(call(1, "identify", anonymousId="device-1", traits={"näme": "a&b=c", "n": 1})))
    assert receipts == [ASSUMED]
    assert vendor.users == {"u-1": {"näme": "a&b=c", "n": 1}}
    assert vendor.requests[0].path == "/identify"


def test_a_group_call_sets_the_group_and_makes_the_person_a_member(vendor: AmplitudeServer) -> None:
    destination = opened(vendor.url, group_type="team")
    assert destination.deliver(batch(call(1, "group", groupId="g7", traits={"seats": 3}))) == [ASSUMED]
    assert vendor.groups == {("team", "g7"): {"seats": 3}}
    assert vendor.users == {"u-1": {"group team": "g7"}}
    destination.close()


def test_an_alias_is_refused(vendor: AmplitudeServer, amplitude: Destination) -> None:
    assert reasons(amplitude.deliver(batch(call(0), call(1, "alias", previousId="old")))) == ["", "not_supported"]


def test_what_is_about_one_person_keeps_its_order_over_kinds_of_requests(vendor: AmplitudeServer, amplitude: Destination) -> None:
    """Properties count for the events after them."""
    events = [
        call(10 * n + k, kind, userId=f"u-{n}", traits={"step": k} if kind == "identify" else None)
        for k, kind in enumerate(("track", "identify", "track", "identify", "track"))
        for n in range(20)
    ]
    amplitude.deliver(batch(*events))
    for n in range(20):
        mine = [(path, what) for path, who, what in vendor.happened if who == f"u-{n}"]
        track = ("/2/httpapi", "Order Paid")
        assert mine == [track, ("/identify", {"step": 1}), track, ("/identify", {"step": 3}), track]
    assert len(vendor.requests) == 5


def test_more_identifications_than_a_request_takes_go_in_several(vendor: AmplitudeServer, amplitude: Destination) -> None:
    events = [call(n, "identify", userId=f"u-{n}") for n in range(1_500)]
    assert set(amplitude.deliver(batch(*events))) == {ASSUMED}
    assert (len(vendor.users), len(vendor.requests)) == (1_500, 2)


def test_waves_are_as_few_as_the_order_allows() -> None:
    items = [
        Item(n, kind, b"", who)
        for n, (kind, who) in enumerate(
            [("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"), ("a", "1"), ("b", "3"), ("a", "3")],
        )
    ]
    assert [(kind, [item.index for item in wave]) for kind, wave in request_groups(items)] == [
        ("a", [0, 2]),
        ("b", [1, 3, 5]),
        ("a", [4, 6]),
    ]


# Old events.


def test_old_events_go_by_batch_and_leave_user_properties_alone(vendor: AmplitudeServer, amplitude: Destination) -> None:
    assert set(amplitude.deliver(batch(call(0), call(1, timestamp=OLD), call(2)))) == {DELIVERED}
    assert {request.path: len(sent(request)["events"]) for request in vendor.requests} == {"/2/httpapi": 2, "/batch": 1}
    [old] = [event for event in vendor.events if event["insert_id"] == "id-1"]
    assert old["$skip_user_properties_sync"] is True
    assert old["time"] == 1767323045006
    assert all("$skip_user_properties_sync" not in event for event in vendor.events if event is not old)


def test_a_replayed_batch_goes_by_batch_whatever_its_age(vendor: AmplitudeServer, amplitude: Destination) -> None:
    amplitude.deliver(batch(call(0), history=True))
    assert [request.path for request in vendor.requests] == ["/batch"]


def test_how_old_is_old_is_a_setting(vendor: AmplitudeServer) -> None:
    destination = opened(vendor.url, history_after="3650d")
    destination.deliver(batch(call(0, timestamp=OLD)))
    assert [request.path for request in vendor.requests] == ["/2/httpapi"]
    destination.close()


def test_a_repeat_is_ignored_for_seven_days(vendor: AmplitudeServer, amplitude: Destination) -> None:
    event = call(0, timestamp=OLD)
    later = vendor.clock
    for days, kept in ((0, 1), (6.9, 1), (7.1, 2)):
        passed = timedelta(days=days).total_seconds()
        vendor.clock = partial(sum, (later(), passed))
        amplitude.deliver(batch(event))
        assert len(vendor.events) == kept
    assert len({request.body for request in vendor.requests}) == 1


# Ids.


@pytest.mark.parametrize("name", sorted(INVALID - {""}))
def test_an_id_that_names_nobody_is_refused_here(name: str, vendor: AmplitudeServer, amplitude: Destination) -> None:
    receipts = amplitude.deliver(
        batch(call(0, userId=name), call(1, anonymousId=name.upper()), call(2, "identify", userId=name), call(3))
    )
    assert reasons(receipts) == ["id_invalid"] * 3 + [""]
    assert [receipt.field for receipt in receipts] == ["userId", "anonymousId", "userId", ""]
    assert len(vendor.events) == 1


def test_a_short_id_is_kept_unless_the_setting_forbids_it(vendor: AmplitudeServer, amplitude: Destination) -> None:
    """Left to itself, Amplitude strips ids of fewer than five characters from an event."""
    assert amplitude.deliver(batch(call(0, userId="7"))) == [DELIVERED]
    assert vendor.events[0]["user_id"] == "7"
    strict = opened(vendor.url, min_id_length=5)
    assert reasons(strict.deliver(batch(call(1, userId="7"), call(2, userId="seven")))) == ["id_invalid", ""]
    assert sent(vendor.requests[-1])["options"] == {"min_id_length": 5}
    strict.close()


# Answers.


def test_named_events_are_rejected_and_the_rest_goes_again(vendor: AmplitudeServer, amplitude: Destination) -> None:
    events = [call(n, event="" if n in (1, 4, 5) else "Order Paid") for n in range(8)]
    receipts, troubles = settled(amplitude, *events)
    assert [n for n, receipt in enumerate(receipts) if receipt.outcome is REJECTED] == [1, 4, 5]
    assert receipts[1] == Receipt(REJECTED, "refused", "event_type", "Request missing required field: the field is missing")
    assert [event["insert_id"] for event in vendor.events] == ["id-0", "id-2", "id-3", "id-6", "id-7"]
    assert (vendor.repeated, troubles) == (0, [])
    assert [request.path for request in vendor.requests] == ["/2/httpapi", "/2/httpapi", "/batch", "/batch"]


def test_silenced_devices_are_rejected(vendor: AmplitudeServer, amplitude: Destination) -> None:
    vendor.silenced = {"noisy"}
    receipts = amplitude.deliver(batch(call(0), call(1, anonymousId="noisy"), call(2)))
    assert reasons(receipts) == ["", "silenced", ""]
    assert receipts[1].outcome is REJECTED
    assert receipts[1].detail == "Events silenced for device_id"
    assert len(vendor.events) == 2


def test_throttled_events_go_again_alone(vendor: AmplitudeServer, amplitude: Destination) -> None:
    vendor.throttled = {"fast"}
    events = [call(0), call(1, userId="fast"), call(2), call(3, userId="fast")]
    receipts = amplitude.deliver(batch(*events))
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, RETRY, Outcome.DELIVERED, RETRY]
    assert reasons(receipts)[1] == "Too many requests for some devices and users"
    vendor.throttled = set()
    assert amplitude.deliver(batch(events[1], events[3])) == [DELIVERED] * 2
    assert [event["insert_id"] for event in vendor.events] == ["id-0", "id-2", "id-1", "id-3"]
    assert vendor.repeated == 0


def test_what_comes_after_a_throttled_event_of_the_same_person_waits(vendor: AmplitudeServer, amplitude: Destination) -> None:
    vendor.throttled = {"fast"}
    events = [call(0, userId="fast"), call(1), call(2, "identify", userId="fast", traits={"a": 1}), call(3, "identify")]
    receipts = amplitude.deliver(batch(*events))
    assert [receipt.outcome for receipt in receipts] == [RETRY, Outcome.DELIVERED, RETRY, Outcome.ASSUMED]
    assert vendor.users == {"u-1": {}}


def test_each_event_gets_its_own_receipt_also_behind_two_of_a_throttled_person(
    vendor: AmplitudeServer, amplitude: Destination
) -> None:
    vendor.throttled, vendor.silenced = {"fast"}, {"noisy"}
    events = [call(0, userId="fast"), call(1, userId="fast"), call(2), call(3, anonymousId="noisy"), call(4)]
    receipts = amplitude.deliver(batch(*events))
    assert [receipt.outcome for receipt in receipts] == [RETRY, RETRY, Outcome.DELIVERED, REJECTED, Outcome.DELIVERED]
    assert [event["insert_id"] for event in vendor.events] == ["id-2", "id-4"]


def test_where_all_is_throttled_it_waits_as_amplitude_asks(vendor: AmplitudeServer, amplitude: Destination) -> None:
    vendor.throttled = {"u-1"}
    with pytest.raises(DestinationUnavailable, match="throttles all users") as caught:
        amplitude.deliver(batch(call(0), call(1)))
    assert caught.value.retry_after == 30.0


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(400, b'{"code":400,"error":"Invalid API key: nope"}'), DestinationBlocked),
        (Answer(400, b'{"code":400,"error":"Invalid JSON request body"}'), BatchRejected),
        (Answer(400, b'{"events_with_invalid_fields":{"time":[9]}}'), BatchRejected),
        (Answer(413, b'{"error":"Payload too large"}'), TooLarge),
        (Answer(429, b"{}", {"Retry-After": "7"}), DestinationUnavailable),
        (Answer(403), DestinationBlocked),
        (Answer(500), DestinationUnavailable),
        (Answer(502), DestinationUnavailable),
        (Answer(503), DestinationUnavailable),
        (Answer(504), DestinationUnavailable),
    ],
)
def test_answers_that_take_nothing(
    answer: Answer, error: type[CdcTrackerError], vendor: AmplitudeServer, amplitude: Destination
) -> None:
    vendor.answers(answer)
    with pytest.raises(error) as caught:
        amplitude.deliver(batch(call(0)))
    assert type(caught.value) is error


def test_a_request_above_the_limit_goes_in_parts(vendor: AmplitudeServer) -> None:
    destination = opened(vendor.url, batch_size="10MB")
    receipts, _ = settled(destination, *(call(n, properties={"x": "y" * 100_000}) for n in range(30)))
    assert receipts == [DELIVERED] * 30
    assert len(vendor.events) == 30
    destination.close()


def test_a_fault_after_the_events_were_taken_counts_none_twice(vendor: AmplitudeServer, amplitude: Destination) -> None:
    vendor.answers(Answer(500, taken=True), Answer(504, taken=True))
    receipts, troubles = settled(amplitude, *(call(n) for n in range(5)))
    assert receipts == [DELIVERED] * 5
    assert (len(troubles), len(vendor.events), vendor.repeated) == (2, 5, 10)


REVENUE = {"revenue": "total", "price": "unit", "quantity": "n", "productId": "sku", "revenueType": "kind", "currency": "cur"}


def test_revenue_is_taken_from_the_properties_that_the_settings_name(vendor: AmplitudeServer) -> None:
    destination = opened(vendor.url, revenue=REVENUE)
    properties = {"total": 59.90, "unit": 29.95, "n": 2, "sku": "p-1", "kind": "purchase", "cur": "EUR", "note": "x"}
    bought, refunded = call(0, properties=properties), call(1, properties={"total": -59.90, "unit": None})
    assert destination.deliver(batch(bought, refunded, call(2, "page", name="Home"))) == [DELIVERED] * 3
    destination.close()
    assert [{key: one[key] for key in REVENUE if key in one} for one in vendor.events] == [
        {
            "revenue": Decimal("59.9"),
            "price": Decimal("29.95"),
            "quantity": 2,
            "productId": "p-1",
            "revenueType": "purchase",
            "currency": "EUR",
        },
        {"revenue": Decimal("-59.9")},
        {},
    ]
    assert vendor.events[0]["event_properties"] == json.loads(json.dumps(properties), parse_float=Decimal)
    assert vendor.revenue == Decimal("0.0")


@pytest.mark.parametrize(
    ("properties", "field"),
    [({"total": "59.90"}, "total"), ({"n": 1.5}, "n"), ({"n": "2"}, "n"), ({"sku": 7}, "sku"), ({"kind": ["a"]}, "kind")],
)
def test_revenue_of_the_wrong_type_is_refused_for_that_property(
    properties: dict[str, Any], field: str, vendor: AmplitudeServer
) -> None:
    destination = opened(vendor.url, revenue=REVENUE)
    receipts, _ = settled(destination, call(0), call(1, properties=properties), call(2))
    destination.close()
    assert [(receipt.reason, receipt.field) for receipt in receipts] == [
        ("", ""),
        ("type_mismatch", f"properties.{field}"),
        ("", ""),
    ]


def test_without_the_setting_no_property_is_taken_for_revenue(vendor: AmplitudeServer, amplitude: Destination) -> None:
    amplitude.deliver(batch(call(0, properties={"revenue": 5, "price": 5, "quantity": 1})))
    assert not {"revenue", "price", "quantity"} & set(vendor.events[0])


@pytest.mark.parametrize("body", [b"", b"OK", b'{"code":200}', b'{"code":200,"events_ingested":1}'])
def test_a_200_that_does_not_count_the_events_proves_nothing(
    body: bytes, vendor: AmplitudeServer, amplitude: Destination
) -> None:
    vendor.answers(Answer(body=body))
    receipts = amplitude.deliver(batch(call(0), call(1)))
    reason = "" if body.startswith(b"{") else "answer_unreadable"
    assert [(receipt.outcome, receipt.reason) for receipt in receipts] == [(Outcome.ASSUMED, reason)] * 2


def test_one_bad_identification_is_found_by_halving(vendor: AmplitudeServer, amplitude: Destination) -> None:
    vendor.answers(Answer(400, b"missing_event"), Answer(400, b"missing_event"))
    receipts, _ = settled(amplitude, call(0, "identify"), call(1, "identify", userId="u-2"))
    assert reasons(receipts) == ["refused", ""]
    assert "missing_event" in receipts[0].detail
    assert list(vendor.users) == ["u-2"]


# Credentials and addresses.


def test_a_probe_tries_the_key_and_keeps_nothing(vendor: AmplitudeServer) -> None:
    destination = opened(vendor.url)
    destination.probe()
    destination.close()
    wrong = made("amplitude", Path(), api_key="wrong", endpoint=vendor.url)()
    for attempt in (wrong.probe, lambda: wrong.deliver(batch(call(0)))):
        with pytest.raises(DestinationBlocked, match="Invalid API key") as caught:
            attempt()
        assert "api_key" in caught.value.hint
    wrong.close()
    assert vendor.events == []


@pytest.mark.parametrize(("region", "host"), [("us", "api2.amplitude.com"), ("eu", "api.eu.amplitude.com")])
def test_the_region_names_the_host(region: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_proxy(monkeypatch) as asked:
        destination = made("amplitude", Path(), api_key=KEY, region=region)()
        with pytest.raises(CdcTrackerError):
            destination.deliver(batch(call(0)))
        destination.close()
    assert asked == [host]


def test_no_key_is_in_any_error(vendor: AmplitudeServer, amplitude: Destination, caplog: pytest.LogCaptureFixture) -> None:
    texts = [repr(amplitude)]
    for status in (400, 401, 413, 500):
        for event in (call(0), call(0, "identify")):
            vendor.answers(Answer(status, f'{{"error":"Invalid API key: {KEY}"}}'.encode()))
            with pytest.raises(CdcTrackerError) as caught:
                amplitude.deliver(batch(event))
            texts += [str(caught.value), caught.value.hint]
    assert KEY not in "".join([*texts, caplog.text])
    assert "***" in "".join(texts)
