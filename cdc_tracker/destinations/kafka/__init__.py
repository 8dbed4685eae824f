"""Events as messages of Apache Kafka.

With transactions (the default) each batch is one Kafka transaction with the events and the position, so both are stored, or
neither is: consumers with isolation.level=read_committed see each event once. checkpoints.py says how the position is stored.
After a commit without an answer, a new producer with the same transactional.id ends the old transaction, and the position that is
stored then shows whether the batch was taken.

Without transactions the producer is idempotent, waits for all replicas in sync, and every message has a delivery report.

With `format: debezium` the messages are raw changes as Debezium's connector with its JSON converter (schemas off) writes them,
including a tombstone after each delete. If an update changes a row's key, Debezium writes a delete under the old key, a
tombstone and an insert; here it is the update under the new key and a tombstone under the old one.

A message's timestamp is the time of writing, because Kafka's retention is computed from it and would remove history at once. The
event's time is in the event.

Sources: librdkafka's rdkafka.h (transactional producer API) and CONFIGURATION.md, KIP-98, KIP-360, KIP-588 and KIP-890 (fencing,
epochs, transactions that time out), KIP-211 (expiry of offsets); Debezium's documentation of its PostgreSQL connector (change
events, tombstones). Tested against Apache Kafka 4.1 (KRaft).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cdc_tracker.destinations.base import Cursor, DestinationSettings, Limits
from cdc_tracker.destinations.kafka.checkpoints import Watch, encode, make_topic, read
from cdc_tracker.destinations.kafka.connection import FENCED, TRANSACTION, Connection, discard
from cdc_tracker.destinations.kafka.plain import PlainKafka
from cdc_tracker.destinations.kafka.settings import KafkaSettings
from cdc_tracker.destinations.support.exactly_once import NamedBatches, Stored, moved
from cdc_tracker.errors import CheckpointMoved, DestinationUnavailable
from cdc_tracker.model import START, Batch, Position


class KafkaDestination(NamedBatches):
    """Exactly once. With `transactions: false` a PlainKafka delivers: see `of`."""

    Settings: ClassVar[type[DestinationSettings]] = KafkaSettings
    duplicate_handling: ClassVar[str] = "keeps it again: after a rewind the topics hold the same message-id more than once"

    @classmethod
    def of(cls, settings: KafkaSettings) -> type[KafkaDestination | PlainKafka]:
        return cls if settings.transactions else PlainKafka

    def __init__(self, name: str, settings: KafkaSettings, base: Path) -> None:
        super().__init__()
        self.limits = Limits(5_000, 8 * 1024**2, settings.event_size, whole_changes=True)
        self._settings = settings
        self._connection = Connection(settings)
        self._id = settings.transactional_id or f"cdc-tracker-{name}"
        self._old_id = ""  # of versions without cursors
        self._producer: Producer | None = None
        self._watch = Watch(self._connection.client, settings.checkpoint_topic, settings.timeout)
        self._stored = Stored()
        self._possible: list[Stored] = []  # possibly stored: the last, and those of transactions without an answer
        self._failed: list[tuple[KafkaError, str | None]] = []  # failures in the current transaction
        self._interrupted = False  # a call to the cluster has failed since the last commit

    def bind(self, cursor: Cursor, owns: Callable[[Position], bool]) -> None:
        self._old_id, self._owns = self._id, owns
        self._id = f"{self._old_id}.{cursor.key}"

    def probe(self) -> None:
        """Does not touch transactions: that would shut out the worker that delivers."""
        self._connection.probe()

    def close(self) -> None:
        discard(self._producer)
        self._producer = None
        self._watch.close()

    def _ready(self) -> Stored:
        """Creates the only producer with this id, and reads what is stored."""
        if self._producer is not None:
            return self._stored
        try:
            producer = self._fenced(self._id)
            try:
                make_topic(self._connection.client, self._settings.checkpoint_topic, self._settings.timeout)
                found = self._read()
            except BaseException:
                discard(producer)
                raise
        except KafkaException as error:
            self._interrupted = True
            raise self._connection.translated(error) from None
        if self._possible and found[0] not in self._possible:
            discard(producer)
            raise self._moved()
        self._producer = producer
        self._stored, inherited = found
        self._possible = [self._stored]
        self._connection.forget_errors()
        if inherited is not None:
            try:
                self._commit(Batch((), START), inherited, remove=self._old_id)
            except BaseException:
                self.close()  # the position must be read again
                raise
        return self._stored

    def _fenced(self, name: str) -> Producer:
        """Returns the only producer with that id: earlier ones are shut out, and their open transactions are ended."""
        milliseconds = int(max(TRANSACTION, 2 * self._settings.timeout) * 1000)
        options = {"transactional.id": name, "transaction.timeout.ms": milliseconds, "delivery.report.only.error": True}
        producer = self._connection.producer(**options)
        try:
            producer.init_transactions(self._settings.timeout)
        except BaseException:
            discard(producer)
            raise
        return producer

    def _read(self) -> tuple[Stored, Stored | None]:
        """Returns what is stored under the cursor, and a position to take over that an earlier version stored without one."""
        ours, old = self._id.encode(), self._old_id.encode()
        found = self._read_stored(ours, old)
        before = found.get(old)
        if ours in found or before is None or before.position is None or not self._owns(before.position):
            return found.get(ours, Stored()), None
        discard(self._fenced(self._old_id))  # no older worker writes after this
        found = self._read_stored(ours, old)
        return (found[ours], None) if ours in found else (Stored(), found.get(old))

    def _read_stored(self, *keys: bytes) -> dict[bytes, Stored]:
        topic = self._settings.checkpoint_topic
        return read(self._connection.client, topic, [key for key in keys if key], self._settings.timeout)

    def _moved(self) -> CheckpointMoved:
        self.close()
        self._possible = []
        return moved(f"{self._connection}, topic {self._settings.checkpoint_topic}")

    def _check(self) -> None:
        """Raises CheckpointMoved if the record stored last is gone."""
        try:
            shrunk = self._watch.shrunk()
        except KafkaException as error:
            self._interrupted = True
            raise self._connection.translated(error) from None
        if shrunk:
            raise self._moved()

    def _write(self, batch: Batch, before: Stored, after: Stored) -> None:
        self._commit(batch, after)

    def _commit(self, batch: Batch, stored: Stored, *, remove: str = "") -> None:
        """Commits the events and the position in one transaction. `remove`: the id of an earlier position to remove with it."""
        producer, topic = self._producer, self._settings.checkpoint_topic
        if producer is None:
            raise DestinationUnavailable("not connected")
        self._check()
        self._failed.clear()
        self._possible = list(dict.fromkeys([*self._possible, stored]))
        began, certain = time.time(), True
        try:
            producer.begin_transaction()
            for event in batch.events:
                for record in self._connection.records(event):
                    self._connection.produce(producer, record, self._report)
            producer.produce(topic, encode(stored), self._id.encode(), partition=0, on_delivery=self._report)
            if remove:
                producer.produce(topic, None, remove.encode(), partition=0, on_delivery=self._report)
            certain = False
            producer.commit_transaction()  # waits until the transaction's timeout, as librdkafka advises
        except KafkaException as error:
            self._undo(producer, error.args[0], time.time() - began, certain)
        except BaseException:
            self.close()
            raise
        self._stored, self._possible = stored, [stored]
        self._interrupted = False
        self._watch.wrote()
        self._connection.forget_errors()

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append((error, message.topic()))

    def _undo(self, producer: Producer, error: KafkaError, seconds: float, certain: bool) -> None:
        """Ends a failed transaction and raises its error. `certain`: its commit was not requested yet.

        If it may have been committed, or cannot be aborted, closes the producer: the next one reads what was stored.
        """
        causes = [*self._failed, (error, None)]
        cause, topic = next(((one, where) for one, where in causes if one.code() not in _CONSEQUENCES), causes[0])
        if error.fatal() or not ((certain or error.txn_requires_abort()) and self._aborted(producer)):
            self.close()
        interrupted, self._interrupted = self._interrupted, True
        if error.code() in FENCED and (interrupted or seconds > TRANSACTION):
            # Not by another worker: the cluster fences the producer of a transaction that takes too long, and a request of the
            # producer before this one, sent when the cluster did not answer, fences this one if it arrives late.
            raise DestinationUnavailable(f"{self._connection}: the transaction was aborted by the cluster after {seconds:.0f} s")
        raise self._connection.translated(error if error.code() in FENCED else cause, topic) from None

    def _aborted(self, producer: Producer) -> bool:
        abort: Callable[[float], None] = producer.abort_transaction
        try:
            abort(5.0)
        except KafkaException:
            return False
        self._attempt = ("", "")
        return True


_CONSEQUENCES = (KafkaError._INCONSISTENT, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)  # of another error
