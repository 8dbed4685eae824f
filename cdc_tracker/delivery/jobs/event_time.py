"""The time that an event itself states, which is not always that of its commit."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from cdc_tracker.model import Event
from cdc_tracker.times import parse_iso, to_micros


class _Stated(msgspec.Struct):
    timestamp: str = ""


_STATED = msgspec.json.Decoder(_Stated)


def event_time(event: Event) -> int:
    """Returns the event's timestamp in microseconds since the Unix epoch, or its commit time if the text is no time."""
    with suppress(ValueError, msgspec.ValidationError):
        return to_micros(parse_iso(_STATED.decode(event.body).timestamp))
    return event.committed_at
