"""Mixpanel: how each call is translated, and what each answer means."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.destinations.registry import load
from cdc_tracker.errors import BatchRejected, CdcTrackerError, DestinationBlocked, DestinationUnavailable, TooLarge
from cdc_tracker.model import ASSUMED, DELIVERED, Batch, Event, Outcome, Position, Receipt
from tests.proxy import closed_proxy
from tests.vendors.kit import made
from tests.vendors.mixpanel import INVALID, MixpanelServer
from tests.vendors.server import Answer, Request

TOKEN = "mp-9c1f07"
QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)
AT = "2026-01-02T03:04:05.006007Z"
MILLISECONDS = 1767323045006
ANONYMOUS = "c81e728d-9d4c-4f63-af06-7f89cc14862c"


@pytest.fixture
def vendor() -> Iterator[MixpanelServer]:
    with MixpanelServer(token=TOKEN) as running:
        yield running


@pytest.fixture
def mixpanel(vendor: MixpanelServer) -> Iterator[Destination]:
    destination = opened(vendor.url)
    yield destination
    destination.close()


def opened(url: str, **settings: Any) -> Destination:
    return made("mixpanel", Path(), token=TOKEN, endpoint=url, **settings)()


def call(n: int = 0, kind: str = "track", **fields: Any) -> Event:
    """`user` and the like: None leaves them out."""
    named = {"event": "Order Paid"} if kind == "track" else {}
    body = {"type": kind, **named, "messageId": f"00000000-0000-5000-8000-{n:012d}", "userId": "u-1", "timestamp": AT} | fields
    text = json.dumps({key: value for key, value in body.items() if value is not None}, ensure_ascii=False)
    return Event(str(body["messageId"]), kind, text.encode(), "m", Position(100, n), 1_700_000_000_123_456)


def deliver(destination: Destination, *events: Event) -> list[Receipt]:
    return destination.deliver(Batch(events, Position(500, -1)))


def settled(destination: Destination, *events: Event) -> tuple[list[Receipt], list[CdcTrackerError]]:
    troubles: list[CdcTrackerError] = []
    made = Batch(events, Position(500, -1))
    return send(destination, made, stop=lambda: False, on_trouble=troubles.append, backoff=QUICK), troubles


def records(request: Request) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(request.body, parse_float=Decimal)
    return found


def refusal(receipt: Receipt) -> tuple[str, str]:
    assert receipt.outcome is Outcome.REJECTED
    assert receipt.detail
    return receipt.reason, receipt.field


# Translation.


def test_a_track_becomes_an_event_by_import_and_its_properties_stay_as_they_are(
    vendor: MixpanelServer, mixpanel: Destination
) -> None:
    exact = '{"big":123456789012345678901234567890,"fraction":0.100000000000000000000001,"é":"日本 😀","none":null,"o":{"a":[1]}}'
    event = call(1, anonymousId=ANONYMOUS, properties={"x": 1})
    event = Event(event.message_id, "track", event.body.replace(b'{"x": 1}', exact.encode()), "m", event.position, 0)
    assert deliver(mixpanel, event) == [DELIVERED]
    [request] = vendor.requests
    assert request.path == "/import?strict=1"
    assert request.headers["content-encoding"] == "gzip"
    assert exact[1:-1].encode() in request.body
    [record] = records(request)
    assert record["event"] == "Order Paid"
    ours = {"time": MILLISECONDS, "$insert_id": event.message_id, "$user_id": "u-1", "$device_id": ANONYMOUS}
    assert record["properties"] == json.loads(exact, parse_float=Decimal) | ours
    assert vendor.joined == {ANONYMOUS: "u-1"}


@pytest.mark.parametrize(
    ("fields", "name", "properties"),
    [
        ({"kind": "page", "name": "Home", "properties": {"url": "/"}}, "Page Viewed", {"name": "Home", "url": "/"}),
        ({"kind": "screen", "name": "Main", "properties": {}}, "Screen Viewed", {"name": "Main"}),
        ({"kind": "screen", "name": "Main", "properties": {"name": "own"}}, "Screen Viewed", {"name": "own"}),
        ({"kind": "page"}, "Page Viewed", {}),
        ({"kind": "track", "properties": {" ": {}}}, "Order Paid", {" ": {}}),
        ({"kind": "track"}, "Order Paid", {}),
        ({"kind": "track", "context": {"groupId": "g7"}, "properties": {"a": 1}}, "Order Paid", {"a": 1, "company": "g7"}),
    ],
)
def test_calls_that_become_events(
    fields: dict[str, Any], name: str, properties: dict[str, Any], vendor: MixpanelServer, mixpanel: Destination
) -> None:
    assert deliver(mixpanel, call(**fields)) == [DELIVERED]
    [held] = vendor.held()
    assert (held["event"], held["properties"], held["userId"]) == (name, properties, "u-1")


def test_an_identify_sets_the_profile_and_links_the_device(vendor: MixpanelServer, mixpanel: Destination) -> None:
    receipts = deliver(mixpanel, call(1, "identify", anonymousId=ANONYMOUS, traits={"plan": "pro", "n": 1.50}))
    assert receipts == [DELIVERED]
    assert vendor.profiles == {"u-1": {"plan": "pro", "n": Decimal("1.5")}}
    assert vendor.joined == {ANONYMOUS: "u-1"}
    link, profile = vendor.requests
    assert records(link)[0]["event"] == "$identify"
    assert profile.path == "/engage?strict=1&verbose=1&ip=0"
    assert "content-encoding" not in profile.headers
    assert records(profile) == [
        {
            "$token": TOKEN,
            "$distinct_id": "u-1",
            "$time": int(datetime.fromisoformat(AT).timestamp()),
            "$ignore_time": True,
            "$set": {"plan": "pro", "n": Decimal("1.5")},
        }
    ]


def test_a_profile_is_not_seen_now_because_its_row_changed(vendor: MixpanelServer, mixpanel: Destination) -> None:
    """Only the application knows that the person is there: `context.active`, as the Segment spec has it."""
    backfill = Batch([call(1, "identify", timestamp="2019-05-06T07:08:09Z")], Position(500, -1), history=True)
    mixpanel.deliver(backfill)
    assert vendor.seen == {}
    deliver(
        mixpanel, call(2, "identify", context={"active": False}), call(3, "identify", userId="u-2", context={"active": "yes"})
    )
    assert vendor.seen == {}
    deliver(mixpanel, call(4, "identify", userId="u-3", context={"active": True}))
    assert list(vendor.seen) == ["u-3"]


def test_an_older_update_of_a_profile_does_not_undo_a_newer_one(vendor: MixpanelServer, mixpanel: Destination) -> None:
    """A rewind beside the live stream: Mixpanel goes by `$time`."""
    deliver(mixpanel, call(1, "identify", traits={"plan": "pro"}), call(1, "group", groupId="g", traits={"size": 2}))
    old = "2019-05-06T07:08:09Z"
    late = [
        call(2, "identify", traits={"plan": "free"}, timestamp=old),
        call(2, "group", groupId="g", traits={"size": 1}, timestamp=old),
    ]
    deliver(mixpanel, *late)
    assert vendor.profiles == {"u-1": {"plan": "pro"}}
    assert vendor.groups == {("company", "g"): {"size": 2}}


@pytest.mark.parametrize("message_id", ["order_17", "order:17", "größe", "x" * 37, "null", "0", "", "no such id!"])
def test_an_id_that_mixpanel_does_not_take_goes_as_one_made_of_it(
    message_id: str, vendor: MixpanelServer, mixpanel: Destination
) -> None:
    for _ in range(2):
        assert deliver(mixpanel, call(0, messageId=message_id), call(1, messageId="order-17")) == [DELIVERED] * 2
    ids = [record["properties"]["$insert_id"] for record in vendor.events.values()]
    assert ids == [str(uuid.UUID(ids[0])), "order-17"]
    assert vendor.repeated == 2


def test_an_identify_of_one_id_only_sets_the_profile(vendor: MixpanelServer, mixpanel: Destination) -> None:
    deliver(mixpanel, call(1, "identify", traits={"a": 1}), call(2, "identify", userId=None, anonymousId="d-1", traits=None))
    assert vendor.profiles == {"u-1": {"a": 1}, "$device:d-1": {}}
    assert len(vendor.requests) == 1


def test_a_group_call_sets_the_groups_profile(vendor: MixpanelServer) -> None:
    destination = opened(vendor.url, group_key="team")
    assert deliver(destination, call(1, "group", groupId="g7", traits={"seats": 3})) == [DELIVERED]
    assert vendor.groups == {("team", "g7"): {"seats": 3}}
    destination.close()


def test_an_alias_is_refused_with_simplified_id_merge(vendor: MixpanelServer, mixpanel: Destination) -> None:
    receipts = deliver(mixpanel, call(0), call(1, "alias", previousId="old"), call(2))
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, Outcome.REJECTED, Outcome.DELIVERED]
    assert receipts[1].reason == "not_supported"
    assert len(vendor.events) == 2


def test_original_id_merge_has_events_of_its_own(vendor: MixpanelServer) -> None:
    destination = opened(vendor.url, id_merge="original")
    events = [
        call(0, anonymousId="d-1"),
        call(1, userId=None, anonymousId="d-1"),
        call(2, "identify", anonymousId=ANONYMOUS),
        call(3, "identify", userId=None, anonymousId="d-1"),
        call(4, "alias", previousId="old"),
    ]
    assert {receipt.outcome for receipt in deliver(destination, *events)} == {Outcome.DELIVERED}
    sent = [record for request in vendor.requests if "import" in request.path for record in records(request)]
    ids = [{k: v for k, v in one["properties"].items() if k not in ("time", "$insert_id")} for one in sent]
    assert [one["event"] for one in sent] == ["Order Paid", "Order Paid", "$identify", "$create_alias"]
    assert ids[:2] == [{"distinct_id": "u-1"}, {"distinct_id": "d-1"}]
    assert ids[2] == {"distinct_id": "u-1", "$identified_id": "u-1", "$anon_id": ANONYMOUS, "token": TOKEN}
    assert ids[3] == {"distinct_id": "old", "alias": "u-1", "token": TOKEN}
    assert vendor.profiles == {"u-1": {}, "d-1": {}}
    destination.close()


def test_kinds_of_calls_share_requests(vendor: MixpanelServer, mixpanel: Destination) -> None:
    events = [
        call(3 * n + k, kind, userId=f"u-{n}", groupId="g" if kind == "group" else None)
        for n in range(30)
        for k, kind in enumerate(("identify", "track", "group"))
    ]
    assert set(deliver(mixpanel, *events)) == {DELIVERED}
    assert sorted(request.path.partition("?")[0] for request in vendor.requests) == ["/engage", "/groups", "/import"]


def test_the_same_event_gives_the_same_bytes(vendor: MixpanelServer, mixpanel: Destination) -> None:
    deliver(mixpanel, call(1, timestamp=None))
    deliver(mixpanel, call(1, timestamp=None))
    assert len({request.body for request in vendor.requests}) == 1
    assert vendor.held()[0]["timestamp"] == "2023-11-14T22:13:20.123000Z"
    assert vendor.repeated == 1


# What is refused here.


@pytest.mark.parametrize("name", [*sorted(INVALID - {""}), "NULL", "Anonymous"])
def test_an_id_that_names_nobody_is_refused_here(name: str, vendor: MixpanelServer, mixpanel: Destination) -> None:
    events = [
        call(0, userId=name),
        call(1, anonymousId=name),
        call(2, "identify", userId=name),
        call(3, "group", groupId=name),
        call(4),
    ]
    receipts = deliver(mixpanel, *events)
    fields = ["userId", "anonymousId", "userId", "groupId"]
    assert [refusal(receipt) for receipt in receipts[:4]] == [("id_invalid", field) for field in fields]
    assert receipts[4] == DELIVERED
    assert len(vendor.events) == 1


def deep(levels: int) -> dict[str, Any]:
    return {"x": deep(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({f"k{n}": n for n in range(255)}, ("too_many_properties", "properties")),
        ({"o": {f"k{n}": n for n in range(255)}}, ("too_many_properties", "properties.o")),
        ({"l": list(range(255))}, ("too_many_properties", "properties.l")),
        ({"a": deep(3)}, ("too_deep", "properties.a.x.x.x")),
        ({"l": [deep(3)]}, ("too_deep", "properties.l.x.x.x")),
        ({"time": 1}, ("reserved_name", "properties.time")),
        ({"a": 1, "$user_id": "x"}, ("reserved_name", "properties.$user_id")),
    ],
)
def test_properties_beyond_the_limits_are_refused_here(
    properties: dict[str, Any], expected: tuple[str, str], vendor: MixpanelServer, mixpanel: Destination
) -> None:
    receipts = deliver(mixpanel, call(0), call(1, properties=properties), call(2))
    assert refusal(receipts[1]) == expected
    assert [receipts[0], receipts[2]] == [DELIVERED, DELIVERED]
    assert len(vendor.events) == 2


@pytest.mark.parametrize(
    "properties",
    [
        {f"k{n}": n for n in range(245)},
        {"l": list(range(254)), "m": list(range(254))},
        {"a": deep(2), "b": [{}, {}, {}, {}, {}]},
        {"text": '{{{{{{ ,,,, time "time" \'"', "o": {"time": 1}, "times": 2},
    ],
)
def test_properties_within_the_limits_are_taken(
    properties: dict[str, Any], vendor: MixpanelServer, mixpanel: Destination
) -> None:
    assert deliver(mixpanel, call(1, properties=properties)) == [DELIVERED]
    assert vendor.held()[0]["properties"] == properties


def test_limits_hold_for_profiles_and_groups_too(vendor: MixpanelServer, mixpanel: Destination) -> None:
    receipts = deliver(mixpanel, call(1, "identify", traits={"a": deep(3)}), call(2, "group", groupId="g", traits={"a": deep(3)}))
    assert [refusal(receipt)[0] for receipt in receipts] == ["too_deep", "too_deep"]
    assert vendor.requests == []


def test_times_that_mixpanel_refuses_are_refused_here(vendor: MixpanelServer, mixpanel: Destination) -> None:
    now = datetime.now(UTC)
    times = [
        "1970-12-31T23:59:59Z",
        (now + timedelta(minutes=61)).isoformat(),
        "yesterday",
        "1971-01-01T00:00:00Z",
        now.isoformat(),
    ]
    receipts = deliver(mixpanel, *(call(n, timestamp=text) for n, text in enumerate(times)))
    assert [receipt.reason for receipt in receipts] == ["too_old", "in_the_future", "timestamp_invalid", "", ""]
    assert len(vendor.events) == 2


# Answers.


def test_rows_that_mixpanel_names_are_rejected_and_the_others_have_landed(vendor: MixpanelServer, mixpanel: Destination) -> None:
    receipts, troubles = settled(mixpanel, call(0), call(1, event=""), call(2))
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, Outcome.REJECTED, Outcome.DELIVERED]
    assert receipts[1] == Receipt(Outcome.REJECTED, "refused", "event", "'event' is invalid: must be a non-empty string")
    assert (troubles, len(vendor.requests), len(vendor.events)) == ([], 1, 2)


@pytest.mark.parametrize(
    "body",
    [
        {"error": "what is this", "code": 400},
        {"failed_records": [{"index": 9, "field": "x", "message": "y"}], "num_records_imported": 1},
        {"failed_records": [{"index": 0, "field": "x", "message": "y"}], "num_records_imported": 0},
    ],
)
def test_a_400_that_does_not_add_up_is_unexplained(body: dict[str, Any], vendor: MixpanelServer, mixpanel: Destination) -> None:
    vendor.answers(Answer(400, json.dumps(body).encode()))
    with pytest.raises(BatchRejected):
        deliver(mixpanel, call(0), call(1))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(413, b'{"error":"request exceeds max limit"}'), TooLarge),
        (Answer(429, headers={"Retry-After": "7"}), DestinationUnavailable),
        (Answer(502), DestinationUnavailable),
        (Answer(503), DestinationUnavailable),
        (Answer(401, b'{"error":"Invalid credentials"}'), DestinationBlocked),
        (Answer(403), DestinationBlocked),
    ],
)
def test_answers_that_take_nothing(
    answer: Answer, error: type[CdcTrackerError], vendor: MixpanelServer, mixpanel: Destination
) -> None:
    vendor.answers(answer)
    with pytest.raises(error) as caught:
        deliver(mixpanel, call(0))
    assert type(caught.value) is error
    if answer.status == 429:
        assert isinstance(caught.value, DestinationUnavailable)
        assert caught.value.retry_after == 7.0


def test_a_request_above_mixpanels_limit_goes_in_parts() -> None:
    with MixpanelServer(token=TOKEN, batch_bytes=1_500) as vendor:
        destination = opened(vendor.url)
        receipts, _ = settled(destination, *(call(n) for n in range(30)))
        assert receipts == [DELIVERED] * 30
        assert len(vendor.events) == 30
        destination.close()


@pytest.mark.parametrize(
    ("body", "receipt"),
    [(b"1", ASSUMED), (b'{"status":1,"error":null}', ASSUMED), (b'{"code":200,"num_records_imported":1}', DELIVERED)],
)
def test_what_the_answer_to_a_profile_proves(
    body: bytes, receipt: Receipt, vendor: MixpanelServer, mixpanel: Destination
) -> None:
    vendor.answers(Answer(body=body))
    assert deliver(mixpanel, call(0, "identify")) == [receipt]


@pytest.mark.parametrize("body", [b"0", b'{"status":0,"error":"$distinct_id, missing or empty"}'])
def test_a_profile_that_is_refused_in_a_200_is_found_by_halving(
    body: bytes, vendor: MixpanelServer, mixpanel: Destination
) -> None:
    vendor.answers(Answer(body=body), Answer(body=body))
    receipts, _ = settled(mixpanel, call(0, "identify"), call(1, "identify", userId="u-2"))
    assert [receipt.reason for receipt in receipts] == ["refused", ""]
    assert list(vendor.profiles) == ["u-2"]


def test_profiles_that_are_named_are_rejected(vendor: MixpanelServer, mixpanel: Destination) -> None:
    fault = {"num_records_imported": 1, "failed_records": [{"index": 1, "message": "bad"}]}
    for status in (200, 400):
        vendor.answers(Answer(status, json.dumps(fault).encode()))
        receipts = deliver(mixpanel, call(0, "identify"), call(1, "identify", userId="u-2"))
        assert receipts == [DELIVERED, Receipt(Outcome.REJECTED, "refused", "", "bad")]


# Credentials and addresses.


def test_a_service_account_goes_with_its_project() -> None:
    with MixpanelServer(token=TOKEN, account=("me", "sAs3cret"), project_id="42") as vendor:
        destination = opened(vendor.url, service_account="me", service_secret="sAs3cret", project_id=42)
        assert deliver(destination, call(0)) == [DELIVERED]
        destination.probe()
        destination.close()
        for account in ({}, {"service_account": "me", "service_secret": "wrong", "project_id": 42}):
            destination = opened(vendor.url, **account)
            with pytest.raises(DestinationBlocked):
                destination.probe()
            destination.close()
    assert len(vendor.events) == 1


@pytest.mark.parametrize("given", [{"service_account": "me"}, {"project_id": 1}, {"service_secret": "x", "project_id": 1}])
def test_half_an_account_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="go together"):
        load("mixpanel").Settings.model_validate({"type": "mixpanel", "token": TOKEN, **given})


@pytest.mark.parametrize(("region", "host"), [("us", "api"), ("eu", "api-eu"), ("in", "api-in")])
def test_the_region_names_the_host(region: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_proxy(monkeypatch) as asked:
        destination = made("mixpanel", Path(), token=TOKEN, region=region)()
        with pytest.raises(CdcTrackerError):
            deliver(destination, call(0))
        destination.close()
    assert asked == [f"{host}.mixpanel.com"]


def test_no_secret_is_in_any_error(vendor: MixpanelServer, caplog: pytest.LogCaptureFixture) -> None:
    destination = opened(vendor.url, service_account="me", service_secret="sAs/3cret", project_id=42)
    texts = [repr(destination)]
    for status in (400, 401, 413, 500):
        vendor.answers(Answer(status, f"{TOKEN} sAs/3cret sAs%2F3cret bWU6c0FzLzNjcmV0".encode()))
        with pytest.raises(CdcTrackerError) as caught:
            deliver(destination, call(0))
        texts += [str(caught.value), caught.value.hint]
    destination.close()
    assert not re.search(r"sAs|bWU6|" + TOKEN, "".join([*texts, caplog.text]))


def test_a_batch_that_meets_an_outage_between_its_requests_goes_again_as_a_whole(
    vendor: MixpanelServer, mixpanel: Destination
) -> None:
    vendor.answers(Answer(200, b'{"num_records_imported":1}', taken=True), Answer(503))
    receipts, troubles = settled(mixpanel, call(0), call(1, "identify", traits={"a": 1}))
    assert receipts == [DELIVERED, DELIVERED]
    assert (len(troubles), vendor.repeated, vendor.profiles) == (1, 1, {"u-1": {"a": 1}})
