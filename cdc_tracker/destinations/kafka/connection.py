"""Producers, records and the cluster's errors, for delivery with and without transactions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from cdc_tracker.destinations.kafka.settings import MOST_CHARACTERS, KafkaSettings
from cdc_tracker.destinations.support.name_templates import NameTemplate, key_maker, operation
from cdc_tracker.destinations.support.urls import redacted
from cdc_tracker.errors import (
    AlreadyRunning,
    BatchRejected,
    CdcTrackerError,
    ConfigError,
    DestinationBlocked,
    DestinationUnavailable,
    TooLarge,
)
from cdc_tracker.model import RAW, Event, Op

TRANSACTION = 60.0  # seconds after which the cluster ends an open transaction
_PRODUCER_ONLY = ("compression", "batch.", "linger", "queue.", "partitioner", "retries", "retry.backoff", "sticky.", "message.")
_log = logging.getLogger("cdc_tracker.kafka")

FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE)
_REFUSED = (
    KafkaError.INVALID_RECORD,
    KafkaError._INVALID_DIFFERENT_RECORD,
    KafkaError.POLICY_VIOLATION,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.INVALID_MSG,
)
_LOGIN = (KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._AUTHENTICATION, KafkaError._SSL)
_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "allow it WRITE and DESCRIBE on the topics, and READ on the checkpoint topic",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "allow it WRITE and DESCRIBE on the transactional id, by a prefixed ACL",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "allow it IDEMPOTENT_WRITE on the cluster",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "allow it READ on the group of the same name as the transactional id",
}
_NO_TOPIC = KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.TOPIC_EXCEPTION
_FORBIDDEN |= dict.fromkeys(_NO_TOPIC, "make the topic, or let the brokers do so (auto.create.topics.enable)")

Report = Callable[[KafkaError | None, Any], None]


class Record(NamedTuple):
    """One record of an event. Without a value it is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]


class Connection:
    """The cluster, its options, and the last error of its connections."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._options = {key: value.get_secret_value() for key, value in settings.config.items()}
        self._secrets = [value for key, value in self._options.items() if "password" in key or "secret" in key or ".pem" in key]
        self._last_error: KafkaError | None = None
        self._topics = NameTemplate(settings.topic, _clean, MOST_CHARACTERS)
        self._key = key_maker(settings.keyed_by)
        self._check()

    def __str__(self) -> str:
        return f"Kafka at {self._settings.brokers}"

    @property
    def client(self) -> dict[str, Any]:
        """The options of a consumer or of administration."""
        shared = {key: value for key, value in self._options.items() if not key.startswith(_PRODUCER_ONLY)}
        return {**shared, **self._always()}

    def producer(self, **more: Any) -> Producer:
        """A new producer, idempotent and acknowledged by all replicas; `more`: options of its own. Raises KafkaException."""
        milliseconds = int(self._settings.timeout * 1000)
        options = {
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",  # as the Java clients, so that others find a user in the same partition
            "linger.ms": 5,
            "topic.metadata.propagation.max.ms": min(5_000, milliseconds),
            **self._options,
            **self._always(),
            "message.timeout.ms": milliseconds,
            "message.max.bytes": self._settings.event_size + 64 * 1024,  # key and headers
        }
        return Producer({**options, **more}, logger=_log)

    def records(self, event: Event) -> list[Record]:
        """The records of an event, in order: one with its body, and a tombstone for the key that its change removed."""
        topic, key = self._topics.name(event), self._key(event)
        headers: list[tuple[str, str | bytes | None]] = [("message-id", event.message_id.encode()), ("type", event.type.encode())]
        if event.type != RAW:
            return [Record(topic, key, event.body, headers)]
        op = operation(event)
        headers.append(("op", op.encode()))
        found = [Record(topic, key, event.body, headers)]
        removed = event.old_key or (key if op == Op.DELETE else None)
        if self._settings.writes_tombstones and removed:
            found.append(Record(topic, removed, None, headers))
        return found

    def produce(self, producer: Producer, record: Record, report: Report | None) -> None:
        """Puts a record into the producer's queue; waits while the queue is full."""
        while True:
            try:
                producer.produce(record.topic, record.value, record.key, headers=record.headers, on_delivery=report)
                return
            except BufferError:  # the queue is full
                producer.poll(0.1)

    def topic(self, event: Event) -> str:
        """The topic of the event's records."""
        return self._topics.name(event)

    def probe(self) -> None:
        """Reaches the cluster and checks that the topic exists, if its name is fixed."""
        self._last_error = None
        try:
            admin = AdminClient(self.client, logger=_log)
            topic = None if "{" in self._settings.topic else self._settings.topic
            found = (
                admin.list_topics(topic, self._settings.timeout) if topic else admin.list_topics(timeout=self._settings.timeout)
            )
        except KafkaException as error:
            raise self.translated(error) from None
        wrong = found.topics[topic].error if topic else None
        if wrong is not None and wrong.code() != KafkaError.LEADER_NOT_AVAILABLE:  # it is being created
            raise self.translated(wrong, topic)

    def translated(self, failure: KafkaError | KafkaException, topic: str | None = None) -> CdcTrackerError:
        """The error as a CdcTrackerError. The last error of a connection says more than a timeout."""
        error = failure.args[0] if isinstance(failure, KafkaException) else failure
        code, behind = error.code(), self._last_error
        text = redacted(f"{self}: {f'topic {topic}: ' if topic else ''}{error.str()}", self._secrets)
        if code in FENCED:
            return AlreadyRunning(
                f"{self}: another producer has taken over this transactional.id",
                hint="another worker delivers to this destination, or another installation uses the same name: stop it, or set "
                "`transactional_id`. Nothing was written twice",
            )
        if code in _LOGIN or (behind is not None and behind.code() in _LOGIN):
            said = text if code in _LOGIN or behind is None else f"{self}: {behind.str()}"
            return DestinationBlocked(said, hint="correct the credentials and security.protocol in `config`")
        if code in _FORBIDDEN:
            return DestinationBlocked(text, hint=_FORBIDDEN[code])
        if code in _TOO_LARGE or code in _REFUSED:
            return TooLarge(text) if code in _TOO_LARGE else BatchRejected(text)
        said = f" ({behind.str()})" if behind is not None and behind.code() != code else ""
        return DestinationUnavailable(text + said)

    def forget_errors(self) -> None:
        """Forgets earlier errors. To be called after a success."""
        self._last_error = None

    def _always(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self._settings.brokers,
            "client.id": self._options.get("client.id", "cdc-tracker"),
            "error_cb": self._record_error,
        }

    def _record_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN or self._last_error is None:
            self._last_error = error

    def _check(self) -> None:
        """Lets the library check each option by itself, to name the one that is wrong. Raises ConfigError."""
        for key, value in self._options.items():
            try:
                Producer({key: value}, logger=_log)
            except KafkaException as error:
                said = error.args[0].str()
                if "No such configuration property" in said:
                    raise ConfigError(
                        f"kafka: config: librdkafka has no option `{key}`",
                        hint="its CONFIGURATION.md lists them; options of Java clients may have other names there",
                    ) from None
                if "Invalid value" in said:
                    raise ConfigError(f"kafka: config: `{key}` has a value that librdkafka does not take") from None
            except (TypeError, ValueError) as error:
                raise ConfigError(f"kafka: config: `{key}`: {type(error).__name__}") from None
        try:
            self.producer()
        except KafkaException as error:
            raise ConfigError(f"kafka: config: {redacted(error.args[0].str(), self._secrets)}") from None


def discard(producer: Producer | None) -> None:
    """Drops a producer, if there is one, and what it has not sent, after a last round of its error callbacks."""
    if producer is None:
        return
    with suppress(KafkaException):  # it may have failed for good
        producer.purge()
        producer.flush(0)


def _clean(text: str) -> str:
    """The text as a part of a topic's name, which may not be `.` or `..`."""
    made = "".join([sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "_" for sign in text])
    return made if made.strip(".") else "_" * len(made)
