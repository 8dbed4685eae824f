"""A destination that keeps events in memory: a test double."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.model import DELIVERED, Batch, Event, Outcome, Receipt

Answer: TypeAlias = Exception | Sequence[Receipt] | Callable[[Batch], Sequence[Receipt]]
"""The answer to a call: an exception (raised; nothing is kept), receipts (delivered and assumed events are kept), or a function
that returns receipts or raises."""


class MemorySettings(DestinationSettings):
    type: Literal["memory"] = "memory"


class MemoryDestination:
    """Keeps every event with a DELIVERED or ASSUMED receipt. The same batch twice is kept twice.

    Each call takes the next of `answers`, else `always`, else everything is DELIVERED. `batches`: the batch of each call.
    """

    Settings: ClassVar[type[DestinationSettings]] = MemorySettings
    guarantee: ClassVar[Guarantee] = "at least once"
    duplicate_handling: ClassVar[str] = "keeps it a second time"
    dedupe_window: ClassVar[float] = 0.0
    age_limit: ClassVar[float] = math.inf

    def __init__(self, name: str = "memory", settings: DestinationSettings | None = None, base: Path | None = None) -> None:
        self.name = name
        in_flight = settings.in_flight if settings else 1
        self.limits = Limits(events=10_000, batch_bytes=8 * 1024**2, event_bytes=1024**3, in_flight=in_flight)
        self.events: list[Event] = []
        self.batches: list[Batch] = []
        self.answers: deque[Answer] = deque()
        self.always: Answer | None = None
        self.closed = False
        self._lock = threading.Lock()

    def deliver(self, batch: Batch) -> list[Receipt]:
        with self._lock:
            self.batches.append(batch)
            answer = self.answers.popleft() if self.answers else self.always
            if answer is None:
                receipts = [DELIVERED] * len(batch.events)
            elif isinstance(answer, Exception):
                raise answer
            else:
                receipts = list(answer(batch) if callable(answer) else answer)
            pairs = zip(batch.events, receipts, strict=True)
            self.events.extend(event for event, receipt in pairs if receipt.outcome in _KEPT)
            return receipts

    def probe(self) -> None:
        if isinstance(self.always, Exception):
            raise self.always

    def close(self) -> None:
        self.closed = True


_KEPT = (Outcome.DELIVERED, Outcome.ASSUMED)
