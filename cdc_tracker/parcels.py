"""Segments → parcels: what is sent, and then committed, together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cdc_tracker.destinations.base import Limits
from cdc_tracker.model import Event, Position, Rejection, Segment
from cdc_tracker.translate import Made, Translator

KEEP = 16  # segments that one parcel may hold, so that memory is bounded where few changes become events


@dataclass
class Parcel:
    """All that the changes up to `upto` became, since the parcel before."""

    upto: Position
    events: list[Event] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)  # those that the events and rejections came from
    size: int = 0  # bytes of the events' bodies, with a separator each
    time: int = 0  # commit time of the last change, microseconds since the Unix epoch

    @property
    def empty(self) -> bool:
        return not self.events and not self.rejections


def pack(segments: Sequence[Segment], after: Position, translator: Translator, limits: Limits) -> Iterator[Parcel]:
    """The parcels of what the segments hold past `after`.

    Each ends between two changes and keeps within the limits, unless one change alone has more events than they allow.
    The last one ends where the last segment does, and may be empty.
    """
    parcel = Parcel(after)
    for segment in segments:
        found = translator.made(segment, after)
        before, seen = after, len(parcel.events) + len(parcel.rejections)
        if _take_all(parcel, found, limits):
            found = []
        for made in found:
            if isinstance(made, Event):
                size = len(made.body) + 1
                full = len(parcel.events) >= limits.events or parcel.size + size > limits.batch_bytes
                if full and parcel.events and made.position != parcel.events[-1].position:
                    parcel.upto = before
                    parcel.segments.append(segment)
                    yield parcel
                    parcel, seen = Parcel(before), 0
                parcel.events.append(made)
                parcel.size += size
            else:
                parcel.rejections.append(made)
            before = made.position
        if len(parcel.events) + len(parcel.rejections) > seen:
            parcel.segments.append(segment)
        after = parcel.upto = segment.last
        parcel.time = segment.last_time
        if len(parcel.segments) >= KEEP:
            yield parcel
            parcel = Parcel(after)
    yield parcel


def _take_all(parcel: Parcel, found: list[Made], limits: Limits) -> bool:
    """The usual case, once a segment instead of once an event: all of them are events, and there is room."""
    if len(parcel.events) + len(found) > limits.events:
        return False
    events = [made for made in found if isinstance(made, Event)]
    size = sum([len(event.body) for event in events]) + len(events)
    if len(events) < len(found) or parcel.size + size > limits.batch_bytes:
        return False
    parcel.events += events
    parcel.size += size
    return True
