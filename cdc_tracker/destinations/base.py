"""What a destination is: the public API of destination plugins.

A destination is one class and one entry point in the group `cdc_tracker.destinations`. It implements `deliver`, which sends one
batch and reports on each event; the core reads, batches, retries, splits, bisects, parks and keeps checkpoints. A destination
keeps no events between two calls, sends nothing outside of them, and gives the same event the same bytes every time.
"""

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
    """What one call of `deliver` may contain. Bytes are those of the events' JSON bodies, before compression."""

    events: int
    batch_bytes: int
    event_bytes: int
    in_flight: int = 1  # concurrent calls; with 1 the order of events is kept
    whole_changes: bool = False  # never divide the events of one change, even above the limits


Wants = Requirements  # the earlier name, which plugins may use


class Destination(Protocol):
    """Speaks one vendor's protocol and reports truthfully on each event.

    `deliver` returns one Receipt per event, in order:

    - DELIVERED: the event is durable at the destination. ASSUMED: the vendor answers 2xx whether it keeps the event or not.
    - RETRY: not taken; the core sends these events again. REJECTED: refused for good; the core parks the event.
    - SUPPRESSED: left out on purpose. REPEATED: the destination has an event of another change with the same id.

    Or it raises, and none of the batch has a receipt: DestinationUnavailable (the core sends the same events again),
    DestinationBlocked (once a minute), TooLarge (in halves), BatchRejected (in halves, until the refused event is alone). For any
    other exception the core also halves the batch; an event that fails alone while others pass is parked as `destination_error`.
    `deliver` is called from up to `limits.in_flight` threads.

    If the promises of a type depend on its settings, a classmethod `of(settings)` returns the class to use.
    """

    Settings: ClassVar[type[DestinationSettings]]
    guarantee: ClassVar[Guarantee]
    duplicate_handling: ClassVar[str]  # for users, a clause such as `drops it by its id`: what becomes of an event sent twice
    dedupe_window: ClassVar[float]  # seconds for which it recognizes an event by its id; inf: for ever; 0: never
    age_limit: ClassVar[float]  # seconds; older events are refused or falsified; inf: events of any age are taken

    limits: Limits

    def __init__(self, name: str, settings: DestinationSettings, base: Path) -> None:
        """`name`: its name in the configuration. `base`: the folder of relative paths in the settings. Does not connect yet."""

    def deliver(self, batch: Batch) -> list[Receipt]: ...

    def probe(self) -> None:
        """Reaches the destination without sending an event. Raises as `deliver` does, with a hint."""

    def close(self) -> None: ...


class Cursor(NamedTuple):
    """Identifies the stream of events that goes into a destination; the destination stores its position under it.

    `name` is the destination's in the configuration, `partition` the journal's; an SQL journal has only 0. `origin` distinguishes
    two sources of the same name: it is the namespace of the source's event ids.
    """

    source: str
    name: str
    partition: int = 0
    origin: str = ""

    @property
    def key(self) -> str:
        """A name for tables, topics and files: at most 128 characters of a-z, 0-9, `_`, `-` and `.`, unique for each cursor."""
        exact = hashlib.blake2b("\0".join(map(str, self)).encode(), digest_size=6).hexdigest()
        readable = (re.sub(r"[^a-z0-9_-]", "_", part.lower())[:40] for part in (self.source, self.name))
        return ".".join([*readable, str(self.partition), exact])


@runtime_checkable
class HoldsCheckpoint(Protocol):
    """A destination that stores `batch.upto`, or a batch's `out_of_band` name, atomically with the events: exactly once.

    `deliver` takes the whole batch or raises; BatchRejected if an event is at fault. It returns neither RETRY nor REJECTED for
    single events, because its position would pass an event that it does not have. `upto` may be the position that is stored
    already. `limits.in_flight` is 1 and `limits.whole_changes` is true.

    It writes only if the stored position is the one that it read or stored last. Otherwise any call raises CheckpointMoved, and
    `position` returns the new one from then on. `rewind` stores in any case.
    """

    def position(self) -> Position | None:
        """The position that was stored last; None before the first."""

    def rewind(self, to: Position) -> None:
        """Stores `to` as the position, durably: the events after it are sent again."""


@runtime_checkable
class KeyedCheckpoint(HoldsCheckpoint, Protocol):
    """A destination that several sources can write to, each with its own checkpoint. Without `bind`, all share one."""

    def bind(self, cursor: Cursor, owns: Callable[[Position], bool]) -> None:
        """Called once, before any other call; does no I/O. The position is stored under `cursor` from then on.

        Earlier versions stored it under the destination's name alone. `owns` says whether such a position is this source's: then
        the destination takes it over, once, by an atomic write. Otherwise this source has no position yet.
        """
