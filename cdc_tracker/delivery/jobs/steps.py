"""The work of a job, in steps that it does between two turns of the live stream."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from cdc_tracker.delivery.batcher import PendingBatch
from cdc_tracker.model import START, Event, Position
from cdc_tracker.state import Job

EVENTS = 2_000  # of one call beside the stream at most: bounds how long a live change waits
BYTES = 2 * 1024**2
PORTION = 250  # changes mapped in one step at most: bounds how long a live change waits


class Pause(enum.Enum):
    WORKED = enum.auto()  # there is more to do now
    WAITING = enum.auto()  # for something that takes time


Steps: TypeAlias = Iterator[PendingBatch | Pause]
"""A job as a generator: yields a batch to send, or a Pause to let others have a turn. Ends when the job is done."""


class Work(ABC):
    """The work of one job. Used on the delivery loop's thread."""

    trouble = ""  # why it makes no progress
    rows = 0  # read from a table so far
    read = START  # how far the live stream has been read
    lagging = False  # capture is behind the server: a table must not be read further

    @abstractmethod
    def steps(self) -> Steps:
        """Yields the steps from the stored progress to the end of the job."""

    @abstractmethod
    def done(self, upto: Position) -> None:
        """Notes that the batch up to `upto` was dealt with. The caller then stores the progress."""

    @abstractmethod
    def updated(self, job: Job) -> Job:
        """Returns the job with its progress, segment and `needs` as they are to be stored."""

    def note(self, events: Iterable[Event]) -> None:  # noqa: B027  optional
        """Notes events of the live stream that are about to be sent."""

    def close(self) -> None:  # noqa: B027  optional
        """Ends what runs beside the steps."""
