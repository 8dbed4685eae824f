"""Events as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence

from cdc_tracker.model import Event


def as_lines(events: Sequence[Event]) -> bytes:
    """Each event's body and a newline. A body that holds line breaks is put on one line; its values stay the same."""
    bodies = [event.body for event in events]
    bodies.append(b"")
    data = b"\n".join(bodies)
    if data.count(b"\n") != len(events):
        # A `json` column keeps its whitespace. Within JSON a raw line break is always whitespace.
        data = b"\n".join([body.replace(b"\n", b" ") for body in bodies])
    return data
