"""What a destination is. Adding one is one file and one entry point in the group `cdc_tracker.destinations`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cdc_tracker.destinations.selection import EventSelection, PropertySelection
from cdc_tracker.model import Batch, Position, Receipt
from cdc_tracker.units import Duration

Guarantee = Literal["exactly once", "once within the vendor's window", "at least once"]


def _start(value: object) -> object:
    """YAML reads an unquoted date or time by itself; a date is its midnight, a time without a zone is UTC."""
    moment = value
    if isinstance(value, str) and value not in ("now", "earliest"):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(
                "expected now, earliest, or an ISO date or time such as 2026-01-31 or 2026-01-31T12:00:00Z"
            ) from None
    elif isinstance(value, date) and not isinstance(value, datetime):
        moment = datetime.combine(value, time())
    elif not isinstance(value, str | datetime):
        raise ValueError("expected now, earliest, or an ISO date or time such as 2026-01-31 or 2026-01-31T12:00:00Z")
    return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) and moment.tzinfo is None else moment


Start = Annotated[Literal["now", "earliest"] | datetime, BeforeValidator(_start)]
"""Where a destination begins that has no checkpoint yet."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may hold. Bytes are of the events' JSON bodies, before compression."""

    events: int
    batch_bytes: int
    event_bytes: int
    in_flight: int = 1  # calls at once; at 1 the order of events is kept
    whole_changes: bool = False  # never divides the events of one change, even above the limits


class Requirements(NamedTuple):
    """What a destination is to be given beyond mapped events.

    `raw`: every captured change as it was, as an event of the type RAW, instead of what the mappings and the outbox make of it.
    `row_key`: Event.row_key. `key_columns`: the columns that name a row, by table, where its replica identity does not tell.
    """

    raw: bool = False
    row_key: bool = False
    key_columns: Mapping[str, Sequence[str]] = {}


Wants = Requirements  # the earlier name, which plugins may use


NOTHING_MORE = Requirements()


class DestinationSettings(BaseModel):
    """What every destination's settings share. Each destination owns a subclass of its own, which may override `requirements`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: str
    in_flight: int = Field(default=1, ge=1, le=64, description="requests at once; above 1 order is not kept")
    start: Start = Field(
        default="now",
        description="where a new one begins: now, earliest (the journal's start) or an ISO time; then only rewind moves it",
    )
    sent_ledger: Duration | None = Field(
        default=None, description="how long to remember the ids delivered, for `replay --only-missing`; null: not at all"
    )
    events: EventSelection | None = Field(default=None, description="which events it gets, and under which names")
    properties: PropertySelection | None = Field(default=None, description="which properties and traits, and under which names")
    dry_run: bool = Field(default=False, description="it is sent nothing; its checkpoint moves, and events count as suppressed")

    @property
    def requirements(self) -> Requirements:
        """What the pipeline adds for the destination. It depends on the settings alone: counting history opens no destination."""
        return self.wants

    @property
    def wants(self) -> Requirements:
        """The earlier name of `requirements`, which plugins may override."""
        return NOTHING_MORE


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
