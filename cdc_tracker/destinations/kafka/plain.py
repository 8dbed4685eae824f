"""Delivery to Kafka without transactions: at least once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, NoReturn

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.kafka.connection import Connection, Report, discard
from cdc_tracker.destinations.kafka.settings import KafkaSettings
from cdc_tracker.errors import BatchRejected, CdcTrackerError, DestinationBlocked, DestinationUnavailable, Stop, TooLarge
from cdc_tracker.model import DELIVERED, Batch, Event, Outcome, Receipt

_UNANSWERED = KafkaError(KafkaError._TIMED_OUT)


class PlainKafka:
    """DELIVERED means that all in-sync replicas have the message."""

    Settings: ClassVar[type[DestinationSettings]] = KafkaSettings
    guarantee: ClassVar[Guarantee] = "at least once"
    duplicate_handling: ClassVar[str] = "keeps it again, under the same message-id"
    dedupe_window: ClassVar[float] = 0.0
    age_limit: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: KafkaSettings, base: Path) -> None:
        self.limits = Limits(5_000, 8 * 1024**2, settings.event_size)
        self._settings = settings
        self._connection = Connection(settings)
        self._producer: Producer | None = None

    def deliver(self, batch: Batch) -> list[Receipt]:
        producer = self._producer = self._producer or self._connection.producer()
        answers = self._sent(producer, batch)
        if all(answer is None for answer in answers):  # the library's errors cannot be compared with None
            self._connection.forget_errors()
            return [DELIVERED] * len(answers)
        if any(answer is not None and answer.fatal() for answer in answers):
            self.close()  # an idempotent producer that has lost count is replaced
        topics = [self._connection.topic(event) for event in batch.events]
        errors = [
            None if answer is None else self._connection.translated(answer, topic)
            for answer, topic in zip(answers, topics, strict=True)
        ]
        # A broker refuses a record batch as a whole: which event is at fault shows when it is sent alone.
        if None not in errors:
            _raise(errors)
        return [DELIVERED if error is None else Receipt(Outcome.RETRY, str(error)) for error in errors]

    def probe(self) -> None:
        self._connection.probe()

    def close(self) -> None:
        discard(self._producer)
        self._producer = None

    def _sent(self, producer: Producer, batch: Batch) -> list[KafkaError | None]:
        """The error of each event; None if it was taken."""
        answers: list[KafkaError | None] = [_UNANSWERED] * len(batch.events)
        try:
            for number, event in enumerate(batch.events):
                self._enqueue(producer, event, answers, number)
            if producer.flush(self._settings.timeout + 5.0):
                producer.purge()  # messages that are sent again must not be overtaken by late ones
                producer.flush(1.0)
        except BaseException:
            self.close()
            raise
        return answers

    def _enqueue(self, producer: Producer, event: Event, answers: list[KafkaError | None], number: int) -> None:
        try:
            records = self._connection.records(event)
            take = _taker(answers, number, len(records))
            for record in records:
                self._connection.produce(producer, record, take)
        except KafkaException as error:
            answers[number] = error.args[0]


def _taker(answers: list[KafkaError | None], number: int, records: int) -> Report:
    """A delivery report callback that stores the first error of an event's records once all of them are reported."""
    left, first_error = records, None

    def take(error: KafkaError | None, message: Message) -> None:
        nonlocal left, first_error
        left -= 1
        first_error = error if first_error is None else first_error
        if not left:
            answers[number] = first_error

    return take


def _raise(errors: list[CdcTrackerError | None]) -> NoReturn:
    """Raises the error that counts if no event was taken: what splitting resolves first, then what an operator must know."""
    for kind in (TooLarge, BatchRejected, DestinationBlocked, DestinationUnavailable):
        for error in errors:
            if isinstance(error, kind):
                raise error
    raise Stop("Kafka took nothing, and did not say why")
