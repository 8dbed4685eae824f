"""What is special to Kafka: transactions and fencing, topics and keys, the cluster's refusals."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from pydantic import ValidationError

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.base import Destination, Requirements
from cdc_tracker.destinations.kafka import KafkaDestination, checkpoints
from cdc_tracker.destinations.kafka.plain import PlainKafka
from cdc_tracker.destinations.kafka.settings import KafkaSettings
from cdc_tracker.destinations.registry import described
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, ConfigError, DestinationBlocked, DestinationUnavailable, TooLarge
from cdc_tracker.model import DELIVERED, RAW, Batch, Event, Outcome, Position
from tests.vendors.kafka import Broker, engine
from tests.vendors.kit import Engines, batch, event, events, raw_event

QUICK = Backoff(first=0.001, cap=0.05, blocked=0.05, longest=0.01)


@pytest.fixture
def broker(engines: Engines) -> Broker:
    found: Broker = engines.get("kafka")
    return found


@pytest.fixture
def topic(broker: Broker) -> str:
    name = f"t-{uuid.uuid4().hex[:12]}"
    broker.make_topic(name)
    return name


def settings(broker: Broker, topic: str, **more: Any) -> KafkaSettings:
    return KafkaSettings.model_validate({"brokers": broker.url, "topic": topic, "transactional_id": topic, **more})


def exact(broker: Broker, topic: str, **more: Any) -> KafkaDestination:
    return KafkaDestination("shop", settings(broker, topic, **more), Path())


def plain(broker: Broker, topic: str, **more: Any) -> PlainKafka:
    return PlainKafka("shop", settings(broker, topic, transactions=False, **more), Path())


def ids(broker: Broker, topic: str) -> list[str]:
    return [dict(message.headers())["message-id"].decode() for message in broker.messages(topic)]


def expected(count: int) -> list[str]:
    return [one.message_id for one in events(count)]


def test_a_message_is_keyed_by_user_and_has_id_and_type_as_headers(broker: Broker, topic: str) -> None:
    destination = exact(broker, topic)
    anonymous = raw_event(2, '{"type":"page","name":"Home","messageId":"m-2","anonymousId":"a-1"}')
    nobody = raw_event(3, '{"type":"track","event":"X","messageId":"m-3"}')
    destination.deliver(batch([event(1, note="ü"), anonymous, nobody]))
    found = broker.messages(topic)
    assert [message.key() for message in found] == [event(1).decoded()["userId"].encode(), b"a-1", None]
    assert found[0].headers() == [("message-id", event(1).message_id.encode()), ("type", b"track")]
    assert found[0].value() == event(1, note="ü").body
    destination.close()


@pytest.mark.parametrize(
    ("key", "keys"), [("properties.order_id", [b"1", b"2"]), ("none", [None, None]), ("properties.none", [None, None])]
)
def test_a_message_is_keyed_by_what_the_settings_name(broker: Broker, topic: str, key: str, keys: list[bytes | None]) -> None:
    destination = plain(broker, topic, key=key)
    destination.deliver(batch(events(2, start=1)))
    assert [message.key() for message in broker.messages(topic)] == keys
    destination.close()


def test_a_users_events_stay_in_order_over_several_partitions(broker: Broker) -> None:
    name = f"t-{uuid.uuid4().hex[:12]}"
    broker.make_topic(name, partitions=4)
    destination = exact(broker, name)
    for part in range(5):
        destination.deliver(batch(events(50, start=50 * part)))
    by_user: dict[bytes, list[int]] = {}
    places: dict[bytes, set[int]] = {}
    for message in broker.messages(name):
        by_user.setdefault(message.key(), []).append(message.offset())
        places.setdefault(message.key(), set()).add(message.partition())
    assert len(by_user) == 7
    assert all(offsets == sorted(offsets) for offsets in by_user.values())
    assert all(len(partitions) == 1 for partitions in places.values())
    destination.close()


def test_the_topic_follows_the_event_and_keeps_to_what_names_may_hold(broker: Broker) -> None:
    base = f"t-{uuid.uuid4().hex[:12]}"
    broker.make_topic(f"{base}.order_paid")
    broker.make_topic(f"{base}.gr__e_ge_ndert")
    destination = exact(broker, base + ".{event}", transactional_id=base)
    destination.deliver(batch([event(0), event(1, name="Größe geändert")]))
    assert len(ids(broker, f"{base}.order_paid")) == len(ids(broker, f"{base}.gr__e_ge_ndert")) == 1
    destination.close()


def test_a_name_too_long_for_a_topic_goes_to_a_topic_of_its_own(broker: Broker) -> None:
    base = f"t-{uuid.uuid4().hex[:12]}"
    destination = exact(broker, base + ".{event}", transactional_id=base)
    made = [event(0, name="Order Paid"), event(1, name="x" * 300), event(2, name="x" * 301), event(3)]
    topics = [destination._connection.topic(one) for one in made]
    assert topics[0] == f"{base}.order_paid"
    assert len(set(topics)) == 3
    assert max(map(len, topics)) == 249
    for topic in set(topics):
        broker.make_topic(topic)
    destination.deliver(batch(made))
    assert [len(ids(broker, topic)) for topic in topics] == [2, 1, 1, 2]
    destination.close()


def test_a_second_worker_shuts_out_the_first_and_nothing_is_doubled(broker: Broker, topic: str) -> None:
    first, second = exact(broker, topic), exact(broker, topic)
    first.deliver(batch(events(10)))
    assert second.position() == events(10)[-1].position
    with pytest.raises(AlreadyRunning, match="taken over"):
        first.deliver(batch(events(5, start=10)))
    second.deliver(batch(events(5, start=10)))
    assert ids(broker, topic) == expected(15)
    first.close()
    second.close()


def test_a_probe_beside_the_worker_does_not_shut_it_out(broker: Broker, topic: str) -> None:
    worker, check = exact(broker, topic), exact(broker, topic)
    worker.deliver(batch(events(5)))
    check.probe()
    check.close()
    worker.deliver(batch(events(5, start=5)))
    assert ids(broker, topic) == expected(10)
    worker.close()


class Unanswering:
    """In front of a producer: the next transaction is committed, or not, and no answer to it arrives."""

    def __init__(self, inner: Any, committed: bool) -> None:
        self.inner, self.committed = inner, committed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def commit_transaction(self) -> None:
        if self.committed:
            self.inner.commit_transaction()
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_that_was_not_answered_is_looked_up(broker: Broker, topic: str, committed: bool) -> None:
    destination = exact(broker, topic)
    destination.deliver(batch(events(10)))
    destination._producer = Unanswering(destination._producer, committed)  # type: ignore[assignment]  # a stand-in
    with pytest.raises(DestinationUnavailable):
        destination.deliver(batch(events(10, start=10)))
    destination.deliver(batch(events(10, start=10)))
    destination.deliver(batch(events(10, start=20)))
    assert ids(broker, topic) == expected(30)
    assert destination.position() == events(30)[-1].position
    destination.close()


def test_another_destinations_open_transaction_does_not_hide_our_position(broker: Broker, topic: str) -> None:
    destination = exact(broker, topic)
    destination.position()
    other = Producer({**broker.client, "transactional.id": f"other-{topic}"})
    other.init_transactions(10)
    other.begin_transaction()
    other.produce("cdc_tracker_checkpoints", b"{}", b"other", partition=0)
    other.flush()
    destination.deliver(Batch(events(5), Position(9_000, -1)))
    destination.close()
    ended = threading.Timer(1.0, other.abort_transaction)
    ended.start()
    again = exact(broker, topic)
    assert again.position() == Position(9_000, -1)
    assert not ended.is_alive()  # it was waited for
    again.close()


def test_a_position_is_found_however_far_back_it_lies(broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_TAIL", 3)
    idle, busy = exact(broker, topic), exact(broker, topic, transactional_id=f"busy-{topic}")
    idle.deliver(Batch(events(5), Position(9_000, -1)))
    idle.close()
    for n in range(5):
        busy.deliver(batch(events(1, start=n)))
    busy.close()
    again = exact(broker, topic)
    assert again.position() == Position(9_000, -1)
    again.close()


def raw(n: int, op: str, *, key: bytes = b"", old_key: bytes = b"", table: str = "orders") -> Event:
    """A change as the Pipeline gives it."""
    body = f'{{"before":null,"after":{{"id":{n},"user_id":"u{n}"}},"source":{{"schema":"shop","table":"{table}"}},"op":"{op}"}}'
    return Event(f"id-{n}", RAW, body.encode(), f"raw:shop.{table}", Position(1_000 + n, 0), 0, key or b'{"id":%d}' % n, old_key)


@pytest.mark.parametrize("make", [exact, plain])
def test_raw_changes_are_keyed_by_row_and_buried_after_a_delete(broker: Broker, topic: str, make: Any) -> None:
    destination: Destination = make(broker, topic, format="debezium")
    made = [raw(1, "c"), raw(2, "u", old_key=b'{"id":1}'), raw(2, "d"), msgspec.structs.replace(raw(9, "t"), row_key=b"")]
    assert destination.deliver(batch(made)) == [DELIVERED] * 4
    found = broker.messages(topic)
    assert [(message.key(), message.value()) for message in found] == [
        (b'{"id":1}', made[0].body),
        (b'{"id":2}', made[1].body),
        (b'{"id":1}', None),
        (b'{"id":2}', made[2].body),
        (b'{"id":2}', None),
        (None, made[3].body),
    ]
    assert found[0].headers() == [("message-id", b"id-1"), ("type", b"raw"), ("op", b"c")]
    destination.close()


@pytest.mark.parametrize(
    ("more", "keys"),
    [
        ({"tombstones": False}, [b'{"id":1}', b'{"id":2}']),
        ({"key": "none"}, [None, None]),
        ({"key": "after.user_id"}, [b"u1", b"u2"]),
    ],
)
def test_without_tombstones_or_by_another_key_each_change_is_one_message(
    broker: Broker, topic: str, more: dict[str, Any], keys: list[bytes | None]
) -> None:
    destination = plain(broker, topic, format="debezium", **more)
    destination.deliver(batch([raw(1, "c"), raw(2, "d")]))
    assert [message.key() for message in broker.messages(topic)] == keys
    destination.close()


def test_raw_changes_go_to_the_topic_of_their_table(broker: Broker) -> None:
    base = f"t-{uuid.uuid4().hex[:12]}"
    for table in ("orders", "users"):
        broker.make_topic(f"{base}.shop.{table}")
    destination = exact(broker, base + ".{schema}.{table}", transactional_id=base, format="debezium")
    destination.deliver(batch([raw(1, "c"), raw(2, "c", table="users"), raw(3, "c")]))
    assert ids(broker, f"{base}.shop.orders") == ["id-1", "id-3"]
    assert ids(broker, f"{base}.shop.users") == ["id-2"]
    destination.close()


def test_events_can_be_keyed_by_row(broker: Broker, topic: str) -> None:
    destination = exact(broker, topic, key="row")
    destination.deliver(batch([msgspec.structs.replace(event(1), row_key=b'{"id":1}'), event(2)]))
    assert [message.key() for message in broker.messages(topic)] == [b'{"id":1}', None]
    destination.close()


def test_a_change_counts_once_its_tombstone_is_taken_too(broker: Broker) -> None:
    name = f"t-{uuid.uuid4().hex[:12]}"
    broker.make_topic(name, max_message_bytes="1000")
    destination = plain(broker, name, format="debezium")
    large = msgspec.structs.replace(raw(2, "d"), body=raw(2, "d").body[:-1] + b',"x":"%b"}' % (b"x" * 3_000))
    made = [raw(1, "c"), large, raw(3, "c")]
    receipts = send(destination, batch(made), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)
    assert [receipt.reason for receipt in receipts] == ["", "too_large", ""]
    destination.close()


def test_what_the_settings_want_of_the_worker() -> None:
    def wants(**more: Any) -> Requirements:
        return KafkaSettings.model_validate({"brokers": "host:9092", "topic": "t", **more}).requirements

    assert wants() == wants(key="properties.x") == Requirements()
    assert wants(key="row") == Requirements(row_key=True)
    assert wants(format="debezium") == Requirements(raw=True, row_key=True)
    assert wants(format="debezium", key="none") == Requirements(raw=True)
    columns = {"shop.orders": ["id"]}
    assert wants(key="row", key_columns=columns) == Requirements(row_key=True, key_columns=columns)


def test_the_class_that_speaks_for_the_settings_is_the_one_that_delivers() -> None:
    given = {"type": "kafka", "brokers": "host:9092", "topic": "t"}
    assert described(KafkaSettings.model_validate(given)) is KafkaDestination
    assert described(KafkaSettings.model_validate({**given, "transactions": False})) is PlainKafka


@pytest.mark.parametrize("make", [exact, plain])
def test_a_missing_topic_blocks_with_a_hint(broker: Broker, topic: str, make: Any) -> None:
    destination: Destination = make(broker, f"{topic}-none")
    for call in (destination.probe, lambda: destination.deliver(batch(events(2)))):
        with pytest.raises(DestinationBlocked, match="Unknown topic") as caught:
            call()
        assert "auto.create.topics.enable" in caught.value.hint
    broker.make_topic(f"{topic}-none")
    send(destination, batch(events(2)), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)
    assert ids(broker, f"{topic}-none") == expected(2)
    destination.close()


def test_what_the_topic_finds_too_large_is_found_and_everything_else_delivered(broker: Broker) -> None:
    name = f"t-{uuid.uuid4().hex[:12]}"
    broker.make_topic(name, max_message_bytes="3000")
    made = [event(0), event(1, note="x" * 5_000), event(2)]
    destination = exact(broker, name)
    with pytest.raises(TooLarge):
        destination.deliver(batch(made))
    receipts = send(destination, batch(made), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)
    assert [receipt.reason for receipt in receipts] == ["", "too_large", ""]
    assert ids(broker, name) == [made[0].message_id, made[2].message_id]
    destination.close()


def test_without_transactions_what_is_too_large_is_rejected_alone(broker: Broker) -> None:
    name = f"t-{uuid.uuid4().hex[:12]}"
    broker.make_topic(name, max_message_bytes="3000")
    destination = plain(broker, name)
    made = [event(0), event(1, note="x" * 5_000), event(2)]
    receipts = send(destination, batch(made), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)
    assert [receipt.reason for receipt in receipts] == ["", "too_large", ""]
    assert sorted(ids(broker, name)) == [made[0].message_id, made[2].message_id]
    destination.close()


def test_a_compacted_topic_refuses_messages_without_key_alone(broker: Broker) -> None:
    name = f"t-{uuid.uuid4().hex[:12]}"
    broker.make_topic(name, cleanup_policy="compact")
    made = [event(0), raw_event(1, '{"type":"track","event":"X","messageId":"m-1"}'), event(2)]
    for destination in (exact(broker, name), plain(broker, name)):
        receipts = send(destination, batch(made), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)
        assert [receipt.outcome is Outcome.REJECTED for receipt in receipts] == [False, True, False]
        assert receipts[1].reason == "refused"
        destination.close()


def sasl(password: str) -> dict[str, Any]:
    login = {"sasl.mechanism": "PLAIN", "sasl.username": "guest", "sasl.password": password}
    return {"security.protocol": "SASL_PLAINTEXT", **login}


@pytest.mark.parametrize("make", [exact, plain])
@pytest.mark.parametrize("password", ["guest-password", "wrong-password"])
def test_who_may_do_nothing_or_has_a_wrong_password_is_blocked(broker: Broker, topic: str, make: Any, password: str) -> None:
    destination: Destination = make(broker, topic, brokers=broker.sasl_url, config=sasl(password), timeout=3)
    with pytest.raises(DestinationBlocked) as caught:
        destination.deliver(batch(events(2)))
    assert password not in f"{caught.value} {caught.value.hint} {destination.__dict__['_settings']!r}"
    assert caught.value.hint
    destination.close()


def test_brokers_that_are_away_are_unavailable(topic: str, broker: Broker) -> None:
    for destination in (
        exact(broker, topic, brokers="127.0.0.1:1", timeout=1),
        plain(broker, topic, brokers="127.0.0.1:1", timeout=1),
    ):
        for call in (destination.probe, lambda: destination.deliver(batch(events(2)))):  # noqa: B023 — called at once
            with pytest.raises(DestinationUnavailable) as caught:
                call()
            assert not isinstance(caught.value, DestinationBlocked)
        destination.close()


@pytest.mark.usefixtures("broker")  # where that can run, one of its own can
def test_restarted_and_killed_brokers_have_each_event_once() -> None:
    with engine() as broker:
        broker.make_topic("events")
        destination = exact(broker, "events", timeout=10)
        troubles: list[CdcTrackerError] = []
        done = threading.Event()
        count = 0

        def deliver() -> None:
            nonlocal count
            while not done.is_set():
                made = batch(events(20, start=count))
                send(destination, made, stop=lambda: False, on_trouble=troubles.append, backoff=QUICK)
                count += 20

        sender = threading.Thread(target=deliver, daemon=True)
        sender.start()
        for end in (broker.program.stop, broker.program.kill):
            time.sleep(2.0)
            end()
            broker.program.start()
        time.sleep(2.0)
        done.set()
        sender.join(60)
        assert ids(broker, "events") == expected(count)
        assert destination.position() == events(count)[-1].position
        destination.close()
        # Without a broker the client forgets the topic. That is no answer of the cluster.
        watch = checkpoints.Watch({"bootstrap.servers": broker.url}, settings(broker, "events").checkpoint_topic, timeout=1)
        assert not watch.shrunk()
        broker.program.kill()
        for _ in range(5):
            with pytest.raises(KafkaException):
                watch.shrunk()
        last = batch(events(1, start=count))
        destination = exact(broker, "events", timeout=2)
        with pytest.raises(DestinationUnavailable):
            destination.deliver(last)
        broker.program.start()
        assert not watch.shrunk()
        watch.close()
        # A request of the producer that was given up arrives after those of its successor. It is not another worker.
        assert destination.position() == events(count)[-1].position
        Producer({"bootstrap.servers": broker.url, "transactional.id": "events"}).init_transactions(30)
        with pytest.raises(DestinationUnavailable, match="aborted by the cluster"):
            destination.deliver(last)
        send(destination, last, stop=lambda: False, on_trouble=troubles.append, backoff=QUICK)
        assert ids(broker, "events") == expected(count + 1)
        destination.close()


def test_an_option_that_librdkafka_does_not_know_is_named(broker: Broker, topic: str) -> None:
    with pytest.raises(ConfigError, match=r"no option `sasl\.pasword`") as caught:
        exact(broker, topic, config={"sasl.pasword": "hidden-word"})
    assert "hidden-word" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"`linger\.ms` has a value"):
        exact(broker, topic, config={"linger.ms": "hidden-word"})


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"config": {"transactional.id": "x"}}, "set `transactional_id`"),
        ({"config": {"acks": "1"}}, "always all"),
        ({"key": "properties..x"}, "must be user, row, none, or a path"),
        ({"format": "debezium", "key": "user"}, "has no `user`: key it by row"),
        ({"format": "debezium", "key": "properties.x"}, "has no `properties.x`"),
        ({"format": "debezium", "topic": "a.{event}"}, "`topic`: a raw change has no `{event}`"),
        ({"format": "debezium", "events": {"only": ["A"]}}, "`events` chooses among events"),
        ({"format": "debezium", "key": "none", "tombstones": True}, "go with `format: debezium` and `key: row`"),
        ({"tombstones": True}, "go with `format: debezium` and `key: row`"),
        ({"key_columns": {"shop.orders": ["id"]}}, "for `key: row`"),
        ({"key": "row", "key_columns": {"orders": ["id"]}}, "schema.table"),
        ({"topic": "a.{user}"}, "{user}"),
        ({"topic": "größe.{event}"}, "topic's name"),
        ({"topic": "x" * 250}, "at most 249"),
        ({"topic": ".."}, "topic's name"),
        ({"checkpoint_topic": "a b"}, "topic's name"),
    ],
)
def test_settings_that_do_not_hold_are_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        KafkaSettings.model_validate({"brokers": "host:9092", "topic": "events", **more})
    assert says in str(caught.value)


def test_options_are_never_shown() -> None:
    made = KafkaSettings.model_validate({"brokers": "host:9092", "topic": "t", "config": {"sasl.password": "hidden-word"}})
    assert "hidden-word" not in f"{made!r} {made.model_dump()}"
