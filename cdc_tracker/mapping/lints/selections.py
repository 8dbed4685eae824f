"""Names in the settings of destinations that no mapping declares: what they were to leave out goes out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from collections.abc import Mapping as Dict
from typing import TypeAlias

from cdc_tracker.config.destination import DestinationSettings
from cdc_tracker.config.nearest import nearest
from cdc_tracker.config.selection import CONTEXT, OF_TYPE, EventSelection, PropertySelection
from cdc_tracker.errors import Problem
from cdc_tracker.mapping.schema.declared import Mapping, Mappings, Member

_Level: TypeAlias = "dict[str, _Level | None]"
"""Names → what is below them; None: what an expression computes, which may have any names below."""

_SET_BY_US: _Level = {"source": None, "library": None}


def selections(destinations: Dict[str, DestinationSettings], mappings: Mappings, *, outbox: bool) -> Iterator[Problem]:
    """Warnings about names under `events` and `properties` that no event of the destination has.

    `outbox`: there is one, whose events may have any names.
    """
    for name, settings in destinations.items():
        wanted = [mapping for mapping in mappings.all if mapping.goes_to(name)]
        if settings.requirements.raw or not wanted:
            continue
        where, hint = f"destinations.{name}", "Leave it if only events of the outbox have it." if outbox else ""
        if settings.events is not None:
            for key, unknown in _events(settings.events, wanted):
                yield Problem(where, key, f"no mapping has an event {unknown}", hint, "warning")
        if settings.properties is not None:
            for key, unknown in _properties(settings.properties, wanted):
                yield Problem(where, key, f"no mapping has a property {unknown}", hint, "warning")


def _events(selection: EventSelection, mappings: Collection[Mapping]) -> Iterator[tuple[str, str]]:
    """(key in the settings, the name with the nearest that is known)."""
    known = list(dict.fromkeys(name for mapping in mappings for name in mapping.names))
    for key, patterns in _named(selection):
        for pattern in patterns:
            matches = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL).fullmatch
            if not pattern.startswith(OF_TYPE) and not any(map(matches, known)):
                yield f"events.{key}", f"{pattern!r}{nearest(pattern, known)}"


def _properties(selection: PropertySelection, mappings: Collection[Mapping]) -> Iterator[tuple[str, str]]:
    body, context = (_levels(mapping.body for mapping in mappings), _levels(mapping.context for mapping in mappings))
    known = [*_paths(body), *(f"{CONTEXT}.{path}" for path in _paths(context))]
    for key, paths in _named(selection):
        for path in paths:
            inside = path.startswith(f"{CONTEXT}.")
            if not (_has(context | _SET_BY_US, path.partition(".")[2]) if inside else _has(body, path)):
                yield f"properties.{key}", f"{path!r}{nearest(path, known)}"


def _named(selection: EventSelection | PropertySelection) -> Iterator[tuple[str, Collection[str]]]:
    yield from (("only", selection.only or ()), ("except", selection.leave_out or ()), ("rename", selection.rename))


def _levels(bodies: Iterable[tuple[Member, ...]]) -> _Level:
    """The names of all bodies together. A name that one of them computes may have anything below it."""
    found: _Level = {}
    below: dict[str, list[tuple[Member, ...]]] = {}
    for member in (member for body in bodies for member in body):
        if member.members:
            below.setdefault(member.name, []).append(member.members)
        else:
            found[member.name] = None
    return {**{name: _levels(parts) for name, parts in below.items()}, **found}


def _paths(level: _Level) -> Iterator[str]:
    for name, below in level.items():
        yield name
        yield from (f"{name}.{path}" for path in _paths(below or {}))


def _has(level: _Level, path: str) -> bool:
    """Whether the path leads to something: by a name that contains its dots, or through objects."""
    if path in level:
        return True
    head, _, rest = path.partition(".")
    below = level.get(head, {})
    return bool(rest) and (below is None or _has(below, rest))
