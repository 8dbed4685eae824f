"""GA4: requests by client, names, parameters, ages, consent."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cdc_tracker.destinations.ga4 import HOSTS, Ga4Destination, Ga4Settings, client_id
from cdc_tracker.errors import DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import ASSUMED, SUPPRESSED, Outcome
from tests.unit.destinations.translating import ago, batch, call, message_id, settled
from tests.vendors.ga4 import API_SECRET, MEASUREMENT_ID, SENDER, Ga4Server
from tests.vendors.server import Answer, Cut


@pytest.fixture
def vendor() -> Iterator[Ga4Server]:
    with Ga4Server() as running:
        yield running


def opened(vendor: Ga4Server, **more: Any) -> Ga4Destination:
    given = {"type": "ga4", "measurement_id": MEASUREMENT_ID, "api_secret": API_SECRET, "host": vendor.url, **more}
    return Ga4Destination("product", Ga4Settings.model_validate(given), Path())


def sent(vendor: Ga4Server, made: Any, **more: Any) -> dict[str, Any]:
    """What GA4 holds of one call."""
    receipts, _ = settled(opened(vendor, **more), batch(made))
    assert receipts == [ASSUMED]
    return vendor.events[-1]


def test_each_client_has_requests_of_its_own_in_its_order(vendor: Ga4Server) -> None:
    events = [call(n, userId=f"u-{n % 3}") for n in range(90)]
    receipts, _ = settled(opened(vendor), batch(*events))
    assert receipts == [ASSUMED] * 90
    bodies = [json.loads(request.body) for request in vendor.requests]
    assert [len(body["events"]) for body in bodies] == [25, 5] * 3
    assert {body["user_id"]: body["client_id"] for body in bodies} == {f"u-{n}": client_id(f"u-{n}") for n in range(3)}
    for user in range(3):
        orders = [event["params"]["order_id"] for event in vendor.events if event["user_id"] == f"u-{user}"]
        assert orders == list(range(user, 90, 3))


def test_a_request_stays_below_130_kb(vendor: Ga4Server) -> None:
    wide = {f"p{n}": "x" * 500 for n in range(22)}
    receipts, _ = settled(opened(vendor, value_length=500), batch(*[call(n, properties=wide) for n in range(30)]))
    assert receipts == [ASSUMED] * 30
    assert max(len(request.body) for request in vendor.requests) < 130_000
    assert len(vendor.requests) == 3
    assert vendor.counted == 30


def test_client_ids_are_two_numbers_the_same_every_time(vendor: Ga4Server) -> None:
    assert sent(vendor, call(0, anonymousId="1234567890.987654321"))["client_id"] == "1234567890.987654321"
    first = sent(vendor, call(1, anonymousId="7c0f-a"))
    assert first["client_id"] == client_id("7c0f-a")
    assert first["user_id"] == "3"
    assert sent(vendor, call(2))["client_id"] == client_id("3") == "3456581765.3804158859"
    assert sent(vendor, call(3, userId=None, anonymousId="7c0f-a"))["user_id"] == ""


def test_a_call_keeps_its_numbers_its_time_and_its_id(vendor: Ga4Server) -> None:
    raw = '{"big":123456789012345678901234567890,"fraction":1234567890123456789.000000000000000001,"name":"日本 \\"x\\""}'
    at = ago(hours=71)
    held = sent(vendor, call(0, raw=raw, timestamp=at))
    assert held["name"] == "order_paid"
    assert raw[1:-1].encode() in vendor.requests[0].body
    assert held["params"]["message_id"] == message_id(0)
    assert held["sent"] == held["time"]
    assert f"{held['sent'] % 1_000_000:06d}Z" == at[-7:]


def test_values_that_ga4_does_not_know_become_texts(vendor: Ga4Server) -> None:
    given = {"yes": True, "no": False, "none": None, "list": [1, "a"], "items": [{"item_id": "sku", "price": 9.5}]}
    params = sent(vendor, call(0, properties=given), id_parameter=None)["params"]
    assert params == {"yes": "true", "no": "false", "list": '[1, "a"]', "items": [{"item_id": "sku", "price": 9.5}]}


@pytest.mark.parametrize(
    ("name", "taken"),
    [("Order Paid", "order_paid"), ("orderPaid", "orderPaid"), ("Order_2", "Order_2"), ("sign-up!", "sign_up")],
)
def test_names_are_changed_only_where_ga4_demands_it(name: str, taken: str, vendor: Ga4Server) -> None:
    held = sent(vendor, call(0, event=name, properties={name: 1}))
    assert held["name"] == taken
    assert held["params"][taken] == 1


def test_names_can_be_given(vendor: Ga4Server) -> None:
    made = call(0, properties={"Sum": 9.5, "products": []})
    held = sent(vendor, made, event_names={"Order Paid": "spend"}, parameter_names={"Sum": "value", "products": "items"})
    assert held["name"] == "spend"
    assert held["params"] == {"value": 9.5, "items": [], "message_id": message_id(0)}


def test_a_purchase_is_counted_once_by_its_transaction_id(vendor: Ga4Server) -> None:
    made = call(0, properties={"Order Id": 7, "value": 9.5})
    for _ in range(2):
        settled(opened(vendor, event_names={"Order Paid": "purchase"}, transaction_id="Order Id"), batch(made))
    [held] = vendor.events
    assert (held["params"]["transaction_id"], "order_id" in held["params"]) == (7, False)
    held = sent(vendor, call(1, event="purchase"))
    assert held["params"]["transaction_id"] == message_id(1)
    held = sent(vendor, call(2, event="purchase", properties={"transaction_id": "T-2"}))
    assert held["params"]["transaction_id"] == "T-2"


def test_a_page_is_a_page_view(vendor: Ga4Server) -> None:
    url = "https://x.example/" + "a" * 500
    held = sent(vendor, call(0, "page", name="Home", properties={"url": url, "title": "Home", "referrer": "r", "path": "/"}))
    assert held["name"] == "page_view"
    del held["params"]["message_id"]
    assert held["params"] == {"page_location": url, "page_title": "Home", "page_referrer": "r", "path": "/"}


def test_consent_is_said_of_the_request(vendor: Ga4Server) -> None:
    consent = {"categoryPreferences": {"ads": True, "ad_personalization": False}}
    held = sent(vendor, call(0, context={"consent": consent}), consent={"ad_user_data": "ads"})
    assert held["consent"] == {"ad_user_data": "GRANTED", "ad_personalization": "DENIED"}
    assert sent(vendor, call(1, context={"consent": {"categoryPreferences": {}}}))["consent"] == {}
    settled(opened(vendor), batch(call(2, context={"consent": consent}), call(3)))
    assert [event["consent"] for event in vendor.events[-2:]] == [{"ad_personalization": "DENIED"}, {}]


@pytest.mark.parametrize("reads", ["event", "params", "request"])
def test_an_events_time_is_found_wherever_it_is_looked_for(reads: str, vendor: Ga4Server) -> None:
    vendor.reads = reads
    made = [call(n, userId=f"u-{n}", timestamp=ago(hours=n)) for n in (1, 30, 60)]
    settled(opened(vendor), batch(*made))
    times = [datetime.fromisoformat(one.decoded()["timestamp"]).timestamp() * 1_000_000 for one in made]
    assert [event["time"] for event in vendor.events] == pytest.approx(times, abs=1)


def test_each_events_own_time_comes_before_the_requests(vendor: Ga4Server) -> None:
    times = [ago(hours=1), ago(hours=30), ago(hours=60)]
    settled(opened(vendor), batch(*[call(n, timestamp=at) for n, at in enumerate(times)]))
    [body] = [json.loads(request.body) for request in vendor.requests]
    own = [event["timestamp_micros"] for event in body["events"]]
    assert [event["params"]["timestamp_micros"] for event in body["events"]] == own
    assert len(set(own)) == 3
    assert body["timestamp_micros"] == own[-1]


def test_an_event_is_placed_where_its_person_was_and_not_where_the_worker_is(vendor: Ga4Server) -> None:
    context = {"ip": "203.0.113.9", "userAgent": "Mozilla/5.0 (iPhone)"}
    events = [call(0, context=context), call(1, context=context), call(2), call(3, context={"ip": "unknown", "userAgent": 7})]
    settled(opened(vendor), batch(*events))
    assert [(event["ip"], event["agent"]) for event in vendor.events] == [tuple(context.values())] * 2 + [(SENDER, SENDER)] * 2
    assert len(vendor.requests) == 2  # it is the whole request's


def test_200_items_go_and_a_long_id_as_one_made_of_it(vendor: Ga4Server) -> None:
    one = call(0, messageId="注" * 101, event="purchase", properties={"items": [{"item_id": n} for n in range(200)]})
    params = sent(vendor, one)["params"]
    assert len(params["items"]) == 200
    assert str(uuid.UUID(params["message_id"])) == params["message_id"] == params["transaction_id"]
    assert sent(vendor, call(1, userId="u" * 256))["user_id"] == "u" * 256
    assert sent(vendor, call(2, anonymousId="1" * 500 + ".1"))["client_id"] == client_id("1" * 500 + ".1") != "1" * 500 + ".1"


MANY = {f"p{n}": n for n in range(24)}
ITEMS = [{"item_id": n} for n in range(201)]


@pytest.mark.parametrize(
    ("made", "reason", "field"),
    [
        (call(1, timestamp=ago(hours=73)), "too_old", "timestamp"),
        (call(1, event="Käufe"), "invalid_name", "event"),
        (call(1, event="x" * 41), "invalid_name", "event"),
        (call(1, event="2nd Order"), "invalid_name", "event"),
        (call(1, event="Session Start"), "reserved_name", "event"),
        (call(1, event="ga_event"), "reserved_name", "event"),
        (call(1, event="screen_view"), "reserved_name", "event"),
        (call(1, properties={"größe": 1}), "invalid_name", "properties.größe"),
        (call(1, properties={"google_id": 1}), "reserved_name", "properties.google_id"),
        (call(1, properties={"firebase_conversion": 1}), "reserved_name", "properties.firebase_conversion"),
        (call(1, properties={"order id": 1, "order-id": 2}), "invalid_name", "properties.order-id"),
        (call(1, properties={"note": "é" * 101}), "value_too_long", "properties.note"),
        (call(1, properties={"list": ["x" * 101]}), "value_too_long", "properties.list"),
        (call(1, properties=MANY), "too_many_properties", "properties"),
        (call(1, "identify", traits={}), "not_supported", "type"),
        (call(1, "group", groupId="g"), "not_supported", "type"),
        (call(1, "alias", previousId="a"), "not_supported", "type"),
        (call(1, "screen", name="Main"), "not_supported", "type"),
        (call(1, properties={"items": ITEMS}), "too_many_properties", "properties.items"),
        (call(1, userId="u" * 257), "id_too_long", "userId"),
        (call(1, userId=None), "identity_missing", "userId"),
        (call(1, context={"consent": []}), "type_mismatch", "context.consent"),
    ],
)
def test_what_ga4_would_drop_or_falsify_is_refused_here_alone(made: Any, reason: str, field: str, vendor: Ga4Server) -> None:
    receipts, troubles = settled(opened(vendor), batch(call(0), made, call(2)))
    assert [receipt.outcome for receipt in receipts] == [Outcome.ASSUMED, Outcome.REJECTED, Outcome.ASSUMED]
    assert (receipts[1].reason, receipts[1].field) == (reason, field)
    assert receipts[1].detail
    assert not troubles
    assert len(vendor.events) == 2


def test_a_client_all_of_whose_events_are_refused_has_no_request(vendor: Ga4Server) -> None:
    destination = opened(vendor)
    receipts = destination.deliver(batch(call(0, userId="gone", event="!!!"), call(1)))
    destination.close()
    assert [receipt.outcome for receipt in receipts] == [Outcome.REJECTED, Outcome.ASSUMED]
    assert len(vendor.requests) == 1


def test_calls_without_a_counterpart_can_be_left_out(vendor: Ga4Server) -> None:
    receipts, _ = settled(opened(vendor, unsupported="skip"), batch(call(0), call(1, "identify", traits={})))
    assert receipts == [ASSUMED, SUPPRESSED]


def test_what_is_too_long_can_be_cut_and_what_is_too_old_be_sent(vendor: Ga4Server) -> None:
    made = call(0, properties={"note": "é" * 150, "short": "é" * 100}, timestamp="2024-01-02T03:04:05Z")
    held = sent(vendor, made, long_values="truncate", too_old="send")
    assert (held["params"]["note"], held["params"]["short"]) == ("é" * 100, "é" * 100)
    assert held["sent"] == 1_704_164_645_000_000 < held["time"]  # dated anew by GA4


def test_25_parameters_go_with_time_and_id_among_them(vendor: Ga4Server) -> None:
    assert len(sent(vendor, call(0, properties={f"p{n}": n for n in range(23)}))["params"]) == 24
    assert len(sent(vendor, call(1, properties=MANY), id_parameter=None)["params"]) == 24


def test_the_probe_asks_the_validation_server_and_sends_no_event(vendor: Ga4Server) -> None:
    destination = opened(vendor)
    destination.probe()
    assert vendor.requests[0].path.startswith("/debug/mp/collect?measurement_id=G-TEST123&")
    assert vendor.counted == 0
    vendor.answers(
        Answer(200, b'{"validationMessages":[{"description":"measurement_id s3cret+of/ga4 is odd"}]}'), Answer(200, b"hello")
    )
    with pytest.raises(DestinationBlocked, match="is odd") as caught:
        destination.probe()
    assert API_SECRET not in str(caught.value)
    with pytest.raises(DestinationBlocked, match="not that of the validation server"):
        destination.probe()
    destination.close()


def test_when_a_later_request_fails_only_the_rest_goes_again(vendor: Ga4Server) -> None:
    vendor.answers(Answer(204, b"", taken=True), Answer(503))
    receipts, troubles = settled(opened(vendor), batch(*[call(n, userId=f"u-{n}") for n in range(3)]))
    assert receipts == [ASSUMED] * 3
    assert len(troubles) == 1
    assert len(vendor.events) == 3


def test_a_request_without_an_answer_goes_again_with_the_same_bytes(vendor: Ga4Server) -> None:
    vendor.answers(Cut(taken=True))
    settled(opened(vendor), batch(call(0)))
    assert len({request.body for request in vendor.requests}) == 1
    assert len(vendor.events) == 2


def test_a_throttled_request_is_told_with_its_wait(vendor: Ga4Server) -> None:
    vendor.answers(Answer(429, headers={"Retry-After": "9"}))
    destination = opened(vendor)
    with pytest.raises(DestinationUnavailable) as caught:
        destination.deliver(batch(call(0)))
    destination.close()
    assert caught.value.retry_after == 9.0


def test_the_secret_is_in_no_error_and_no_log(vendor: Ga4Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="cdc_tracker")
    vendor.always(Answer(403, f"no {API_SECRET} s3cret%2Bof%2Fga4".encode()))
    destination = opened(vendor)
    with pytest.raises(DestinationBlocked) as caught:
        destination.deliver(batch(call(0)))
    destination.close()
    assert not any(secret in f"{caught.value} {caplog.text}" for secret in (API_SECRET, "s3cret%2B"))


def test_regions_and_settings() -> None:
    assert HOSTS == {"us": "https://www.google-analytics.com", "eu": "https://region1.google-analytics.com"}
    for wrong in ({"measurement_id": "UA-1"}, {"compression": "gzip"}, {"consent": {"other": "x"}}, {"id_parameter": 'a":1'}):
        with pytest.raises(ValidationError):
            Ga4Settings.model_validate({"type": "ga4", "measurement_id": "G-1", "api_secret": "s", **wrong})
