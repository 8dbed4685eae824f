"""Destinations that store, atomically with the events, a record with the position and the name of the batch."""

from __future__ import annotations

import hashlib
import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from cdc_tracker.destinations.base import Guarantee
from cdc_tracker.errors import CheckpointMoved
from cdc_tracker.model import DELIVERED, Batch, Position, Receipt


@dataclass(frozen=True, slots=True)
class Stored:
    """A record. `batch` names the batch that it was stored with; `out_of_band`: digest of the last out-of-band name."""

    position: Position | None = None
    out_of_band: str = ""
    batch: str = ""


class NamedBatches(ABC):
    """Recognizes by its name a batch that was stored although its write was not answered. Appends an event that is sent again."""

    guarantee: ClassVar[Guarantee] = "exactly once"
    dedupe_window: ClassVar[float] = 0.0
    age_limit: ClassVar[float] = math.inf

    def __init__(self) -> None:
        self._owner, self._count = secrets.token_hex(8), 0  # of the names that this process gives
        self._attempt = ("", "")  # contents and name of the last batch without an answer
        self._owns: Callable[[Position], bool] = lambda position: False

    @abstractmethod
    def _ready(self) -> Stored:
        """Returns what is stored. The first time, connects and shuts out whoever wrote before."""

    @abstractmethod
    def _write(self, batch: Batch, before: Stored, after: Stored) -> None:
        """Stores the events and `after`, durably, if `before` is stored; or raises."""

    def deliver(self, batch: Batch) -> list[Receipt]:
        """Stores all events and the position, durably, or nothing."""
        before = self._ready()
        known = before.out_of_band
        after = Stored(
            before.position if batch.out_of_band else batch.upto,
            digest(batch.out_of_band) if batch.out_of_band else known,
            self._named(batch),
        )
        if after.batch != before.batch and not (batch.out_of_band and after.out_of_band == known):
            self._write(batch, before, after)
        self._attempt = ("", "")
        return [DELIVERED] * len(batch.events)

    def position(self) -> Position | None:
        return self._ready().position

    def rewind(self, to: Position) -> None:
        before, batch = self._ready(), Batch((), to)
        self._write(batch, before, Stored(to, before.out_of_band, self._named(batch)))
        self._attempt = ("", "")

    def _named(self, batch: Batch) -> str:
        """The same name for a batch that is tried again, a new one for any other."""
        contents = digest("\n".join([str(batch.upto), batch.out_of_band, *[event.message_id for event in batch.events]]))
        if self._attempt[0] != contents:
            self._attempt = (contents, self._next_name())
        return self._attempt[1]

    def _next_name(self) -> str:
        self._count += 1
        return f"{self._owner}-{self._count}"


def digest(text: str) -> str:
    """32 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def moved(place: object) -> CheckpointMoved:
    """The error to raise if the position at the destination is not the one stored last."""
    return CheckpointMoved(
        f"{place}: the position stored there is not the one stored last",
        hint="it was restored, emptied or removed, or another worker writes there. Nothing was written",
    )
