"""Standard Webhooks: signatures, ids, bodies."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.support.naming import snake_case
from cdc_tracker.destinations.webhook import WebhookDestination, WebhookSettings, sign
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import DELIVERED, Batch, Event, Outcome, Position
from tests.vendors.server import Answer, Cut
from tests.vendors.webhook import WebhookServer

OLD = "whsec_" + base64.b64encode(b"an old secret of 24 bytes").decode()
NEW = "whsec_" + base64.b64encode(b"a new secret of 24+ bytes").decode()
QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)


@pytest.fixture
def vendor() -> Iterator[WebhookServer]:
    with WebhookServer(secrets=(NEW,)) as running:
        yield running


def opened(vendor: WebhookServer, **settings: Any) -> WebhookDestination:
    made = WebhookSettings.model_validate({"url": vendor.url + "/hook/t0ken", "secret": NEW, **settings})
    return WebhookDestination("crm", made, Path())


def event(n: int, body: str | None = None) -> Event:
    text = body or f'{{"type":"track","event":"Order Paid","messageId":"id-{n}","timestamp":"2026-01-02T03:04:05Z"}}'
    return Event(f"id-{n}", "track", text.encode(), "m", Position(100, n), 1_700_000_000_000_000)


def batch(count: int) -> Batch:
    return Batch([event(n) for n in range(count)], Position(500, -1))


def deliver(destination: WebhookDestination, made: Batch) -> tuple[list[Outcome], list[CdcTrackerError]]:
    troubles: list[CdcTrackerError] = []
    receipts = send(destination, made, stop=lambda: False, on_trouble=troubles.append, backoff=QUICK)
    destination.close()
    return [receipt.outcome for receipt in receipts], troubles


def test_a_signature_is_that_of_the_specification() -> None:
    """Its published example."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_event_goes_in_a_request_of_its_own_signed(vendor: WebhookServer) -> None:
    destination = opened(vendor)
    assert destination.deliver(batch(3)) == [DELIVERED] * 3
    destination.close()
    assert [message_id for message_id, _ in vendor.deliveries] == ["id-0", "id-1", "id-2"]
    assert vendor.deliveries[0][1] == {
        "type": "track.order_paid",
        "timestamp": "2026-01-02T03:04:05Z",
        "data": {"type": "track", "event": "Order Paid", "messageId": "id-0", "timestamp": "2026-01-02T03:04:05Z"},
    }


def test_batches_are_one_request_with_an_id_made_of_theirs(vendor: WebhookServer) -> None:
    destination = opened(vendor, batch=10)
    destination.deliver(batch(3))
    destination.deliver(batch(3))
    destination.deliver(batch(2))
    destination.close()
    (first, body), (again, _), (other, _) = vendor.deliveries
    assert first == again != other
    assert first.startswith("batch_")
    assert (body["type"], body["timestamp"], len(body["data"])) == ("batch", "2026-01-02T03:04:05Z", 3)


ODD = ["bestellung-größe-1", "a\nb", "a\r\nx-evil: 1", " a", "a ", "\ta", "a\x01b", "a\x7fb", "🎉", "x" * 256]


def test_an_id_that_a_header_cannot_hold_goes_as_one_made_of_it_and_others_as_they_are(vendor: WebhookServer) -> None:
    kept = ["a", "a b", "a\tb", "a.b", "x" * 255, '{"}']
    events = []
    for n, message_id in enumerate([*kept, *ODD]):
        one = event(n)
        events.append(Event(message_id, one.type, one.body, one.mapping, one.position, one.committed_at))
    for _ in range(2):
        outcomes, troubles = deliver(opened(vendor), Batch(events, Position(500, -1)))
        assert (set(outcomes), troubles) == ({Outcome.DELIVERED}, [])
    ids = [found for found, _ in vendor.deliveries]
    assert ids[: len(kept)] == kept
    assert [str(uuid.UUID(made)) for made in ids[len(kept) : len(events)]] == ids[len(kept) : len(events)]
    assert len(set(ids)) == len(events)
    assert ids[: len(events)] == ids[len(events) :]


def test_while_secrets_are_changed_either_is_taken() -> None:
    for trusted in (OLD, NEW):
        with WebhookServer(secrets=(trusted,)) as vendor:
            assert deliver(opened(vendor, secret=[NEW, OLD]), batch(1))[0] == [Outcome.DELIVERED]
    with WebhookServer(secrets=(OLD,)) as vendor:
        destination = opened(vendor)
        with pytest.raises(DestinationBlocked, match="401"):
            destination.deliver(batch(1))
        destination.close()


def test_the_id_and_the_body_stay_the_same_over_retries(vendor: WebhookServer) -> None:
    vendor.answers(Answer(503), Cut(taken=True), Answer(429, headers={"Retry-After": "0"}))
    outcomes, troubles = deliver(opened(vendor), batch(1))
    assert outcomes == [Outcome.DELIVERED]
    assert len(troubles) == 3
    assert {(request.headers["webhook-id"], request.body) for request in vendor.requests} == {
        ("id-0", vendor.requests[0].body),
    }
    assert len(vendor.requests) == 4
    assert len(vendor.deliveries) == 2  # the one that was cut off, and the last


def test_after_a_failure_only_the_rest_goes_again_and_in_order(vendor: WebhookServer) -> None:
    destination = opened(vendor)
    vendor.answers(Answer(204, b"", taken=True), Answer(204, b"", taken=True), Answer(503))
    outcomes, _ = deliver(destination, batch(5))
    assert outcomes == [Outcome.DELIVERED] * 5
    assert [message_id for message_id, _ in vendor.deliveries] == [f"id-{n}" for n in range(5)]


def test_a_first_failure_is_told_with_its_wait(vendor: WebhookServer) -> None:
    vendor.answers(Answer(429, headers={"Retry-After": "9"}))
    destination = opened(vendor)
    with pytest.raises(DestinationUnavailable) as caught:
        destination.deliver(batch(3))
    assert caught.value.retry_after == 9.0
    destination.close()


@pytest.mark.parametrize("size", [False, 10])
def test_an_event_that_the_receiver_minds_is_rejected_with_its_words(size: int, vendor: WebhookServer) -> None:
    vendor.refuses = lambda body: '"id-2"' in str(body).replace("'", '"')
    destination = opened(vendor, batch=size)
    receipts = send(destination, batch(5), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)
    destination.close()
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED] * 2 + [Outcome.REJECTED] + [Outcome.DELIVERED] * 2
    assert receipts[2].reason == "refused"
    assert "this receiver minds the event" in receipts[2].detail
    assert set(vendor.events) == {"id-0", "id-1", "id-3", "id-4"}


def test_an_endpoint_that_is_gone_blocks(vendor: WebhookServer) -> None:
    vendor.answers(Answer(410))
    destination = opened(vendor)
    with pytest.raises(DestinationBlocked, match="410") as caught:
        destination.deliver(batch(1))
    assert "removed for good" in caught.value.hint
    assert "t0ken" not in str(caught.value)
    destination.close()


def test_headers_of_ones_own_are_sent_and_hidden(vendor: WebhookServer) -> None:
    destination = opened(vendor, headers={"Authorization": "Bearer s3same"})
    vendor.answers(Answer(400, b"bad: Bearer s3same"))
    receipt = destination.deliver(batch(1))[0]
    destination.close()
    assert vendor.requests[0].headers["authorization"] == "Bearer s3same"
    assert "s3same" not in receipt.detail
    assert "s3same" not in repr(WebhookSettings.model_validate({"url": vendor.url, "secret": NEW, "headers": {"a": "s3same"}}))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"type":"track","event":"Bestellung bezahlt – größer","messageId":"a"}', "track.bestellung_bezahlt_größer"),
        ('{"type":"page","name":"PricingPage","messageId":"a"}', "page.pricing_page"),
        ('{"type":"identify","userId":"3","messageId":"a"}', "identify"),
        ('{"type":"track","event":"!!!","messageId":"a"}', "track"),
    ],
)
def test_the_type_is_made_of_the_calls_type_and_name(body: str, kind: str, vendor: WebhookServer) -> None:
    made = Event("a", body.split('"')[3], body.encode(), "m", Position(1, 0), 1_700_000_000_000_000)
    destination = opened(vendor)
    destination.deliver(Batch([made], Position(1, 0)))
    destination.close()
    assert vendor.deliveries[0][1]["type"] == kind
    assert vendor.deliveries[0][1]["timestamp"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize(
    "settings",
    [
        {"secret": "no-prefix"},
        {"secret": "whsec_c2hvcnQ="},
        {"secret": []},
        {"secret": [NEW, "whsec_!!!"]},
        {"batch": True},
        {"batch": 0},
        {"url": "not a url"},
        {"headers": {"Webhook-Id": "x"}},
        {"headers": {"content-length": "1"}},
        {"headers": {"X-Größe": "1"}},
        {"headers": {"X-Key": "c2hvcnQ\n"}},
        {"headers": {"X-Key": "größe c2hvcnQ"}},
    ],
)
def test_settings_that_do_not_hold_are_refused_without_showing_secrets(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        WebhookSettings.model_validate({"url": "https://host/t0ken", "secret": NEW, **settings})
    assert not any(secret in str(caught.value) for secret in (NEW, "t0ken", "no-prefix", "c2hvcnQ"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Order Paid", "order_paid"),
        ("orderPaid", "order_paid"),
        ("HTTPServer Error2Fixed", "http_server_error2_fixed"),
        ("  a--b__c ", "a_b_c"),
        ("Käufer", "käufer"),
        ("注文", "注文"),
        ("?!", ""),
    ],
)
def test_names_become_snake_case(text: str, name: str) -> None:
    assert snake_case(text) == name


BODY = '{"type":"track","event":"Order Paid","messageId":"id-1","userId":"3","timestamp":"2026-01-02T03:04:05.000006Z","n":1.10}'


def test_a_cloud_event_is_structured_and_signed(vendor: WebhookServer) -> None:
    destination = opened(vendor, format="cloudevents", source="/shop/orders")
    assert destination.deliver(Batch([event(1, BODY)], Position(1, 0))) == [DELIVERED]
    destination.close()
    [request] = vendor.requests
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert request.headers["webhook-id"] == "id-1"
    head, _, data = request.body.decode().partition(',"data":')
    assert json.loads(head + "}") == {
        "specversion": "1.0",
        "id": "id-1",
        "source": "/shop/orders",
        "type": "track.order_paid",
        "time": "2026-01-02T03:04:05.000006Z",
        "subject": "3",
        "datacontenttype": "application/json",
    }
    assert data == BODY + "}"


def test_cloud_events_in_batches_are_a_list(vendor: WebhookServer) -> None:
    destination = opened(vendor, format="cloudevents", batch=10)
    destination.deliver(batch(3))
    destination.close()
    [request] = vendor.requests
    assert request.headers["content-type"] == "application/cloudevents-batch+json"
    assert request.headers["webhook-id"].startswith("batch_")
    assert [one["id"] for one in json.loads(request.body)] == ["id-0", "id-1", "id-2"]
    assert all("subject" not in one for one in json.loads(request.body))
    assert set(vendor.events) == {"id-0", "id-1", "id-2"}
