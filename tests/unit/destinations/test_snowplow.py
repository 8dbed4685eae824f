"""Snowplow: schemas, fields, entities, what is collected and what is valid."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cdc_tracker.delivery.batcher import split_by_limits
from cdc_tracker.destinations.snowplow import SnowplowDestination, SnowplowSettings
from cdc_tracker.errors import DestinationUnavailable, TooLarge
from cdc_tracker.model import ASSUMED, Outcome
from tests.unit.destinations.translating import EXACT, batch, call, message_id, settled
from tests.vendors.server import Answer
from tests.vendors.snowplow import SENDER, SnowplowServer

PAID = "iglu:com.acme/order_paid/jsonschema/2-0-1"


@pytest.fixture
def vendor() -> Iterator[SnowplowServer]:
    with SnowplowServer() as running:
        yield running


def opened(vendor: SnowplowServer, /, **more: Any) -> SnowplowDestination:
    given = {"type": "snowplow", "collector": vendor.url, "app_id": "shop", **more}
    return SnowplowDestination("product", SnowplowSettings.model_validate(given), Path())


def sent(vendor: SnowplowServer, made: Any, **more: Any) -> dict[str, Any]:
    """What is valid of one call."""
    receipts, _ = settled(opened(vendor, **{"vendor": "com.acme", **more}), batch(made))
    assert receipts == [ASSUMED]
    assert vendor.bad == []
    return vendor.good[-1]


def parameters(good: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = good["rawEvent"]["parameters"]
    return found


def test_a_track_call_is_a_self_describing_event(vendor: SnowplowServer) -> None:
    made = call(0, raw=EXACT, anonymousId="b-1", timestamp="2026-01-02T03:04:05.678901Z")
    good = sent(vendor, made, schemas={"Order Paid": PAID}, namespace="cdc")
    assert good["schema"] == PAID
    given = parameters(good)
    described = given.pop("ue_pr")
    assert EXACT in described
    assert given == {
        "e": "ue",
        "p": "srv",
        "tv": "cdc-tracker",
        "tna": "cdc",
        "aid": "shop",
        "eid": message_id(0),
        "dtm": "1767323045678",
        "ttm": "1767323045678",
        "uid": "3",
        "duid": "b-1",
    }


def test_a_schema_is_declared_or_made_by_the_rule(vendor: SnowplowServer) -> None:
    assert sent(vendor, call(0))["schema"] == "iglu:com.acme/order_paid/jsonschema/1-0-0"
    assert sent(vendor, call(1), version="3-1-4")["schema"] == "iglu:com.acme/order_paid/jsonschema/3-1-4"
    assert sent(vendor, call(2), schemas={"Order Paid": PAID})["schema"] == PAID
    identify = "iglu:com.acme/user/jsonschema/1-0-0"
    assert sent(vendor, call(3, "identify", traits={"plan": "pro"}), schemas={"identify": identify})["schema"] == identify


def test_the_other_calls_say_what_snowplow_has_no_field_for(vendor: SnowplowServer) -> None:
    def data(made: Any) -> Any:
        return sent(vendor, made)["event"]["unstruct_event"]["data"]

    assert data(call(0, "identify", traits={"plan": "pro"})) == {"plan": "pro"}
    assert data(call(1, "group", groupId="acme", traits={"seats": 5})) == {"group_id": "acme", "seats": 5}
    assert data(call(2, "alias", previousId="a-1")) == {"previous_id": "a-1"}
    assert data(call(3, "page", name="Home", properties={"url": "/"})) == {"name": "Home", "url": "/"}
    assert data(call(4, "screen", name="Main")) == {"name": "Main"}
    assert data(call(5, "screen")) == {}
    assert [good["schema"].split("/")[1] for good in vendor.good] == ["identify", "group", "alias", "page", "screen", "screen"]


IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X)"


@pytest.mark.parametrize(
    ("context", "address", "agent"),
    [
        ({"ip": "203.0.113.9", "userAgent": IPHONE}, "203.0.113.9", IPHONE),
        ({"ip": "2001:DB8::1", "userAgent": "x" * 1_001}, "2001:db8::1", "x" * 1_000),
        ({"ip": "203.0.113.9, 10.0.0.1", "userAgent": ""}, SENDER, SENDER),
        ({"ip": "x" * 200, "userAgent": 7}, SENDER, SENDER),
        ({"ip": int("9" * 4_000), "userAgent": ["a"]}, SENDER, SENDER),
        ({}, SENDER, SENDER),
    ],
)
def test_an_event_is_placed_where_its_person_was_and_not_where_the_worker_is(
    context: dict[str, Any], address: str, agent: str, vendor: SnowplowServer
) -> None:
    event = sent(vendor, call(0, context=context))["event"]
    assert (event["user_ipaddress"], event["useragent"]) == (address, agent)


def test_parts_of_the_context_become_entities(vendor: SnowplowServer) -> None:
    row = "iglu:com.acme/row/jsonschema/1-0-0"
    made = call(0, context={"source": {"table": "orders"}, "locale": "de", "library": {"name": "cdc-tracker"}})
    good = sent(vendor, made, contexts={"source": row, "locale": row, "absent": row})
    assert good["contexts"] == [row]
    assert good["event"]["entities"] == [{"schema": row, "data": {"table": "orders"}}]
    assert "co" not in parameters(sent(vendor, call(1), contexts={"source": row}))


@pytest.mark.parametrize(
    ("made", "reason", "field"),
    [
        (call(1, event="Refund Made"), "schema_missing", "event"),
        (call(1, "identify", traits={}), "schema_missing", "event"),
        (call(1, userId="x" * 256), "id_too_long", "userId"),
        (call(1, anonymousId="x" * 129), "id_too_long", "anonymousId"),
        (call(1, timestamp="soon"), "timestamp_invalid", "timestamp"),
        (call(1, userId=7), "type_mismatch", "userId"),
    ],
)
def test_what_would_fail_for_certain_is_refused_here_alone(made: Any, reason: str, field: str, vendor: SnowplowServer) -> None:
    receipts, troubles = settled(opened(vendor, schemas={"Order Paid": PAID}), batch(call(0), made, call(2)))
    assert [receipt.outcome for receipt in receipts] == [Outcome.ASSUMED, Outcome.REJECTED, Outcome.ASSUMED]
    assert (receipts[1].reason, receipts[1].field) == (reason, field)
    assert not troubles
    assert len(vendor.good) == 2


def test_a_name_that_makes_no_schema_needs_one_declared(vendor: SnowplowServer) -> None:
    receipts, _ = settled(opened(vendor, vendor="com.acme"), batch(call(0, event="購入")))
    assert receipts[0].reason == "schema_missing"
    assert vendor.requests == []  # nothing was left to send
    assert sent(vendor, call(1, event="購入"), schemas={"購入": PAID})["schema"] == PAID


def test_what_is_collected_may_still_fail_its_schema() -> None:
    def about(data: dict[str, Any]) -> str:
        return "" if isinstance(data.get("order_id"), int) else "order_id must be an integer"

    with SnowplowServer(registry={PAID: about}) as pipeline:
        events = [call(0), call(1, properties={"order_id": "x"}), call(2, event="Unknown Thing")]
        receipts, _ = settled(opened(pipeline, schemas={"Order Paid": PAID}, vendor="com.acme"), batch(*events))
        assert receipts == [ASSUMED] * 3  # all that the collector lets one know
        answers = {}
        for name in ("all", "good", "bad"):
            with urllib.request.urlopen(f"{pipeline.url}/micro/{name}") as answer:
                answers[name] = json.load(answer)
        assert answers["all"] == {"total": 3, "good": 1, "bad": 2}
        assert [good["event"]["event_id"] for good in answers["good"]] == [message_id(0)]
        assert [bad["errors"] for bad in answers["bad"]] == [
            ["order_id must be an integer"],
            ["no registry has iglu:com.acme/unknown_thing/jsonschema/1-0-0"],
        ]


def test_a_request_that_is_too_large_is_divided() -> None:
    with SnowplowServer(body_bytes=3_000) as small:
        destination = opened(small, vendor="com.acme")
        with pytest.raises(TooLarge, match="413"):
            destination.deliver(batch(*[call(n) for n in range(20)]))
        receipts, _ = settled(destination, batch(*[call(n) for n in range(20)]))
        assert receipts == [ASSUMED] * 20
        assert len({good["event"]["event_id"] for good in small.good}) == 20
        receipts, _ = settled(opened(small, vendor="com.acme"), batch(call(0, properties={"note": "x" * 3_000}), call(1)))
        assert [receipt.reason for receipt in receipts] == ["too_large", ""]


def test_batches_within_the_limits_stay_below_2_mb(vendor: SnowplowServer) -> None:
    destination = opened(vendor, vendor="com.acme")
    note = '"' * 450  # worst case: each sign is escaped twice
    many = [call(n, properties={"note": note}) for n in range(destination.limits.events)]
    full = split_by_limits(many, destination.limits)[0]
    assert len(full) < len(many)
    destination.deliver(batch(*full))
    destination.close()
    assert len(vendor.requests[0].body) < 2_000_000


def test_an_id_that_is_no_uuid_becomes_one_the_same_every_time(vendor: SnowplowServer) -> None:
    made = call(0, messageId="order-7")
    assert parameters(sent(vendor, made))["eid"] == parameters(sent(vendor, made))["eid"] != "order-7"


def test_a_retry_has_the_same_body_and_a_throttled_one_its_wait(vendor: SnowplowServer) -> None:
    vendor.answers(Answer(503), Answer(429, headers={"Retry-After": "9"}))
    destination = opened(vendor, vendor="com.acme")
    with pytest.raises(DestinationUnavailable):
        destination.deliver(batch(call(0, timestamp="2026-01-02T03:04:05Z")))
    with pytest.raises(DestinationUnavailable) as caught:
        destination.deliver(batch(call(0, timestamp="2026-01-02T03:04:05Z")))
    settled(destination, batch(call(0, timestamp="2026-01-02T03:04:05Z")))
    assert caught.value.retry_after == 9.0
    assert len({request.body for request in vendor.requests}) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"schemas": {"Order Paid": "com.acme/order_paid"}},
        {"schemas": {"Order Paid": "iglu:com.acme/order_paid/jsonschema/0-0-1"}},
        {"contexts": {"source": "iglu:row"}},
        {"vendor": "com acme"},
        {"version": "1.0.0"},
        {"collector": "collector.example"},
        {"namespace": "a:b"},
        {"platform": "server"},
    ],
)
def test_settings_that_do_not_hold_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SnowplowSettings.model_validate({"type": "snowplow", "collector": "https://c.example", "app_id": "shop", **wrong})
