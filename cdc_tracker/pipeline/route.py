"""The last step of a pipeline: which events a destination gets, and under which names, by its own settings. Pure."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.destinations.support.json_splice import quoted
from cdc_tracker.model import Change, Event, Suppression
from cdc_tracker.pipeline.shaping import levels_of, shaped
from cdc_tracker.pipeline.steps import Step

_NAME_KEY = {"track": "event", "page": "name", "screen": "name"}


class _Named(msgspec.Struct, gc=False):
    """The names alone: an EventView takes twice as long, and this is read of every event that `events` selects by."""

    event: str = ""
    name: str = ""


_NAMED = msgspec.json.Decoder(_Named)


def route_of(settings: DestinationSettings) -> Step | None:
    """Returns the step that applies `dry_run`, `events` and `properties`; None if they leave every event as it is.

    The step returns a Suppression for an event that is left out: `dry_run` or `not_selected`. The message id, the type, and all
    ids of users and groups stay the same.
    """
    events, properties = settings.events, settings.properties
    if settings.dry_run:
        return _dry_run
    if events is None and properties is None:
        return None
    selects = lru_cache(4096)(events.passes()) if events is not None else None
    renamed = {name: quoted(new) for name, new in events.rename.items()} if events is not None else {}
    levels = levels_of(properties) if properties is not None else {}

    def step(event: Event, _: Change) -> Event | Suppression:
        name_key, new_name = _NAME_KEY.get(event.type, ""), None
        if selects is not None:
            name = _name(event, name_key)
            if not selects(event.type, name):
                return Suppression("not_selected", event)
            new_name = renamed.get(name)
        if new_name is None and not levels:
            return event
        body = shaped(event.body, levels, name_key, new_name)
        return event if body is event.body else msgspec.structs.replace(event, body=body)

    return step


def _dry_run(event: Event, _: Change) -> Suppression:
    return Suppression("dry_run", event)


def _name(event: Event, key: str) -> str:
    """Returns the name that `events` selects by; empty if the call has none, or if an outbox wrote a name that is not text."""
    if not key:
        return ""
    try:
        found = _NAMED.decode(event.body)
    except msgspec.ValidationError:
        return ""
    return found.event if key == "event" else found.name
