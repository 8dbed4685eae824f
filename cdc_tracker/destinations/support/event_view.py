"""An event's fields, for destinations that have a column for each."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from cdc_tracker.errors import BatchRejected
from cdc_tracker.model import Event

T = TypeVar("T")
ABSENT = msgspec.Raw(b"")


class Call(msgspec.Struct, rename="camel", gc=False):
    """JSON parts stay the bytes that they are, so that numbers stay exact."""

    type: str
    message_id: str
    event: str | None = None
    name: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    group_id: str | None = None
    previous_id: str | None = None
    timestamp: str | None = None
    properties: msgspec.Raw = ABSENT
    traits: msgspec.Raw = ABSENT
    context: msgspec.Raw = ABSENT

    @property
    def title(self) -> str | None:
        """A track's event, a page's or screen's name."""
        return self.event or self.name


_DECODER = msgspec.json.Decoder(Call)


def parse(event: Event) -> Call:
    """Raises BatchRejected where it is not an event in the Segment spec's shape."""
    return read(_DECODER, event)


def read(decoder: msgspec.json.Decoder[T], event: Event) -> T:
    """What the decoder is about of an event. Raises BatchRejected, which parks it, where it is written in another way."""
    try:
        return decoder.decode(event.body)
    except msgspec.DecodeError as error:
        raise BatchRejected(f"the event is not in the shape of a call: {error}") from error
    except RecursionError as error:
        raise BatchRejected("the event is nested deeper than can be read") from error
