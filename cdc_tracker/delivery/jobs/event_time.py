"""The time that an event itself states, which is not always that of its commit."""

from __future__ import annotations

from contextlib import suppress

from cdc_tracker.destinations.support.event_view import EventRejected, read_event
from cdc_tracker.model import Event
from cdc_tracker.times import parse_iso, to_micros


def event_time(event: Event) -> int:
    """Returns the event's timestamp in microseconds since the Unix epoch, or its commit time if the text is no time."""
    with suppress(ValueError, EventRejected):
        return to_micros(parse_iso(read_event(event).timestamp))
    return event.committed_at
