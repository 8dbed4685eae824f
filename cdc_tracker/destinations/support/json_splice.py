"""Putting an event's JSON into a vendor's shape as bytes, without decoding its values.

Vendors' objects mix members that the destination adds with the event's own. `msgspec.Raw` can carry a whole value, but not the
members of an object, and decoding them into a dict would drop a repeated key and lose exact numbers. So an object's members are
taken as the bytes between its braces and joined to the added ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from cdc_tracker.destinations.support.event_view import Call, EventRejected, decoded
from cdc_tracker.model import Event
from cdc_tracker.times import iso, iso_to_micros

MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
"""An object's keys and undecoded values. Of a repeated key the last value counts, as in most parsers."""
ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
quoted = msgspec.json.Encoder().encode
"""JSON of a text, as bytes."""


class Level(NamedTuple):
    """An object or list within an event."""

    path: str
    depth: int  # objects around it
    size: int  # members or elements
    is_object: bool


def members(raw: msgspec.Raw) -> bytes:
    """The bytes between the braces of a JSON object; empty if it has no members or is not an object."""
    text = bytes(raw)
    inner = text[1:-1] if text[:1] == b"{" else b""
    return b"" if inner.isspace() else inner


def levels(inner: bytes, path: str) -> Iterator[Level]:
    """Every object and list within an object that is given without its braces; each before those within it.

    Numbers are not decoded: Python refuses some, such as an integer of 5,000 digits.
    """
    left = [(path, 0, b"{%b}" % inner)]
    while left:
        path, depth, text = left.pop()
        if text[:1] == b"{":
            found = decoded(MEMBERS, text, path)
            yield Level(path, depth, len(found), True)
            inside = [(f"{path}.{key}", depth + 1, bytes(value)) for key, value in found.items()]
        else:
            listed = decoded(ELEMENTS, text, path)
            yield Level(path, depth, len(listed), False)
            inside = [(path, depth, bytes(value)) for value in listed]
        left += [each for each in inside if each[2][:1] in (b"{", b"[")]


def object_with(own: bytes, raw: msgspec.Raw) -> bytes:
    """An object of the added members, then the event's: of two members with one key, parsers take the later, the event's."""
    theirs = members(raw)
    return b"{%b,%b}" % (own, theirs) if own and theirs else b"{%b}" % (own or theirs)


def event_time(call: Call, event: Event) -> tuple[int, str]:
    """The event's time in microseconds since the Unix epoch, and as RFC 3339 in UTC. Without one, the time of its commit.

    Raises EventRejected if the timestamp is no time, or is in UTC outside the years 1 to 9999.
    """
    text = call.timestamp
    if not text:
        return event.committed_at, iso(event.committed_at)
    try:
        micros = iso_to_micros(text)
    except ValueError:
        raise EventRejected("timestamp_invalid", "timestamp", "the timestamp is not a time in ISO 8601") from None
    if text[-1] == "Z" and text[10:11] == "T":
        return micros, text
    try:
        return micros, iso(micros)
    except OverflowError:
        raise EventRejected("timestamp_invalid", "timestamp", "the timestamp is in UTC before the year 1 or after 9999") from None


def check_id_length(text: str, limit: int, field: str) -> None:
    """Raises EventRejected if an id is longer than `limit` bytes of UTF-8."""
    if len(text) * 4 > limit and len(text.encode()) > limit:
        raise EventRejected("id_too_long", field, f"the destination takes ids of {limit} bytes at most")
