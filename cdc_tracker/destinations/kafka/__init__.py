"""Events as messages of Apache Kafka.

With transactions (the default) each batch is one Kafka transaction that holds the events and our position, so both are there or
neither is: consumers with isolation.level=read_committed see each event once. See checkpoints.py for how the position is kept.
A commit that was not answered is looked up: a new producer with the same transactional.id brings the old transaction to its end,
and the position that is then there tells whether the batch was taken.

Without transactions the producer is idempotent, waits for all replicas in sync, and every message has a delivery report.

With `format: debezium` the messages are raw changes, as Debezium's connector with its JSON converter (schemas off) writes them, a
tombstone after each delete included. Where an update changes a row's key, Debezium writes a delete under the old key, a tombstone
and an insert; here it is the update under the new key and a tombstone under the old one.

Messages carry no time of their own but that of writing: Kafka's retention goes by it, and would remove history at once. The
event's time is in the event.

Read: librdkafka's rdkafka.h (transactional producer API) and CONFIGURATION.md, KIP-98, KIP-360, KIP-588 and KIP-890 (fencing,
epochs, transactions that time out), KIP-211 (expiry of offsets); Debezium's
documentation of its PostgreSQL connector (change events, tombstones). Tried against Apache Kafka 4.1 (KRaft).
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.kafka.checkpoints import Held, digest, make_topic, read
from cdc_tracker.destinations.kafka.client import KafkaError, KafkaException, Message, Producer
from cdc_tracker.destinations.kafka.connection import TRANSACTION, Connection, discard
from cdc_tracker.destinations.kafka.faults import FENCED
from cdc_tracker.destinations.kafka.plain import PlainKafka
from cdc_tracker.destinations.kafka.settings import KafkaSettings
from cdc_tracker.errors import DestinationUnavailable
from cdc_tracker.model import DELIVERED, Batch, Position, Receipt


class KafkaDestination:
    """Exactly once. With `transactions: false` a PlainKafka delivers: see `of`."""

    Settings: ClassVar[type[DestinationSettings]] = KafkaSettings
    guarantee: ClassVar[Guarantee] = "exactly once"
    repeats: ClassVar[str] = "keeps it again: after a rewind the same message-id stands in the topics more than once"
    dedupe_window: ClassVar[float] = 0.0
    age_limit: ClassVar[float] = math.inf

    @classmethod
    def of(cls, settings: KafkaSettings) -> type[KafkaDestination | PlainKafka]:
        return cls if settings.transactions else PlainKafka

    def __init__(self, name: str, settings: KafkaSettings, base: Path) -> None:
        self.limits = Limits(5_000, 8 * 1024**2, settings.event_size, whole_changes=True)
        self._settings = settings
        self._connection = Connection(settings)
        self._id = settings.transactional_id or f"cdc-tracker-{name}"
        self._producer: Producer | None = None
        self._held = Held()
        self._failed: list[tuple[KafkaError, str | None]] = []  # delivery reports of the transaction under way
        self._instance, self._count = secrets.token_hex(8), 0
        self._attempt = ("", "")  # the contents of the last batch whose commit was not answered, and the name it went under

    def deliver(self, batch: Batch) -> list[Receipt]:
        """All or nothing, and durable on return."""
        self._ready()
        contents = digest("\n".join([str(batch.upto), batch.aside, *[event.message_id for event in batch.events]]))
        held = replace(self._held, batch=self._name(contents))
        held = replace(held, aside=digest(batch.aside)) if batch.aside else replace(held, position=batch.upto)
        taken = held.batch == self._held.batch or (batch.aside and held.aside == self._held.aside)
        if not taken:
            self._attempt = (contents, held.batch)
            self._write(batch, held)
        self._attempt = ("", "")
        return [DELIVERED] * len(batch.events)

    def position(self) -> Position | None:
        self._ready()
        return self._held.position

    def rewind(self, to: Position) -> None:
        self._ready()
        self._write(Batch((), to), Held(to, self._held.aside))

    def probe(self) -> None:
        """Does not touch transactions: that would shut out the worker that delivers."""
        self._connection.probe()

    def close(self) -> None:
        if self._producer is not None:
            discard(self._producer)
            self._producer = None

    def _name(self, contents: str) -> str:
        """The same for a batch that is tried again, another one for every other."""
        if self._attempt[0] == contents:
            return self._attempt[1]
        self._count += 1
        return f"{self._instance}-{self._count}"

    def _ready(self) -> None:
        """A producer that is the only one with our id, and what it finds stored."""
        if self._producer is not None:
            return
        timeout = self._settings.timeout
        producer = self._connection.producer(
            **{
                "transactional.id": self._id,
                "transaction.timeout.ms": int(max(TRANSACTION, 2 * timeout) * 1000),
                "delivery.report.only.error": True,
            }
        )
        try:
            producer.init_transactions(timeout)
            make_topic(self._connection.client, self._settings.checkpoint_topic, timeout)
            self._held = read(self._connection.client, self._settings.checkpoint_topic, self._id.encode(), timeout)
        except KafkaException as error:
            discard(producer)
            raise self._connection.trouble(error) from None
        self._producer = producer
        self._connection.settled()

    def _write(self, batch: Batch, held: Held) -> None:
        producer = self._producer
        if producer is None:
            raise DestinationUnavailable("not connected")
        self._failed.clear()
        began, certain = time.time(), True
        try:
            producer.begin_transaction()
            for event in batch.events:
                for record in self._connection.records(event):
                    self._connection.produce(producer, record, self._report)
            producer.produce(
                self._settings.checkpoint_topic, held.encode(), self._id.encode(), partition=0, on_delivery=self._report
            )
            certain = False
            producer.commit_transaction()  # waits for as long as the transaction has: librdkafka's advice
        except KafkaException as error:
            self._undo(producer, error.args[0], time.time() - began, certain)
        except BaseException:
            self.close()
            raise
        self._held = held
        self._connection.settled()

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append((error, message.topic()))

    def _undo(self, producer: Producer, error: KafkaError, seconds: float, certain: bool) -> None:
        """End a transaction that failed, and raise what it means. `certain`: it was not asked to commit yet.

        Where it may have been committed, or cannot be aborted, the producer is given up: the next one finds out.
        """
        causes = [*self._failed, (error, None)]
        cause, topic = next(((one, where) for one, where in causes if one.code() not in _FOLLOWING), causes[0])
        if error.fatal() or not ((certain or error.txn_requires_abort()) and self._aborted(producer)):
            self.close()
        if error.code() in FENCED and seconds > TRANSACTION:
            # The cluster ends what takes too long as if someone else had come: this process, or the machine, stood still.
            raise DestinationUnavailable(
                f"{self._connection}: the transaction took {seconds:.0f} s, and was ended by the cluster"
            )
        raise self._connection.meaning(error if error.code() in FENCED else cause, topic) from None

    def _aborted(self, producer: Producer) -> bool:
        abort: Callable[[float], None] = producer.abort_transaction
        try:
            abort(5.0)
        except KafkaException:
            return False
        self._attempt = ("", "")
        return True


_FOLLOWING = (
    KafkaError._INCONSISTENT,
    KafkaError._PURGE_QUEUE,
    KafkaError._PURGE_INFLIGHT,
)  # what failed because something else did
