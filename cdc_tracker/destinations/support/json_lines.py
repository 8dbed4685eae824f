"""Events as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence

from cdc_tracker.model import Event


def as_lines(events: Sequence[Event]) -> bytes:
    """Each event's body and a newline. Line breaks within a body become spaces; its values stay the same."""
    bodies = [event.body for event in events]
    bodies.append(b"")
    data = b"\n".join(bodies)
    if data.count(b"\n") != len(events):
        # A `json` column keeps its whitespace, and an unescaped line break in JSON is always whitespace.
        data = b"\n".join([body.replace(b"\n", b" ") for body in bodies])
    return data
