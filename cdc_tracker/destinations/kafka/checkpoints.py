"""Our position, kept in Kafka itself.

A compacted topic, one key a transactional id, so that who may write a position is who holds the id. There is one for each cursor;
before there were cursors, one for each destination. Not the offsets of a consumer
group, though they can be part of a transaction, too: Kafka removes them a week after the last commit of a group without members
(offsets.retention.minutes), and a destination may be idle for longer.

A record is read back only after `init_transactions`: it shuts out every older producer of the id and brings what they left
open to an end, so nothing can be committed after the read that the read has not seen.

Several destinations share the one partition. What another one has open hides everything after it from a reader of committed
records. So the log's end is asked for first, and the reader waits until committed records reach it: at most until the other's
transaction ends or times out.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from cdc_tracker.destinations.kafka.client import AdminClient, Consumer, KafkaError, KafkaException, NewTopic, TopicPartition
from cdc_tracker.model import Position

_TAIL = 2_000  # offsets looked at first: a destination that runs is found there
_CONFIG = {
    "cleanup.policy": "compact",
    "segment.bytes": str(16 * 1024**2),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.1",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """What a record says. `batch` names the batch it came with, `out_of_band` is the digest of the last out-of-band name."""

    position: Position | None = None
    out_of_band: str = ""
    batch: str = ""

    def encode(self) -> bytes:
        lsn, ordinal = self.position if self.position is not None else (None, None)
        return msgspec.json.encode({"commit_lsn": lsn, "ordinal": ordinal, "aside": self.out_of_band, "batch": self.batch})


def decode(value: bytes) -> Stored:
    read = msgspec.json.decode(value)
    position = None if read["commit_lsn"] is None else Position(read["commit_lsn"], read["ordinal"])
    return Stored(position, read["aside"], read["batch"])


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def make_topic(client: dict[str, Any], topic: str, timeout: float) -> None:
    """Make the topic where it is missing. Raises KafkaException."""
    admin = AdminClient(client)
    found = admin.list_topics(timeout=timeout).topics
    if topic in found and found[topic].error is None:
        return
    try:
        admin.create_topics([NewTopic(topic, 1, -1, config=_CONFIG)], operation_timeout=timeout)[topic].result(timeout)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def read(client: dict[str, Any], topic: str, keys: list[bytes], timeout: float) -> dict[bytes, Stored]:
    """The last committed record of each key that has one; of the first key, surely. Raises KafkaException.

    Also where the end is not reached in time.
    """
    deadline = time.monotonic() + timeout
    consumer = _uncommitted(client)
    try:
        first, end = _ends(consumer, topic, timeout)
    finally:
        consumer.close()
    found: dict[bytes, Stored] = {}
    for begin in sorted({max(first, end - _TAIL), first}, reverse=True):
        found = _last(client, TopicPartition(topic, 0, begin), end, keys, deadline)
        if keys[0] in found:
            break
    return found


class Watch:
    """Notices that the topic ends before what we wrote to it: it was made anew or restored, or has lost its last records."""

    def __init__(self, client: dict[str, Any], topic: str, timeout: float) -> None:
        self._client, self._topic, self._timeout = client, topic, timeout
        self._consumer: Consumer | None = None
        self._end = 0

    def shrunk(self) -> bool:
        """Raises KafkaException where the cluster does not answer."""
        self._consumer = self._consumer or _uncommitted(self._client)
        try:
            _, high = _ends(self._consumer, self._topic, self._timeout)
        except KafkaException as error:
            self.close()  # a client that has lost its brokers may not find the topic again
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return True
            raise
        shrunk, self._end = high < self._end, high
        return bool(shrunk)

    def wrote(self) -> None:
        """A record, which comes behind the end that was last looked at."""
        self._end += 1

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _uncommitted(client: dict[str, Any]) -> Consumer:
    return Consumer({**client, "group.id": "cdc-tracker", "isolation.level": "read_uncommitted"})


def _ends(consumer: Consumer, topic: str, timeout: float) -> tuple[int, int]:
    """The log's beginning and its end, with what is not committed yet. Raises KafkaException: what the cluster says."""
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=timeout)
        return low, high
    except KafkaException as error:
        if error.args[0].code() not in (KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC):
            raise
    # That is the client's own word: it says so while no broker answers, too. Whether the topic is there, the cluster knows.
    found = consumer.list_topics(topic, timeout=timeout).topics[topic]
    raise KafkaException(found.error or KafkaError(KafkaError.LEADER_NOT_AVAILABLE))


def _last(client: dict[str, Any], begin: TopicPartition, end: int, keys: list[bytes], deadline: float) -> dict[bytes, Stored]:
    settings = {"isolation.level": "read_committed", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer(
        {**client, "group.id": "cdc-tracker", "auto.offset.reset": "earliest", "fetch.wait.max.ms": 20, **settings}
    )
    found: dict[bytes, Stored] = {}
    reached = begin.offset
    try:
        consumer.assign([begin])
        while reached < end:
            for message in consumer.consume(1_000, timeout=0.1):
                error, offset = message.error(), message.offset()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                reached = max(reached, offset or 0)  # markers of transactions and what was compacted away come as no message
                key = message.key()
                if error is None and isinstance(key, bytes) and key in keys:
                    value = message.value()
                    found |= {key: decode(value)} if value else {}
                    if not value:  # it was taken over by a cursor
                        found.pop(key, None)
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "a transaction of another destination is still open"))
    finally:
        consumer.close()
    return found
