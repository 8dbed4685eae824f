"""Flattens an event to paths and values, and tells which values are personal and must be masked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from cdc_tracker.mapping import Mapping, Member
from cdc_tracker.mapping.schema.shape import Property

_INDEX = re.compile(r"\[\d+\]")
_SOURCE_PATHS = ("context.source", "context.library")


def flattened(body: dict[str, Any]) -> dict[str, Any]:
    """Returns path → value, such as `properties.products[0].sku`, without messageId, context.source and context.library.

    An empty list or object is a value.
    """
    found = dict(_walk(body, ""))
    return {path: value for path, value in found.items() if path != "messageId" and not path.startswith(_SOURCE_PATHS)}


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _walk(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{path}[{index}]")
    else:
        yield path, value


class Masks:
    """The `pii` values of each mapping, in any of several versions of it."""

    HIDDEN: ClassVar[str] = '"•••"'  # JSON, as the value that it replaces

    def __init__(self, mappings: Iterable[Mapping]) -> None:
        self._hidden: dict[str, set[str]] = {}
        for mapping in mappings:
            paths = self._hidden.setdefault(mapping.key, set())
            for member in (*mapping.body, *mapping.context):
                paths.update(map(self.general, _of_member(member)))

    def hides(self, key: str, path: str) -> bool:
        """Whether the value at the path, or an object or list that contains it, is personal."""
        path = self.general(path)
        return any(path == hidden or path.startswith((f"{hidden}.", f"{hidden}[")) for hidden in self._hidden.get(key, ()))

    @staticmethod
    def general(path: str) -> str:
        """Returns the path with list indexes removed: `properties.products[].sku`."""
        return _INDEX.sub("[]", path)


def _of_member(member: Member) -> Iterator[str]:
    if member.rules.pii:
        yield member.path
        return
    for inner in member.members:
        yield from _of_member(inner)
    yield from _of_rules(member.rules, member.path)


def _of_rules(rules: Property, path: str) -> Iterator[str]:
    if rules.pii:
        yield path
        return
    for name, inner in (rules.properties or {}).items():
        yield from _of_rules(inner, f"{path}.{name}")
    if rules.items is not None:
        yield from _of_rules(rules.items, f"{path}[]")
