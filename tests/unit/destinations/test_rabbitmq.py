"""What is special to RabbitMQ: properties, routing, confirms and returns, the broker's refusals."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.rabbitmq import RabbitmqDestination, RabbitmqSettings
from cdc_tracker.errors import CdcTrackerError, ConfigError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import DELIVERED, Outcome
from tests.vendors.kit import Engines, batch, event, events, raw_event
from tests.vendors.rabbitmq import Server

QUICK = Backoff(first=0.001, cap=0.05, blocked=0.05, longest=0.01)


@pytest.fixture
def node(engines: Engines) -> Server:
    found: Server = engines.get("rabbitmq")
    return found


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def opened(node: Server, exchange: str, **settings: Any) -> RabbitmqDestination:
    made = RabbitmqSettings.model_validate({"url": node.url, "exchange": exchange, "timeout": 5, **settings})
    return RabbitmqDestination("shop", made, Path())


def test_a_message_is_persistent_and_says_what_it_is(node: Server, name: str) -> None:
    node.make_queue(name, "track.order_paid", exchange=name)
    destination = opened(node, name)
    one = event(1, note="ü")
    destination.deliver(batch([one]))
    [(properties, body)] = node.messages(name)
    assert body == one.body
    assert (properties.message_id, properties.type, properties.app_id) == (one.message_id, "track", "cdc-tracker")
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    destination.close()


def test_ids_and_routing_keys_keep_to_the_bytes_of_a_short_string(node: Server, name: str) -> None:
    node.make_queue(name, "track.#", exchange=name)
    destination = opened(node, name)
    body = '{"type":"track","event":"%s","messageId":"%s"}'
    texts = [
        ("Größe", "größe-1"),
        ("注" * 120, "m-2"),
        ("注" * 121, "m-3"),
        ("x" * 240, "m-4"),
        ("X", "注" * 100),
        ("X", "m\\u0000"),
    ]
    made = [raw_event(n, body % text) for n, text in enumerate(texts)]
    assert destination.deliver(batch(made)) == [DELIVERED] * len(made)
    properties = [properties for properties, _ in node.messages(name)]
    assert [one.message_id for one in properties[:4]] == ["größe-1", "m-2", "m-3", "m-4"]
    assert all(len(one.message_id) == 36 for one in properties[4:])
    destination.close()


def test_the_default_exchange_takes_a_queues_name_as_routing_key(node: Server, name: str) -> None:
    node.make_queue(name)
    destination = opened(node, "", routing_key=name)
    destination.deliver(batch(events(3)))
    assert len(node.messages(name)) == 3
    destination.close()


def test_events_that_no_queue_takes_block_until_one_does(node: Server, name: str) -> None:
    node.make_queue(name, exchange=name)
    destination = opened(node, name)
    with pytest.raises(DestinationBlocked, match=r"track\.order_paid") as caught:
        destination.deliver(batch(events(3)))
    assert "bind a queue" in caught.value.hint
    node.make_queue(name, "#", exchange=name)
    destination.deliver(batch(events(3)))
    assert len(node.messages(name)) == 3
    destination.close()


def test_among_others_only_the_unroutable_go_again(node: Server, name: str) -> None:
    node.make_queue(name, "track.order_paid", exchange=name)
    destination = opened(node, name)
    receipts = destination.deliver(batch([event(0), event(1, name="Refund"), event(2)]))
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, Outcome.RETRY, Outcome.DELIVERED]
    destination.close()


def test_unroutable_events_are_parked_where_the_settings_say_so(node: Server, name: str) -> None:
    node.make_queue(name, "track.order_paid", exchange=name)
    destination = opened(node, name, unroutable="reject")
    receipts = destination.deliver(batch([event(0), event(1, name="Refund"), event(2)]))
    assert [(receipt.outcome, receipt.reason) for receipt in receipts] == [
        (Outcome.DELIVERED, ""),
        (Outcome.REJECTED, "unroutable"),
        (Outcome.DELIVERED, ""),
    ]
    assert len(node.messages(name)) == 2
    destination.close()


def test_of_equal_ids_only_the_one_that_no_queue_takes_is_parked(node: Server, name: str) -> None:
    """Ids made of content (`id: [new.id]`) are there several times."""
    node.make_queue(name, "track.order_paid", exchange=name)
    destination = opened(node, name, unroutable="reject")
    made = [event(1), event(1, name="Order Lost"), event(1)]
    outcomes = [receipt.outcome for receipt in destination.deliver(batch(made))]
    assert outcomes == [Outcome.DELIVERED, Outcome.REJECTED, Outcome.DELIVERED]
    assert len(node.messages(name)) == 2
    destination.close()


def test_what_a_full_queue_does_not_take_goes_again(node: Server, name: str) -> None:
    node.make_queue(name, "#", exchange=name, max_length=2, overflow="reject-publish")
    destination = opened(node, name)
    for n in range(2):
        destination.deliver(batch([event(n)]))
    [receipt] = destination.deliver(batch([event(2)]))
    assert receipt.outcome is Outcome.RETRY
    assert "nack" in receipt.reason
    assert len(node.messages(name)) == 2
    destination.close()


def test_a_missing_exchange_blocks_and_then_goes_on(node: Server, name: str) -> None:
    destination = opened(node, name)
    for call in (destination.probe, lambda: destination.deliver(batch(events(2)))):
        with pytest.raises(DestinationBlocked, match="no exchange"):
            call()
    node.make_queue(name, "#", exchange=name)
    destination.deliver(batch(events(2)))
    assert len(node.messages(name)) == 2
    destination.close()


@pytest.mark.parametrize(("was", "becomes"), [("guest:guest@", "guest:wrong-password@"), ("/%2F", "/nowhere")])
def test_wrong_credentials_and_virtual_hosts_block_and_no_password_is_shown(
    node: Server, name: str, was: str, becomes: str
) -> None:
    destination = opened(node, name, url=node.url.replace(was, becomes))
    for call in (destination.probe, lambda: destination.deliver(batch(events(2)))):
        with pytest.raises(DestinationBlocked) as caught:
            call()
        assert "wrong-password" not in f"{caught.value} {destination._settings!r}"
    destination.close()


def test_a_broker_that_is_away_is_unavailable(node: Server, name: str) -> None:
    destination = opened(node, name, url="amqp://guest:guest@127.0.0.1:1/%2F", timeout=2)
    with pytest.raises(DestinationUnavailable) as caught:
        destination.deliver(batch(events(2)))
    assert not isinstance(caught.value, DestinationBlocked)
    destination.close()


def test_a_broker_that_answers_nothing_is_given_up_and_the_events_go_again(node: Server, name: str) -> None:
    node.make_queue(name, "#", exchange=name)
    destination = opened(node, name, timeout=1)
    destination.deliver(batch(events(2)))
    node.program.freeze()
    try:
        with pytest.raises(DestinationUnavailable, match="took more than"):
            destination.deliver(batch(events(2, start=2)))
    finally:
        node.program.thaw()
    send(destination, batch(events(2, start=2)), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)
    held = {properties.message_id for properties, _ in node.messages(name)}
    assert held == {one.message_id for one in events(4)}
    destination.close()


def test_a_restart_loses_nothing(node: Server, name: str) -> None:
    node.make_queue(name, "#", exchange=name)
    destination = opened(node, name)
    troubles: list[CdcTrackerError] = []
    done = threading.Event()
    count = 0

    def deliver() -> None:
        nonlocal count
        while not done.is_set():
            made = batch(events(20, start=count))
            send(destination, made, stop=lambda: False, on_trouble=troubles.append, backoff=QUICK)
            count += 20
            time.sleep(0.01)

    sender = threading.Thread(target=deliver, daemon=True)
    sender.start()
    time.sleep(0.5)
    node.program.stop()
    node.program.start()
    time.sleep(0.5)
    done.set()
    sender.join(60)
    held = [properties.message_id for properties, _ in node.messages(name)]
    assert list(dict.fromkeys(held)) == [one.message_id for one in events(count)]
    assert troubles
    destination.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "http://host"}, "amqp://"),
        ({"routing_key": "{user}"}, "{user}"),
        ({"unroutable": "drop"}, "'block' or 'reject'"),
        ({"exchange": "é" * 128}, "at most 255 bytes"),
        ({"routing_key": "é" * 128 + "{event}"}, "at most 255 bytes"),
    ],
)
def test_settings_that_do_not_hold_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RabbitmqSettings.model_validate({"url": "amqp://u:hidden-word@host", **settings})
    assert says in str(caught.value)
    assert "hidden-word" not in str(caught.value)


def test_a_url_that_does_not_hold_is_refused_without_being_shown() -> None:
    made = RabbitmqSettings.model_validate({"url": "amqp://u:hidden-word@host:port/x"})
    with pytest.raises(ConfigError) as caught:
        RabbitmqDestination("shop", made, Path())
    assert "hidden-word" not in str(caught.value)
