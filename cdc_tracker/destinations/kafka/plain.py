"""Delivery to Kafka without transactions: at least once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, NoReturn

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.kafka.client import KafkaError, KafkaException, Message, Producer
from cdc_tracker.destinations.kafka.connection import Connection, Report, discard
from cdc_tracker.destinations.kafka.settings import KafkaSettings
from cdc_tracker.errors import BatchRejected, CdcTrackerError, DestinationBlocked, DestinationUnavailable, Stop, TooLarge
from cdc_tracker.model import DELIVERED, Batch, Event, Outcome, Receipt

_UNANSWERED = KafkaError(KafkaError._TIMED_OUT)


class PlainKafka:
    """DELIVERED means that all replicas in sync have the message."""

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
            self._connection.settled()
            return [DELIVERED] * len(answers)
        if any(answer is not None and answer.fatal() for answer in answers):
            self.close()  # an idempotent producer that has lost count: a new one begins anew
        topics = [self._connection.topic(event) for event in batch.events]
        troubles = [self._connection.meaning(a, t) if a is not None else None for a, t in zip(answers, topics, strict=True)]
        # A broker refuses a record batch as a whole: whose fault it was shows once an event is alone.
        if None not in troubles:
            _raise(troubles)
        return [DELIVERED if trouble is None else Receipt(Outcome.RETRY, str(trouble)) for trouble in troubles]

    def probe(self) -> None:
        self._connection.probe()

    def close(self) -> None:
        if self._producer is not None:
            discard(self._producer)
            self._producer = None

    def _sent(self, producer: Producer, batch: Batch) -> list[KafkaError | None]:
        """What became of each event: None where it was taken."""
        answers: list[KafkaError | None] = [_UNANSWERED] * len(batch.events)
        try:
            for number, event in enumerate(batch.events):
                self._enqueue(producer, event, answers, number)
            if producer.flush(self._settings.timeout + 5.0):
                producer.purge()  # what comes later must not arrive behind what is sent again
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
    """Writes down what became of an event once all of its records have their report."""
    left, trouble = records, None

    def take(error: KafkaError | None, message: Message) -> None:
        nonlocal left, trouble
        left -= 1
        trouble = error if trouble is None else trouble
        if not left:
            answers[number] = trouble

    return take


def _raise(troubles: list[CdcTrackerError | None]) -> NoReturn:
    """Nothing was taken. First what splitting finds out, then what a person has to know of."""
    for kind in (TooLarge, BatchRejected, DestinationBlocked, DestinationUnavailable):
        for trouble in troubles:
            if isinstance(trouble, kind):
                raise trouble
    raise Stop("Kafka took nothing, and did not say why")
