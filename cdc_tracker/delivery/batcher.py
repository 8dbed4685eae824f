"""What changes became → parcels: what is sent, and then committed, together."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field

from cdc_tracker.destinations.base import Limits
from cdc_tracker.model import Event, Position, Rejection, Segment
from cdc_tracker.pipeline.pipeline import Made
from cdc_tracker.pipeline.shaping import Shaping

KEEP = 16  # segments that one parcel may hold, so that memory is bounded where few changes become events


@dataclass
class PendingBatch:
    """All that the changes up to `upto` became, since the parcel before."""

    upto: Position
    events: list[Event] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)  # those that the events and rejections came from
    size: int = 0  # bytes of the events' bodies, with a separator each
    time: int = 0  # commit time of the last change, microseconds since the Unix epoch
    withheld: list[Event] = field(default_factory=list)  # the destination has them, or is not to get them: only to be counted

    @property
    def empty(self) -> bool:
        return not self.events and not self.rejections

    def withhold(self, ids: Container[str]) -> None:
        """Leave out the events with these messageIds."""
        self.withheld += [event for event in self.events if event.message_id in ids]
        self.events = [event for event in self.events if event.message_id not in ids]


class Batcher:
    """Gathers what runs of changes became into parcels within a destination's limits.

    A parcel ends between two changes, unless one change alone has more events than the limits allow. Where it ends depends on
    where the packing began, on the limits and on the shaping only, not on how the changes are given in runs.
    """

    def __init__(self, after: Position, limits: Limits, shaping: Shaping | None = None, keep: int = KEEP) -> None:
        """`shaping`: what the destination's settings make of each event. What they leave out is withheld.

        `keep`: segments of a parcel at most.
        """
        self._limits, self._shaping, self._most_segments = limits, shaping, keep
        self._parcel = PendingBatch(after)

    def add(self, segment: Segment, found: list[Made], upto: Position) -> Iterator[PendingBatch]:
        """Take in what the segment's changes up to `upto` became, since the run before. Gives the parcels that are full."""
        parcel, limits, shaping = self._parcel, self._limits, self._shaping
        before = parcel.upto
        if found:
            self._keep(segment)
        if shaping is None and self._take_all(found):
            found = []
        for made in found:
            if isinstance(made, Event):
                event = shaping(made) if shaping is not None else made
                size = len(event.body) + 1 if event is not None else 0
                number = len(parcel.events) + len(parcel.withheld)
                full = number >= limits.events or parcel.size + size > limits.batch_bytes
                if full and number and made.position != before:
                    parcel.upto = before
                    yield parcel
                    parcel = self._parcel = PendingBatch(before, segments=[segment])
                if event is not None:
                    parcel.events.append(event)
                    parcel.size += size
                else:
                    parcel.withheld.append(made)
            else:
                parcel.rejections.append(made)
            before = made.position
        parcel.upto = upto
        parcel.time = segment.last_time
        if len(parcel.segments) >= self._most_segments and upto == segment.last:
            yield parcel
            self._parcel = PendingBatch(upto)

    def close(self) -> PendingBatch:
        """The last parcel, which may be empty."""
        return self._parcel

    def _keep(self, segment: Segment) -> None:
        segments = self._parcel.segments
        if not segments or segments[-1] is not segment:
            segments.append(segment)

    def _take_all(self, found: list[Made]) -> bool:
        """The usual case, once a run instead of once an event: all of them are events, and there is room."""
        parcel, limits = self._parcel, self._limits
        if len(parcel.events) + len(found) > limits.events:
            return False
        events = [made for made in found if isinstance(made, Event)]
        size = sum([len(event.body) for event in events]) + len(events)
        if len(events) < len(found) or parcel.size + size > limits.batch_bytes:
            return False
        parcel.events += events
        parcel.size += size
        return True


def pack(
    segments: Sequence[Segment],
    after: Position,
    made: Callable[[Segment, Position], list[Made]],
    limits: Limits,
    shaping: Shaping | None = None,
    keep: int = KEEP,
) -> Iterator[PendingBatch]:
    """The parcels of what the segments hold past `after`, as `made` gives it.

    The last one ends where the last segment does, and may be empty."""
    packing = Batcher(after, limits, shaping, keep)
    for segment in segments:
        yield from packing.add(segment, made(segment, after), segment.last)
        after = segment.last
    yield packing.close()
