"""The time that an event itself states, which is not always that of its commit."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from cdc_tracker.model import Event


class _Stated(msgspec.Struct):
    timestamp: str = ""


_STATED = msgspec.json.Decoder(_Stated)


def event_time(event: Event) -> int:
    """Returns the event's timestamp in microseconds since the Unix epoch, or its commit time if the text is no time."""
    with suppress(ValueError, msgspec.ValidationError):
        moment = datetime.fromisoformat(_STATED.decode(event.body).timestamp)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    return event.committed_at
