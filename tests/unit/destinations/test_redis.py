"""What is special to Redis: the script and its token, lost answers, restores, privileges."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import ValidationError

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.redis import RedisDestination, RedisSettings
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, CheckpointMoved, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import Batch, Position
from tests.vendors.engine import folder
from tests.vendors.kit import Engines, batch, event, events, raw_event
from tests.vendors.redis import Server, running

QUICK = Backoff(first=0.001, cap=0.05, blocked=0.005, longest=0.01)


@pytest.fixture
def node() -> Iterator[Server]:
    """One of our own, which a test may spoil."""
    with folder() as root, running(root, "--appendonly", "yes", "--appendfsync", "always") as started:
        yield started


@pytest.fixture
def shared(engines: Engines) -> Server:
    found: Server = engines.get("redis")
    found.command("FLUSHALL")
    return found


def opened(node: Server, **settings: Any) -> RedisDestination:
    made = RedisSettings.model_validate({"url": node.url, "stream": "events", "timeout": 5, **settings})
    return RedisDestination("shop", made, Path())


def ids(node: Server, stream: str = "events") -> list[bytes]:
    return [entry["message-id"] for entry in node.entries(stream)]


def expected(count: int) -> list[bytes]:
    return [one.message_id.encode() for one in events(count)]


def test_an_entry_has_id_type_and_the_event_as_it_is(shared: Server) -> None:
    destination = opened(shared)
    one = event(1, note="ü")
    destination.deliver(batch([one]))
    assert shared.entries("events") == [{"message-id": one.message_id.encode(), "type": b"track", "event": one.body}]
    destination.close()


def test_the_stream_follows_the_event(shared: Server) -> None:
    destination = opened(shared, stream="shop:{event}")
    destination.deliver(batch([event(0), event(1, name="Größe geändert"), raw_event(2, '{"type":"identify","messageId":"m"}')]))
    assert [len(ids(shared, f"shop:{name}")) for name in ("order_paid", "größe_geändert", "identify")] == [1, 1, 1]
    destination.close()


def test_the_position_stands_in_redis_under_the_name_of_the_destination(shared: Server) -> None:
    destination = opened(shared)
    destination.deliver(Batch(events(3), Position(9_000, 4)))
    assert shared.command("HMGET", "cdc-tracker:shop", "commit_lsn", "ordinal") == [b"9000", b"4"]
    destination.close()


def test_a_stream_keeps_about_as_much_as_it_is_told(shared: Server) -> None:
    destination = opened(shared, maxlen=100)
    for part in range(5):
        destination.deliver(batch(events(400, start=400 * part)))
    assert 100 <= len(ids(shared)) <= 400
    assert ids(shared)[-1] == expected(2_000)[-1]
    destination.close()


def test_a_second_worker_shuts_out_the_first_and_nothing_is_doubled(shared: Server) -> None:
    first, second = opened(shared), opened(shared)
    first.deliver(batch(events(10)))
    assert second.position() == events(10)[-1].position
    with pytest.raises(AlreadyRunning, match="another worker"):
        first.deliver(batch(events(5, start=10)))
    second.deliver(batch(events(5, start=10)))
    assert ids(shared) == expected(15)
    first.close()
    second.close()


def test_a_server_that_was_restored_stops_the_worker_which_then_begins_where_redis_is(shared: Server) -> None:
    destination = opened(shared)
    destination.deliver(batch(events(10)))
    saved = shared.command("DUMP", "cdc-tracker:shop"), shared.command("DUMP", "events")
    destination.deliver(batch(events(10, start=10)))
    for key, value in zip(("cdc-tracker:shop", "events"), saved, strict=True):
        shared.command("RESTORE", key, 0, value, "REPLACE")
    with pytest.raises(CheckpointMoved, match="the last batch is missing there"):
        destination.deliver(batch(events(10, start=20)))
    assert ids(shared) == expected(10)
    destination.close()
    again = opened(shared)
    assert again.position() == events(10)[-1].position
    again.close()


def test_an_emptied_server_stops_the_worker(shared: Server) -> None:
    destination = opened(shared)
    destination.deliver(batch(events(10)))
    shared.command("FLUSHALL")
    with pytest.raises(CheckpointMoved, match="the last batch is missing there"):
        destination.deliver(batch(events(10, start=10)))
    destination.close()


class Unanswering:
    """In front of a client: a script is run, and then the connection seems to be cut."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def evalsha(self, *arguments: Any) -> Any:
        try:
            self.inner.evalsha(*arguments)
        except redis.exceptions.NoScriptError:
            raise
        raise redis.exceptions.ConnectionError("Connection closed by server.")


def test_a_batch_whose_answer_was_lost_is_not_added_again(shared: Server) -> None:
    destination = opened(shared)
    destination.deliver(batch(events(10)))
    client = destination._redis
    destination._redis = Unanswering(client)
    with pytest.raises(DestinationUnavailable, match="closed by server"):
        destination.deliver(batch(events(10, start=10)))
    destination._redis = client
    destination.deliver(batch(events(10, start=10)))
    destination.deliver(batch(events(10, start=20)))
    assert ids(shared) == expected(30)
    assert destination.position() == events(30)[-1].position
    destination.close()


def test_another_kind_of_key_under_the_streams_name_blocks_and_nothing_of_the_batch_is_written(shared: Server) -> None:
    shared.command("SET", "shop:refund", "x")
    destination = opened(shared, stream="shop:{event}")
    with pytest.raises(DestinationBlocked, match="shop:refund is a string"):
        destination.deliver(batch([event(0), event(1, name="Refund")]))
    assert ids(shared, "shop:order_paid") == []
    assert destination.position() is None
    shared.command("DEL", "shop:refund")
    destination.deliver(batch([event(0), event(1, name="Refund")]))
    assert len(ids(shared, "shop:order_paid")) == len(ids(shared, "shop:refund")) == 1
    destination.close()


def test_full_memory_is_waited_for_and_nothing_of_the_batch_is_written(node: Server) -> None:
    destination = opened(node)
    destination.deliver(batch(events(3)))
    node.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(DestinationUnavailable) as caught:
        destination.deliver(batch(events(3, start=3)))
    assert not isinstance(caught.value, DestinationBlocked)
    assert "maxmemory" in caught.value.hint
    node.command("CONFIG", "SET", "maxmemory", "0")
    assert ids(node) == expected(3)
    destination.deliver(batch(events(3, start=3)))
    assert ids(node) == expected(6)
    destination.close()


def test_a_wrong_password_blocks_and_is_shown_nowhere(node: Server) -> None:
    node.command("CONFIG", "SET", "requirepass", "right-password")
    wrong = node.url.replace("//", "//:wrong-password@")
    destination = opened(node, url=wrong)
    for call in (destination.probe, lambda: destination.deliver(batch(events(1)))):
        with pytest.raises(DestinationBlocked) as caught:
            call()
        assert "wrong-password" not in f"{caught.value} {caught.value.hint} {destination._settings!r}"
    destination.close()
    unnamed = opened(node)
    with pytest.raises(DestinationBlocked):
        unnamed.probe()
    unnamed.close()


def test_a_user_who_may_not_write_blocks(node: Server) -> None:
    node.command("ACL", "SETUSER", "reader", "on", ">secret-word", "~*", "+@read", "+@connection", "+eval", "+evalsha")
    destination = opened(node, url=node.url.replace("//", "//reader:secret-word@"))
    with pytest.raises(DestinationBlocked) as caught:
        destination.deliver(batch(events(1)))
    assert "secret-word" not in str(caught.value)
    destination.close()


def test_a_replica_that_takes_no_writes_blocks(node: Server) -> None:
    with folder() as root, running(root) as replica:
        replica.command("REPLICAOF", "127.0.0.1", node.url.split(":")[2].split("/")[0])
        destination = opened(replica)
        with pytest.raises(DestinationBlocked, match=r"[Rr]ead.only|replica"):
            destination.deliver(batch(events(1)))
        destination.close()


def test_a_batch_counts_once_replicas_have_it_and_is_not_added_again_while_they_are_waited_for(node: Server) -> None:
    destination = opened(node, wait_replicas=1, timeout=1)
    destination.position()
    with pytest.raises(DestinationUnavailable, match="0 of 1 replicas"):
        destination.deliver(batch(events(3)))
    with folder() as root, running(root) as replica:
        replica.command("REPLICAOF", "127.0.0.1", node.url.split(":")[2].split("/")[0])
        send(destination, batch(events(3)), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)
        assert ids(node) == expected(3)
        assert ids(replica) == expected(3)
    destination.close()


def test_killed_servers_have_each_event_once(node: Server) -> None:
    destination = opened(node)
    troubles: list[CdcTrackerError] = []
    done = threading.Event()

    def deliver() -> None:
        for part in range(150):
            made = batch(events(20, start=20 * part))
            send(destination, made, stop=lambda: False, on_trouble=troubles.append, backoff=QUICK)
        done.set()

    sender = threading.Thread(target=deliver, daemon=True)
    sender.start()
    while not done.is_set():
        node.program.kill()
        node.program.start()
        time.sleep(0.1)
    sender.join(60)
    assert ids(node) == expected(3_000)
    assert destination.position() == events(3_000)[-1].position
    assert troubles
    destination.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "http://host"}, "redis://"),
        ({"stream": "x:{user}"}, "{user}"),
        ({"stream": "x:{event"}, "must be a name"),
        ({"maxlen": 0}, "greater than or equal"),
        ({"in_flight": 2}, "less than or equal"),
    ],
)
def test_settings_that_do_not_hold_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RedisSettings.model_validate({"url": "redis://:hidden-word@host", "stream": "events", **settings})
    assert says in str(caught.value)
    assert "hidden-word" not in str(caught.value)
