"""What a job does between two looks at the live stream."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TypeAlias

from cdc_tracker.delivery.batcher import PendingBatch

EVENTS = 2_000  # that go in one call at most beside the stream: a live change waits for no more than that
BYTES = 2 * 1024**2
PORTION = 250  # changes that are made into events in one step: a live change waits for no more than that


class Pause(enum.Enum):
    WORKED = enum.auto()  # there is more to do at once
    WAITING = enum.auto()  # for something that takes a while


Steps: TypeAlias = Iterator[PendingBatch | Pause]
"""A job as a generator: it gives a parcel to send, or says that it lets others have a turn. It ends where the job does."""
