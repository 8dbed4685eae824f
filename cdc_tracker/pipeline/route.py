"""The last step of a pipeline: which events a destination gets, and under which names, by its own settings. Pure."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.destinations.support.json_splice import quoted
from cdc_tracker.model import Change, Event, Suppression
from cdc_tracker.pipeline.shaping import Shape

_NAME_KEY = {"track": "event", "page": "name", "screen": "name"}


class _Name(msgspec.Struct, gc=False):
    event: str = ""
    name: str = ""


_NAMES = msgspec.json.Decoder(_Name)


class Route:
    """A Step that applies a destination's `dry_run`, `events` and `properties` to an event.

    The message id, the type, and all ids of users and groups stay the same.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        events, properties = settings.events, settings.properties
        self._dry_run = settings.dry_run
        self._selects = lru_cache(4096)(events.passes()) if events is not None else None
        self._renamed = {name: quoted(new) for name, new in events.rename.items()} if events is not None else {}
        self._shape = Shape(properties)

    @classmethod
    def of(cls, settings: DestinationSettings) -> Route | None:
        """Returns None if the settings leave every event as it is, so that no event pays for it."""
        needed = settings.events is not None or settings.properties is not None or settings.dry_run
        return cls(settings) if needed else None

    def __call__(self, event: Event, _: Change) -> Event | Suppression:
        """Returns the event as the destination gets it, or a Suppression: `dry_run` or `not_selected`."""
        if self._dry_run:
            return Suppression("dry_run", event)
        name_key, new_name = _NAME_KEY.get(event.type, ""), None
        if self._selects is not None:
            name = _name(event, name_key)
            if not self._selects(event.type, name):
                return Suppression("not_selected", event)
            new_name = self._renamed.get(name)
        body = self._shape(event.body, name_key, new_name)
        return event if body is event.body else msgspec.structs.replace(event, body=body)


def _name(event: Event, key: str) -> str:
    """Returns the name that `events` selects by; empty if the call has none, or if an outbox wrote a name that is not text."""
    if not key:
        return ""
    try:
        found = _NAMES.decode(event.body)
    except msgspec.ValidationError:
        return ""
    return found.event if key == "event" else found.name
