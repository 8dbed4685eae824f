"""Destinations and events by the names that a caller gives. Raises InvalidRequest for a name that does not exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from cdc_tracker.config.config import Config
from cdc_tracker.config.nearest import nearest
from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.errors import InvalidRequest, Stop
from cdc_tracker.mapping import Mapping
from cdc_tracker.model import RAW, Position
from cdc_tracker.state import State


def destination(config: Config, name: str) -> DestinationSettings:
    """The settings of a configured destination."""
    if name not in config.destinations:
        raise InvalidRequest(f"there is no destination {name!r} in {config.path}{nearest(name, list(config.destinations))}")
    return config.destinations[name]


def checkpoint(state: State, source: str, destination: str) -> Position:
    """The position of a destination's checkpoint. Raises Stop if it has none."""
    found = state.checkpoints.get(source, destination)
    if found is None:
        raise Stop(
            f"The destination {destination!r} has no checkpoint: nothing was ever delivered to it, so nothing can be sent again.",
            hint="`cdc-tracker setup` gives a new destination its checkpoint; with `start: earliest` it begins with all that the "
            "journal has.",
        )
    return found.position


def events(mappings: Sequence[Mapping], names: Sequence[str]) -> list[str]:
    """The keys of the mappings with these keys or names; of all mappings if none is given."""
    known = dict.fromkeys(text for mapping in mappings for text in (mapping.key, *mapping.names))
    _check(names, known, "no mapping makes an event {}")
    found = (mapping.key for mapping in mappings if not names or not {mapping.key, *mapping.names}.isdisjoint(names))
    return list(dict.fromkeys(found))


def raw_events(tables: Iterable[str], names: Sequence[str]) -> list[str]:
    """The keys (`raw:TABLE`) of raw changes of these captured tables, each named by table or key."""
    known = {text: f"{RAW}:{table}" for table in tables for text in (table, f"{RAW}:{table}")}
    _check(names, known, "no table {} is captured")
    return list(dict.fromkeys(known[name] for name in names))


def _check(names: Iterable[str], known: Collection[str], text: str) -> None:
    for name in names:
        if name not in known:
            raise InvalidRequest(f"{text.format(repr(name))}{nearest(name, list(known))}")
