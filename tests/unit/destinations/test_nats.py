"""What is special to NATS JetStream: headers, the window, streams that are missing, full or strict."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import DiscardPolicy
from pydantic import ValidationError

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.nats import NatsDestination, NatsSettings
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import DELIVERED, Outcome
from tests.vendors.engine import folder
from tests.vendors.kit import Engines, batch, event, events, raw_event
from tests.vendors.nats import Server, running

QUICK = Backoff(first=0.001, cap=0.05, blocked=0.05, longest=0.01)


@pytest.fixture
def node(engines: Engines) -> Server:
    found: Server = engines.get("nats")
    return found


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def own() -> Iterator[Server]:
    with folder() as root, running(root) as started:
        yield started


def opened(node: Server, subject: str, **settings: Any) -> NatsDestination:
    made = NatsSettings.model_validate({"url": node.url, "subject": subject, "timeout": 5, **settings})
    return NatsDestination("shop", made, Path())


def test_a_message_has_its_id_and_type_as_headers_and_the_event_as_it_is(node: Server, name: str) -> None:
    node.make_stream(name, f"{name}.>")
    destination = opened(node, f"{name}.{{type}}.{{event}}")
    one = event(1, note="ü")
    destination.deliver(batch([one, raw_event(2, '{"type":"identify","messageId":"m-2","userId":"1"}')]))
    messages = node.messages(name)
    assert [message.subject for message in messages] == [f"{name}.track.order_paid", f"{name}.identify.identify"]
    assert messages[0].headers == {"Nats-Msg-Id": one.message_id, "Cdc-Tracker-Type": "track"}
    assert messages[0].data == one.body
    destination.close()


def test_names_with_signs_that_subjects_know_stay_one_token(node: Server, name: str) -> None:
    node.make_stream(name, f"{name}.*")
    destination = opened(node, f"{name}.{{table}}")
    body = '{"type":"track","event":"X","messageId":"m-%d","context":{"source":{"schema":"shop","table":"a.b c>*"}}}'
    destination.deliver(batch([raw_event(1, body % 1)]))
    assert [message.subject for message in node.messages(name)] == [f"{name}.a_b_c__"]
    destination.close()


def test_ids_that_a_header_would_change_do_not_become_one_and_long_names_fit_the_protocol(node: Server, name: str) -> None:
    node.make_stream(name, f"{name}.>")
    destination = opened(node, f"{name}.{{event}}")
    body = '{"type":"track","event":"%s","messageId":"%s"}'
    texts = [
        ("X", "a"),
        ("X", " a"),
        ("X", "a "),
        ("X", "a\\nNats-Rollup: all"),
        ("X", "größe"),
        ("x" * 5_000, "b"),
        ("x" * 5_001, "c"),
    ]
    made = [raw_event(n, body % text) for n, text in enumerate(texts)]
    assert destination.deliver(batch(made)) == [DELIVERED] * len(made)
    messages = node.messages(name)
    assert [message.data for message in messages] == [one.body for one in made]
    assert len({message.subject for message in messages}) == 3
    ids = [str((message.headers or {})["Nats-Msg-Id"]) for message in messages]
    assert (ids[0], ids[5:]) == ("a", ["b", "c"])
    assert all(len(made) == 36 for made in ids[1:4])
    destination.close()


def test_an_id_goes_in_again_once_the_window_is_over(node: Server, name: str) -> None:
    node.make_stream(name, name, duplicate_window=0.2)
    destination = opened(node, name)
    destination.deliver(batch(events(3)))
    destination.deliver(batch(events(3)))
    assert len(node.messages(name)) == 3
    time.sleep(0.5)
    destination.deliver(batch(events(3)))
    assert len(node.messages(name)) == 6
    destination.close()


def test_a_missing_stream_blocks_with_the_command_that_makes_it_and_then_goes_on(node: Server, name: str) -> None:
    destination = opened(node, name)
    with pytest.raises(DestinationBlocked) as caught:
        destination.deliver(batch(events(3)))
    assert f"--subjects '{name}'" in caught.value.hint
    node.make_stream(name, name)
    destination.deliver(batch(events(3)))
    assert len(node.messages(name)) == 3
    destination.close()


def test_events_without_a_stream_are_tried_again_alone(node: Server, name: str) -> None:
    node.make_stream(name, f"{name}.order_paid")
    destination = opened(node, f"{name}.{{event}}")
    receipts = destination.deliver(batch([event(0), event(1, name="Refund"), event(2)]))
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, Outcome.RETRY, Outcome.DELIVERED]
    destination.close()


def test_another_stream_than_the_one_expected_blocks(node: Server, name: str) -> None:
    node.make_stream(name, name)
    destination = opened(node, name, stream="another")
    with pytest.raises(DestinationBlocked, match="stream"):
        destination.deliver(batch(events(2)))
    with pytest.raises(DestinationBlocked):
        destination.probe()
    assert node.messages(name) == []
    destination.close()


def test_a_server_without_jetstream_is_unavailable_and_says_so() -> None:
    with folder() as root, running(root, jetstream=False) as server:
        destination = opened(server, "x")
        for call in (destination.probe, lambda: destination.deliver(batch(events(1)))):
            with pytest.raises(DestinationUnavailable) as caught:
                call()
            assert "-js" in caught.value.hint
        destination.close()


def test_what_the_stream_finds_too_large_is_rejected_alone(node: Server, name: str) -> None:
    node.make_stream(name, name, max_msg_size=2_000)
    destination = opened(node, name)
    receipts = destination.deliver(batch([event(0), event(1, note="x" * 3_000), event(2)]))
    assert [(receipt.outcome, receipt.reason) for receipt in receipts] == [
        (Outcome.DELIVERED, ""),
        (Outcome.REJECTED, "event_too_large"),
        (Outcome.DELIVERED, ""),
    ]
    destination.close()


def test_what_the_server_finds_too_large_is_rejected_alone() -> None:
    with folder() as root, running(root, max_payload=4_000) as server:
        server.make_stream("s", "s")
        destination = opened(server, "s")
        receipts = destination.deliver(batch([event(0), event(1, note="x" * 5_000)]))
        assert [receipt.reason for receipt in receipts] == ["", "event_too_large"]
        assert destination.deliver(batch([event(3, note="x" * 5_000)]))[0].reason == "event_too_large"
        destination.close()


def test_what_a_full_stream_does_not_take_goes_again(node: Server, name: str) -> None:
    node.make_stream(name, name, max_msgs=2, discard=DiscardPolicy.NEW)
    destination = opened(node, name)
    receipts = destination.deliver(batch(events(3)))
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, Outcome.DELIVERED, Outcome.RETRY]
    assert "maximum messages exceeded" in receipts[2].reason
    with pytest.raises(DestinationUnavailable, match="maximum messages exceeded"):
        destination.deliver(batch(events(1, start=2)))
    destination.close()


USERS = {
    "users": [
        {"user": "writer", "password": "right-password"},
        {"user": "reader", "password": "right-password", "permissions": {"publish": {"deny": ["s"]}}},
    ]
}


def test_wrong_credentials_and_missing_rights_block_and_no_password_is_shown() -> None:
    with folder() as root, running(root, authorization=USERS) as server:
        admin = Server(server.program, server.url.replace("//", "//writer:right-password@"))
        admin.make_stream("s", "s")
        wrong = opened(server, "s", url=server.url.replace("//", "//writer:wrong-password@"))
        reader = opened(server, "s", url=server.url.replace("//", "//reader:right-password@"), timeout=1)
        for destination in (wrong, reader):
            with pytest.raises(DestinationBlocked) as caught:
                destination.deliver(batch(events(2)))
            assert "password" not in str(caught.value)
            assert "right-password" not in repr(destination._settings)
            destination.close()
        assert admin.messages("s") == []


def test_a_server_that_is_away_is_unavailable_and_another_of_the_list_is_tried(node: Server, name: str) -> None:
    node.make_stream(name, name)
    nobody = opened(node, name, url=["nats://127.0.0.1:1"])
    with pytest.raises(DestinationUnavailable) as caught:
        nobody.deliver(batch(events(1)))
    assert not isinstance(caught.value, DestinationBlocked)
    nobody.close()
    second = opened(node, name, url=["nats://127.0.0.1:1", node.url])
    second.deliver(batch(events(1)))
    second.close()


def test_a_server_that_answers_nothing_is_given_up_and_the_events_go_again(own: Server) -> None:
    own.make_stream("s", "s")
    destination = opened(own, "s", timeout=0.5)
    destination.deliver(batch(events(2)))
    own.program.freeze()
    with pytest.raises(DestinationUnavailable, match="no answer"):
        destination.deliver(batch(events(2, start=2)))
    own.program.thaw()
    destination.deliver(batch(events(2, start=2)))
    assert [message.headers["Nats-Msg-Id"] for message in own.messages("s")] == [one.message_id for one in events(4)]
    destination.close()


def test_restarts_lose_nothing_and_repeats_within_the_window_are_dropped(own: Server) -> None:
    own.make_stream("s", "s")
    destination = opened(own, "s")
    troubles: list[CdcTrackerError] = []
    done = threading.Event()

    def deliver() -> None:
        for part in range(200):
            made = batch(events(20, start=20 * part))
            send(destination, made, stop=lambda: False, on_trouble=troubles.append, backoff=QUICK)
        done.set()

    sender = threading.Thread(target=deliver, daemon=True)
    sender.start()
    while not done.is_set():
        own.program.stop()
        own.program.start()
        time.sleep(0.1)
    sender.join(60)
    held = [message.headers["Nats-Msg-Id"] for message in own.messages("s")]
    assert sorted(held) == sorted(one.message_id for one in events(4_000))
    assert troubles
    destination.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "http://host"}, "nats://"),
        ({"subject": "a.>"}, "wildcards"),
        ({"subject": "a b"}, "wildcards"),
        ({"subject": "a.{user}"}, "{user}"),
        ({"subject": "a..{event}"}, "between two dots"),
        ({"subject": ".{event}"}, "before the first"),
        ({"subject": "{event}."}, "behind the last"),
    ],
)
def test_settings_that_do_not_hold_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        NatsSettings.model_validate({"url": "nats://u:hidden-word@host", **settings})
    assert says in str(caught.value)
    assert "hidden-word" not in str(caught.value)
