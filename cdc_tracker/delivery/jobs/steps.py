"""The steps of a job: what it does between two turns of the live stream."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TypeAlias

from cdc_tracker.delivery.batcher import PendingBatch

EVENTS = 2_000  # of one call beside the stream at most: bounds how long a live change waits
BYTES = 2 * 1024**2
PORTION = 250  # changes mapped in one step at most: bounds how long a live change waits


class Pause(enum.Enum):
    WORKED = enum.auto()  # there is more to do now
    WAITING = enum.auto()  # for something that takes time


Steps: TypeAlias = Iterator[PendingBatch | Pause]
"""A job as a generator: yields a batch to send, or a Pause to let others have a turn. Ends when the job is done."""
