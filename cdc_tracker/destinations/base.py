"""What a destination is. Adding one is one file and one entry point in the group `cdc_tracker.destinations`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from cdc_tracker.config.destination import NOTHING_MORE, DestinationSettings, Requirements
from cdc_tracker.model import Batch, Position, Receipt

__all__ = [
    "NOTHING_MORE",
    "Cursor",
    "Destination",
    "DestinationSettings",
    "Guarantee",
    "HoldsCheckpoint",
    "KeyedCheckpoint",
    "Limits",
    "Requirements",
    "Wants",
]

Guarantee = Literal["exactly once", "once within the vendor's window", "at least once"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may hold. Bytes are of the events' JSON bodies, before compression."""

    events: int
    batch_bytes: int
    event_bytes: int
    in_flight: int = 1  # calls at once; at 1 the order of events is kept
    whole_changes: bool = False  # never divides the events of one change, even above the limits


Wants = Requirements  # the earlier name, which plugins may use


class Destination(Protocol):
    """Speaks one vendor's protocol and tells the truth per event. The core batches, retries, splits, bisects, parks, advances.

    A type whose promises depend on its settings has a classmethod `of(settings)` that gives the class for them.

    `deliver` returns one Receipt an event, in order, or raises: DestinationUnavailable (send the same bytes again),
    DestinationBlocked, TooLarge (split), BatchRejected (bisect). Whatever else it raises is bisected, too, and is held against
    the event at which it is raised alone while others pass. An event whose id it has already, of another change, may be REPEATED.
    It is called from up to `limits.in_flight` threads.
    Everything it returned DELIVERED for is durable at the destination when it returns.
    """

    Settings: ClassVar[type[DestinationSettings]]
    guarantee: ClassVar[Guarantee]
    duplicate_handling: ClassVar[str]  # a clause for a person: what the destination does with an event it already has
    dedupe_window: ClassVar[float]  # seconds for which it knows an event again by its id; inf: for ever; 0: it never does
    age_limit: ClassVar[float]  # seconds; events older than that it refuses or falsifies; inf: it takes any

    limits: Limits

    def __init__(self, name: str, settings: DestinationSettings, base: Path) -> None:
        """`base`: the folder that relative paths in the settings start from. Does no I/O beyond opening what it needs."""

    def deliver(self, batch: Batch) -> list[Receipt]: ...

    def probe(self) -> None:
        """Reach the destination without sending an event. Raises one of the errors above, with a hint."""

    def close(self) -> None: ...


class Cursor(NamedTuple):
    """Which stream of events goes into a destination. What it stores its position under: two streams never share one.

    `name` is the destination's in the configuration. `partition`: of the journal; an SQL journal has only 0.
    `origin` tells two sources of the same name apart: it is the namespace of the source's event ids.
    """

    source: str
    name: str
    partition: int = 0
    origin: str = ""

    @property
    def key(self) -> str:
        """For tables, topics and files: a-z, 0-9, `_`, `-` and `.`, at most 128 of them. Different for every cursor."""
        exact = hashlib.blake2b("\0".join(map(str, self)).encode(), digest_size=6).hexdigest()
        readable = (re.sub(r"[^a-z0-9_-]", "_", part.lower())[:40] for part in (self.source, self.name))
        return ".".join([*readable, str(self.partition), exact])


@runtime_checkable
class HoldsCheckpoint(Protocol):
    """A destination that stores `batch.upto`, or a batch's `out_of_band` name, atomically with the events: exactly once.

    All or nothing: its `deliver` takes the whole batch or raises (BatchRejected, where an event is at fault). It answers neither
    RETRY nor REJECTED for single events, because its position would then have passed an event that it does not hold.
    `upto` may stay where it was. Its `limits.in_flight` is 1 and `whole_changes` is set.

    It writes only where the stored position is the one that it read or stored last. Where it is not, any call raises
    CheckpointMoved, and `position` tells the new one from then on. `rewind` stores in any case.
    """

    def position(self) -> Position | None:
        """The last `upto` that was stored, or None before the first."""

    def rewind(self, to: Position) -> None:
        """Store `to` as the position, durably, so that the events after it are taken again."""


@runtime_checkable
class KeyedCheckpoint(HoldsCheckpoint, Protocol):
    """A destination that several sources can write to: each has its own checkpoint there. Without it, all share one."""

    def bind(self, cursor: Cursor, owns: Callable[[Position], bool]) -> None:
        """Called once, before any other call; does no I/O. From then on the position is stored under `cursor`.

        `owns` is for a position that was stored under the destination's name alone, before there were cursors. Where it is true,
        the position is this source's, and is taken over; otherwise this source has none yet. Call it again after a crash: taking
        over happens once, with a write that is atomic.
        """
