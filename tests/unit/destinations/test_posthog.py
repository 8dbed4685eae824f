"""PostHog: both APIs, identities, history."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cdc_tracker.destinations.posthog import HOSTS, PosthogDestination, PosthogSettings
from cdc_tracker.errors import DestinationBlocked, DestinationUnavailable, TooLarge
from cdc_tracker.model import ASSUMED, DELIVERED, Outcome
from tests.unit.destinations.translating import EXACT, ago, batch, call, message_id, settled
from tests.vendors.posthog import API_KEY, PosthogServer, settings
from tests.vendors.server import Answer


@pytest.fixture
def vendor() -> Iterator[PosthogServer]:
    with PosthogServer() as running:
        yield running


def opened(vendor: PosthogServer, **more: Any) -> PosthogDestination:
    made = PosthogSettings.model_validate({"type": "posthog", **settings(vendor.url), **more})
    return PosthogDestination("product", made, Path())


def sent(vendor: PosthogServer, *events: Any, **more: Any) -> dict[str, Any]:
    """What PostHog holds of one call."""
    destination = opened(vendor, **more)
    receipts, _ = settled(destination, batch(*events))
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED] * len(events)
    return vendor.held()[-1]


def test_v1_says_for_each_event_what_becomes_of_it(vendor: PosthogServer) -> None:
    vendor.results = {
        message_id(1): ("warning", "person_processing_disabled"),
        message_id(2): ("drop", "event_restriction_drop"),
        message_id(3): ("retry", "not_persisted"),
    }
    receipts, troubles = settled(opened(vendor), batch(*[call(n) for n in range(5)]))
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED] * 2 + [Outcome.REJECTED] + [Outcome.DELIVERED] * 2
    assert receipts[1].reason == "person_processing_disabled"
    assert (receipts[2].reason, "event_restriction_drop" in receipts[2].detail) == ("event_restriction_drop", True)
    assert len(troubles) == 1
    assert [len(json.loads(request.body)["batch"]) for request in vendor.requests] == [0, 5, 1]  # found out, sent, the one again


def test_events_over_the_billing_limit_go_again_until_there_is_room(vendor: PosthogServer) -> None:
    vendor.results = {message_id(0): ("drop", "billing_limit_exceeded")}
    receipts, troubles = settled(opened(vendor), batch(call(0), call(1)))
    assert receipts == [DELIVERED, DELIVERED]
    assert "billing_limit_exceeded" in str(troubles[0])


def test_an_event_without_a_result_is_assumed_and_does_not_go_again_for_ever(vendor: PosthogServer) -> None:
    vendor.answers(
        Answer(400, b'{"error":"empty_batch"}'), Answer(200, b'{"results":{"%b":{"result":"ok"}}}' % message_id(1).encode())
    )
    receipts, troubles = settled(opened(vendor), batch(call(0), call(1)))
    assert [(receipt.outcome, receipt.reason) for receipt in receipts] == [
        (Outcome.ASSUMED, "answer_unreadable"),
        (Outcome.DELIVERED, ""),
    ]
    assert troubles == []


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"", b"[]", b'{"results":3}', b"[" * 100_000])
def test_an_answer_that_is_not_v1s_is_no_proof_and_the_events_do_not_go_again(body: bytes, vendor: PosthogServer) -> None:
    vendor.answers(Answer(200, body))
    receipts, troubles = settled(opened(vendor, api="v1"), batch(call(0), call(1)))
    assert [(receipt.outcome, receipt.reason) for receipt in receipts] == [(Outcome.ASSUMED, "answer_unreadable")] * 2
    assert troubles == []
    assert len(vendor.requests) == 1


def test_a_server_without_v1_gets_v0_and_is_asked_once() -> None:
    with PosthogServer(without_v1=True) as older:
        destination = opened(older)
        assert destination.deliver(batch(call(0))) == [ASSUMED]
        assert destination.deliver(batch(call(1))) == [ASSUMED]
        destination.close()
        assert [request.path for request in older.requests] == ["/i/v1/analytics/events", "/batch/", "/batch/"]
        assert json.loads(older.requests[1].body)["api_key"] == API_KEY
        assert [one["messageId"] for one in older.held()] == [message_id(0), message_id(1)]


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_away_is_asked_again_which_it_has(status: int, vendor: PosthogServer) -> None:
    vendor.answers(Answer(status, headers={"Retry-After": "0"}))
    receipts, troubles = settled(opened(vendor), batch(call(0)))
    assert receipts == [DELIVERED]
    assert len(troubles) == 1


def test_a_wrong_key_blocks_and_is_shown_nowhere(vendor: PosthogServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    vendor.always(Answer(401, b'{"error":"invalid_api_token","error_description":"phc_wr0ng is no key"}'))
    destination = opened(vendor, api_key="phc_wr0ng")
    for attempt in (lambda: destination.deliver(batch(call(0))), destination.probe):
        with pytest.raises(DestinationBlocked, match="401") as caught:
            attempt()
        assert "phc_wr0ng" not in f"{caught.value} {caught.value.hint}"
    destination.close()
    assert "phc_wr0ng" not in caplog.text


def test_the_probe_sends_no_event(vendor: PosthogServer) -> None:
    destination = opened(vendor)
    destination.probe()
    destination.close()
    assert json.loads(vendor.requests[0].body)["batch"] == []
    assert vendor.held() == []


def test_a_throttled_batch_says_how_long_to_wait(vendor: PosthogServer) -> None:
    vendor.answers(Answer(429, headers={"Retry-After": "7"}))
    destination = opened(vendor, api="v1")
    with pytest.raises(DestinationUnavailable) as caught:
        destination.deliver(batch(call(0)))
    destination.close()
    assert caught.value.retry_after == 7.0


def test_a_request_that_is_too_large_is_divided() -> None:
    with PosthogServer(batch_bytes=1_500) as small:
        destination = opened(small, api="v1")
        with pytest.raises(TooLarge):
            destination.deliver(batch(*[call(n) for n in range(20)]))
        receipts, _ = settled(destination, batch(*[call(n) for n in range(20)]))
        assert receipts == [DELIVERED] * 20
        assert len(small.held()) == 20


@pytest.mark.parametrize(
    ("ids", "requests"),
    [
        ([0, 0, 1], 2),
        ([*range(999), 998], 2),
        ([n // 2 for n in range(1_000)], 2),
        ([*range(500), *range(500)], 2),
        ([n % 5 for n in range(30)], 6),
    ],
    ids=["one", "the last", "in a row", "500 apart", "six times"],
)
def test_equal_ids_in_a_batch_go_in_as_few_requests_as_one_of_them_is_there(
    ids: list[int], requests: int, vendor: PosthogServer
) -> None:
    """v1 refuses such a batch as a whole. Content-derived ids (`id: [new.id]`) make them."""
    made = [call(n, event=f"Step {k}", userId=f"u-{n}") for k, n in enumerate(ids)]
    receipts, troubles = settled(opened(vendor, api="v1"), batch(*made))
    assert (receipts, troubles) == ([DELIVERED] * len(ids), [])
    assert len(vendor.requests) == requests
    assert len(vendor.held()) == len(ids)
    steps = [(one["messageId"], int(one["event"][5:])) for one in vendor.held()]
    assert all(sorted(k for i, k in steps if i == each) == [k for i, k in steps if i == each] for each, _ in steps)


def test_each_of_equal_ids_has_its_own_receipt(vendor: PosthogServer) -> None:
    made = [call(0, event="A"), call(0, event=""), call(0, event="C"), call(1)]
    receipts, _ = settled(opened(vendor, api="v1"), batch(*made))
    assert [receipt.reason for receipt in receipts] == ["", "missing_event_name", "", ""]
    assert sorted(one["event"] for one in vendor.held()) == ["A", "C", "Order Paid"]


def test_what_is_told_of_a_person_keeps_its_place_among_equal_ids(vendor: PosthogServer) -> None:
    made = [
        call(0, "identify", traits={"plan": "free"}),
        call(0, "identify", traits={"plan": "pro"}),
        call(1),
        call(2, "identify", traits={"plan": "team"}),
        call(3, userId="other"),
    ]
    settled(opened(vendor, api="v1"), batch(*made))
    sent = [[one["uuid"][-1] for one in json.loads(request.body)["batch"]] for request in vendor.requests]
    assert sent == [["0", "3"], ["0", "1", "2"]]


def test_an_event_says_that_a_server_sent_it_and_with_which_library(vendor: PosthogServer) -> None:
    """In v1 the library is a header, from which PostHog makes `$lib`."""
    assert sent(vendor, call(0))["properties"]["$is_server"] is True
    assert vendor.requests[-1].headers["posthog-sdk-info"].startswith("cdc-tracker/")
    with PosthogServer(without_v1=True) as older:
        settled(opened(older), batch(call(0)))
        [held] = older.held()
    assert (held["properties"]["$is_server"], held["properties"]["$lib"]) == (True, "cdc-tracker")


def test_a_track_call_keeps_its_bytes_and_its_time(vendor: PosthogServer) -> None:
    held = sent(vendor, call(0, raw=EXACT, timestamp="2026-01-02T03:04:05.000006Z", groupId="acme"))
    assert held["event"] == "Order Paid"
    assert (held["userId"], held["messageId"]) == ("3", message_id(0))
    assert held["timestamp"] == "2026-01-02T03:04:05.000006Z"
    assert EXACT[1:].encode() in vendor.requests[-1].body
    assert held["properties"]["fraction"] == Decimal("1234567890123456789.000000000000000001")
    assert held["properties"]["$groups"] == {"company": "acme"}
    assert held["properties"]["$geoip_disable"] is True
    assert held["options"] == {"disable_skew_correction": True}


def test_the_address_in_the_context_is_the_persons(vendor: PosthogServer) -> None:
    properties = sent(vendor, call(0, context={"ip": "192.0.2.7", "groupId": "acme"}))["properties"]
    assert properties["$ip"] == "192.0.2.7"
    assert "$geoip_disable" not in properties
    assert properties["$groups"] == {"company": "acme"}


def test_an_event_of_nobody_known_makes_no_person(vendor: PosthogServer) -> None:
    held = sent(vendor, call(0, userId=None, anonymousId="a-1"))
    assert (held["userId"], held["options"]["process_person_profile"]) == ("a-1", False)
    held = sent(vendor, call(1, userId=None, anonymousId="a-1"), person_profiles="always")
    assert "process_person_profile" not in held["options"]
    with PosthogServer(without_v1=True) as older:
        settled(opened(older), batch(call(0, userId=None, anonymousId="a-1"), call(1)))
        assert [one["properties"].get("$process_person_profile") for one in older.held()] == [False, None]


def test_identify_joins_the_anonymous_one_and_sets_the_traits(vendor: PosthogServer) -> None:
    held = sent(vendor, call(0, "identify", anonymousId="a-1", traits={"plan": "pro"}))
    assert (held["event"], held["userId"]) == ("$identify", "3")
    assert held["properties"] == {
        "$anon_distinct_id": "a-1",
        "$set": {"plan": "pro"},
        "$geoip_disable": True,
        "$is_server": True,
    }
    held = sent(vendor, call(1, "identify", traits={"plan": "pro"}))
    assert "$anon_distinct_id" not in held["properties"]
    held = sent(vendor, call(2, "identify", userId=None, anonymousId="a-1", traits={"plan": "pro"}))
    assert (held["event"], held["userId"], held["properties"]["$set"]) == ("$set", "a-1", {"plan": "pro"})


def test_alias_group_page_and_screen_take_posthogs_names(vendor: PosthogServer) -> None:
    held = sent(vendor, call(0, "alias", previousId="a-1"))
    assert (held["event"], held["userId"], held["properties"]["alias"]) == ("$create_alias", "3", "a-1")
    held = sent(vendor, call(1, "group", groupId="acme", traits={"seats": 5}), group_type="team")
    assert (held["event"], held["userId"]) == ("$groupidentify", "3")
    expected = {"$group_type": "team", "$group_key": "acme", "$group_set": {"seats": 5}}
    assert expected.items() <= held["properties"].items()
    held = sent(vendor, call(2, "group", groupId="acme", userId=None))
    assert held["userId"] == "$company_acme"
    held = sent(vendor, call(3, "page", name="Home", properties={"url": "https://x.example/", "n": 1}))
    assert held["event"] == "$pageview"
    assert {"$current_url": "https://x.example/", "name": "Home", "n": 1}.items() <= held["properties"].items()
    held = sent(vendor, call(4, "screen", name="Main"))
    assert (held["event"], held["properties"]["$screen_name"]) == ("$screen", "Main")


@pytest.mark.parametrize(
    ("made", "reason", "field"),
    [
        (call(1, userId="ж" * 101), "id_too_long", "userId"),
        (call(1, userId=None, anonymousId="x" * 201), "id_too_long", "anonymousId"),
        (call(1, event="é" * 101), "invalid_name", "event"),
        (call(1, "identify", userId="null"), "id_invalid", "userId"),
        (call(1, "identify", anonymousId="Anonymous "), "id_invalid", "anonymousId"),
        (call(1, "alias", previousId="undefined"), "id_invalid", "previousId"),
        (call(1, "group"), "identity_missing", "groupId"),
        (call(1, timestamp="yesterday"), "timestamp_invalid", "timestamp"),
        (call(1, userId=None), "identity_missing", "userId"),
        (call(1, context={"ip": 7}), "type_mismatch", "context.ip"),
        (call(1, "page", properties={"url": 7}), "type_mismatch", "url"),
    ],
)
def test_what_posthog_would_not_take_is_refused_here_alone(made: Any, reason: str, field: str, vendor: PosthogServer) -> None:
    receipts, troubles = settled(opened(vendor), batch(call(0), made, call(2)))
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, Outcome.REJECTED, Outcome.DELIVERED]
    assert (receipts[1].reason, receipts[1].field) == (reason, field)
    assert not troubles
    assert len(vendor.held()) == 2


def test_an_id_that_is_no_uuid_becomes_one_the_same_every_time(vendor: PosthogServer) -> None:
    settled(opened(vendor), batch(call(0, messageId="order-7")))
    settled(opened(vendor), batch(call(0, messageId="order-7")))
    assert vendor.repeated == 1
    assert len(vendor.held()) == 1


def test_old_events_and_history_go_as_a_historical_migration(vendor: PosthogServer) -> None:
    settled(opened(vendor), batch(call(0), call(1, timestamp=ago(hours=49)), call(2, timestamp=ago(hours=47))))
    settled(opened(vendor), batch(call(3), history=True))
    assert vendor.historical == {message_id(0): False, message_id(1): True, message_id(2): False, message_id(3): True}


def test_when_the_second_request_fails_only_its_events_go_again(vendor: PosthogServer) -> None:
    destination = opened(vendor, api="v1")
    ok = json.dumps({"results": {message_id(1): {"result": "ok"}}}).encode()
    vendor.answers(Answer(200, ok, taken=True), Answer(503))
    receipts, troubles = settled(destination, batch(call(0), call(1, timestamp=ago(days=9))))
    assert receipts == [DELIVERED, DELIVERED]
    assert len(troubles) == 1
    assert [len(json.loads(request.body)["batch"]) for request in vendor.requests] == [1, 1, 1]
    assert vendor.repeated == 0


def test_a_retry_has_the_same_body(vendor: PosthogServer) -> None:
    vendor.answers(Answer(503))
    settled(opened(vendor, api="v1"), batch(call(0), call(1)))
    assert len({request.body for request in vendor.requests}) == 1
    assert vendor.requests[0].headers["content-encoding"] == "gzip"
    assert len({request.headers["posthog-request-id"] for request in vendor.requests}) == 1


def test_regions_and_own_hosts() -> None:
    assert HOSTS == {"us": "https://us.i.posthog.com", "eu": "https://eu.i.posthog.com"}
    made = PosthogSettings.model_validate({"type": "posthog", "api_key": "phc_x", "host": "https://ph.example/"})
    assert made.host == "https://ph.example"
    with pytest.raises(ValidationError):
        PosthogSettings.model_validate({"type": "posthog", "api_key": "phc_x", "host": "ph.example"})
    assert "phc_x" not in repr(made)
