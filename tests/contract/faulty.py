"""A scripted faulty destination in front of a real one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from cdc_tracker.destinations.base import Destination, DestinationSettings, Guarantee, HoldsCheckpoint
from cdc_tracker.errors import BatchRejected, CdcTrackerError, DestinationUnavailable, TooLarge
from cdc_tracker.model import Batch, Event, Outcome, Position, Receipt


class Faulty:
    """Fails as told, otherwise passes the call on. `calls` are all that it was asked for."""

    Settings: ClassVar[type[DestinationSettings]] = DestinationSettings
    guarantee: ClassVar[Guarantee] = "at least once"
    duplicate_handling: ClassVar[str] = "does what the one behind does"
    dedupe_window: ClassVar[float] = 0.0
    age_limit: ClassVar[float] = math.inf

    def __init__(self, inner: Destination) -> None:
        self.inner = inner
        self.limits = inner.limits
        self.calls: list[Batch] = []
        self.errors: deque[CdcTrackerError] = deque()  # raised by the next calls, which deliver nothing
        self.unanswered = 0  # so many next calls deliver, and then seem to fail
        self.most = 1_000_000  # events in a call; more is TooLarge
        self.minds: Callable[[Event], bool] = lambda event: False  # a batch with such an event is BatchRejected
        self.throttles: set[str] = set()  # messageIds that get RETRY once

    def deliver(self, batch: Batch) -> list[Receipt]:
        self.calls.append(batch)
        if self.errors:
            raise self.errors.popleft()
        if len(batch.events) > self.most:
            raise TooLarge(f"more than {self.most} events")
        if any(self.minds(event) for event in batch.events):
            raise BatchRejected("something in there is wrong")
        later = [event.message_id in self.throttles for event in batch.events]
        self.throttles -= {event.message_id for event in batch.events}
        if any(later):
            return self._some(batch, later)
        receipts = self.inner.deliver(batch)
        if self.unanswered:
            self.unanswered -= 1
            raise DestinationUnavailable("the connection was cut before the answer")
        return receipts

    def _some(self, batch: Batch, later: list[bool]) -> list[Receipt]:
        now = [event for event, wait in zip(batch.events, later, strict=True) if not wait]
        receipts = iter(self.inner.deliver(replace(batch, events=now)) if now else [])
        return [Receipt(Outcome.RETRY, "throttled") if wait else next(receipts) for wait in later]

    def probe(self) -> None:
        self.inner.probe()

    def close(self) -> None:
        self.inner.close()


class FaultyHolder(Faulty):
    """The same before a destination that holds its checkpoint."""

    def position(self) -> Position | None:
        assert isinstance(self.inner, HoldsCheckpoint)
        return self.inner.position()

    def rewind(self, to: Position) -> None:
        assert isinstance(self.inner, HoldsCheckpoint)
        self.inner.rewind(to)


def faulty(inner: Destination) -> Faulty:
    return FaultyHolder(inner) if isinstance(inner, HoldsCheckpoint) else Faulty(inner)
