"""The positions of destinations, stored in Kafka itself.

They are records of a compacted topic. A record's key is a transactional id, so only the producer with that id can write it. Each
cursor has an id; in earlier versions each destination. Offsets of a consumer group could also be part of a transaction, but Kafka
removes them a week after the last commit of a group without members (offsets.retention.minutes), and a destination may be idle
for longer.

A record is read only after `init_transactions`. That shuts out every older producer with the id and ends its transactions, so no
record of theirs can be committed after the read.

Several destinations share one partition. An open transaction of one hides all later records from readers of committed records.
So the log's end is read first, and the reader waits until the committed records reach it: at most until the other transaction
ends or times out.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cdc_tracker.destinations.support.exactly_once import Stored
from cdc_tracker.model import Position

_TAIL = 2_000  # offsets that are read first: they contain the position of a running destination
_CONFIG = {
    "cleanup.policy": "compact",
    "segment.bytes": str(16 * 1024**2),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.1",
}


def encode(record: Stored) -> bytes:
    """The record as JSON; `aside` is the earlier name of `out_of_band`."""
    lsn, ordinal = record.position if record.position is not None else (None, None)
    return msgspec.json.encode({"commit_lsn": lsn, "ordinal": ordinal, "aside": record.out_of_band, "batch": record.batch})


def decode(value: bytes) -> Stored:
    """Reads a record that `encode` wrote."""
    read = msgspec.json.decode(value)
    position = None if read["commit_lsn"] is None else Position(read["commit_lsn"], read["ordinal"])
    return Stored(position, read["aside"], read["batch"])


def make_topic(client: dict[str, Any], topic: str, timeout: float) -> None:
    """Creates the topic if it is missing. Raises KafkaException."""
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
    """Returns the last committed record of each key that has one.

    Reads the whole log only if the first key is not near its end. Raises KafkaException, also if time runs out before the end.
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
    """Detects a topic that lost a record written to it: it was recreated or restored, or its last records are gone."""

    def __init__(self, client: dict[str, Any], topic: str, timeout: float) -> None:
        self._client, self._topic, self._timeout = client, topic, timeout
        self._consumer: Consumer | None = None
        self._end = 0

    def shrunk(self) -> bool:
        """Whether the topic is gone, or shorter than before. Raises KafkaException if the cluster does not answer."""
        self._consumer = self._consumer or _uncommitted(self._client)
        try:
            _, high = _ends(self._consumer, self._topic, self._timeout)
        except KafkaException as error:
            self.close()  # a client that lost its brokers may not find the topic again
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return True
            raise
        shrunk, self._end = high < self._end, high
        return bool(shrunk)

    def wrote(self) -> None:
        """Counts a record that was written since the last call of `shrunk`."""
        self._end += 1

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _uncommitted(client: dict[str, Any]) -> Consumer:
    return Consumer({**client, "group.id": "cdc-tracker", "isolation.level": "read_uncommitted"})


def _ends(consumer: Consumer, topic: str, timeout: float) -> tuple[int, int]:
    """Returns the log's beginning and its end, uncommitted records included. Raises KafkaException with the cluster's error."""
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=timeout)
        return low, high
    except KafkaException as error:
        if error.args[0].code() not in (KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC):
            raise
    # The client reports this also while no broker answers. So ask the cluster whether the topic exists.
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
                reached = max(reached, offset or 0)  # markers of transactions and compacted records arrive as no message
                key = message.key()
                if error is None and isinstance(key, bytes) and key in keys:
                    value = message.value()
                    found |= {key: decode(value)} if value else {}
                    if not value:  # a tombstone: the record of a cursor has replaced it
                        found.pop(key, None)
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "a transaction of another destination is still open"))
    finally:
        consumer.close()
    return found
