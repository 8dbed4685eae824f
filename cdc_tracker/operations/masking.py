"""Flattens an event to paths and values, and tells which values of events and rows are personal and must be masked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from cdc_tracker.mapping import Mapping, Member, Placed
from cdc_tracker.mapping.lints.column_names import may_be_personal
from cdc_tracker.mapping.schema.shape import Property
from cdc_tracker.model import Column, canonical
from cdc_tracker.sources.postgres.values import codec

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


class Personal(Masks):
    """As Masks, for what is shown beside its row: also values that are personal by their name, or made of a personal column.

    A column is personal by its name (as `init` sees it), or if a mapping of its table makes a `pii` value of it.
    """

    def __init__(self, mappings: Iterable[Mapping]) -> None:
        found = list(mappings)
        super().__init__(found)
        self._columns = {
            (mapping.table, use.name)
            for mapping in found
            for member in (*mapping.body, *mapping.context)
            if any(_of_member(member))
            for placed in member.expressions()
            for use in mapping.uses(placed)
        }
        for mapping in found:
            self._hidden[mapping.key].update(path for path, placed in computed(mapping) if self._reads(mapping, placed))

    def column(self, table: str, name: str) -> bool:
        """Whether the column's values are personal."""
        return (table, name) in self._columns or may_be_personal(name)

    def hides(self, key: str, path: str) -> bool:
        if path.startswith(_SOURCE_PATHS):
            return False
        _, *names = self.general(path).replace("[]", "").split(".")
        return super().hides(key, path) or any(map(may_be_personal, filter(None, names)))

    def cell(self, table: str, column: Column, text: str | None) -> str:
        """JSON text of a column's value, masked unless it is null; in JSON, members with personal names are."""
        if text is None:
            return "null"
        if self.column(table, column.name):
            return self.HIDDEN
        value = codec(column.type_oid).to_json(text)
        if value[0] in "[{":
            return _searched(value) or value
        inside = _searched(text) if text.lstrip()[:1] in ("[", "{") else None  # JSON in a text column
        return value if inside is None else self.HIDDEN if inside == self.HIDDEN else canonical(inside)

    def event(self, key: str, body: bytes) -> dict[str, Any]:
        """An event's JSON as values, with the personal ones masked; empty if Python cannot hold it: see _searched."""
        try:
            masked: dict[str, Any] = self._masked(key, _DECODER.decode(body), "")
        except _UNFIT:
            return {}
        return masked

    def _reads(self, mapping: Mapping, placed: Placed) -> bool:
        lets = (mapping.let[name] for name in placed.expression.lets)
        members = (name for each in (placed, *lets) for name in _members(each.expression.node))
        return any(self.column(mapping.table, use.name) for use in mapping.uses(placed)) or any(map(may_be_personal, members))

    def _masked(self, key: str, value: Any, path: str) -> Any:
        if path and value is not None and self.hides(key, path):
            return _DOTS
        if isinstance(value, dict):
            return {name: self._masked(key, inner, f"{path}.{name}" if path else name) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._masked(key, inner, f"{path}[]") for inner in value]
        return value


def _members(node: ast.expr) -> Iterator[str]:
    """Yields the names of members of JSON that an expression takes: `new.data['email']`, `get(new.data, 'email')`."""
    for each in ast.walk(node):
        taken = [each.slice] if isinstance(each, ast.Subscript) else each.args[1:] if isinstance(each, ast.Call) else []
        yield from (arg.value for arg in taken if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


_DOTS = "•••"
_DECODER = msgspec.json.Decoder(float_hook=Decimal)
_UNFIT = (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError)


def _searched(json: str) -> str | None:
    """JSON with the members masked that have personal names. None: it is no JSON.

    All of it is masked if Python cannot hold it: it is nested too deeply, or has too long a number.
    """
    try:
        return canonical(_without_personal(_DECODER.decode(json)))
    except _UNFIT as error:
        no_json = isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError)
        return None if no_json else Masks.HIDDEN


def _without_personal(value: Any) -> Any:
    if isinstance(value, dict):
        hidden = {name for name, inner in value.items() if inner is not None and may_be_personal(name)}
        return {name: _DOTS if name in hidden else _without_personal(inner) for name, inner in value.items()}
    return [_without_personal(inner) for inner in value] if isinstance(value, list) else value


def computed(mapping: Mapping) -> Iterator[tuple[str, Placed]]:
    """Yields every path of the event that an expression computes."""
    yield from ((name, placed) for name, placed in mapping.ids if placed is not None)
    yield from ((f"let.{name}", let) for name, let in mapping.let.items())
    for member in (*mapping.body, *mapping.context):
        for placed in member.expressions():
            yield member.path_of(placed) or member.path, placed


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
