"""Applies a destination's `properties` setting to the JSON of an event. Pure.

The JSON is cut at its members and joined again from the same bytes: a member that no setting names stays byte for byte as it is,
with its numbers, order and white space. The same event always gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import msgspec

from cdc_tracker.config.selection import CONTEXT, PropertySelection
from cdc_tracker.destinations.support.json_splice import quoted

_PARTS = ("properties", "traits")
_LIST_END = ord("]")
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_PLAIN = rb"(%b|[^\s,:\[\]{}\"]++)?+" % _STRING
_MEMBER = re.compile(rb"\s*+(%b)\s*+:\s*+%b" % (_STRING, _PLAIN), re.DOTALL)
_ELEMENT = re.compile(rb"\s*+%b" % _PLAIN, re.DOTALL)
_TO_BRACKET = re.compile(rb"(?:[^\"\[\]{}]++|%b)*+[\[\]{}]" % _STRING, re.DOTALL)
_TO_NEXT = re.compile(rb"\s*+.", re.DOTALL)


Member: TypeAlias = tuple[str, bytes, bytes, int]
"""A member of an object: key, text with the white space around it, value, and the offset of the value in the text."""


@dataclass(slots=True)
class _Rule:
    """The rule for one key of an object."""

    out: bool = False
    name: str = ""  # the new name
    inner: _Level | None = None  # the rules for its value


@dataclass(slots=True)
class _Level:
    """The rules for the keys of an object."""

    others: bool = True  # keys without a rule stay
    rules: dict[str, _Rule] = field(default_factory=dict)
    becoming: dict[str, str] = field(default_factory=dict)  # old name → new name

    def rule(self, key: str) -> _Rule:
        return self.rules.setdefault(key, _Rule())

    def shaped(self, value: bytes) -> bytes | None:
        """Returns the value with the rules applied; in a list, to each object. None: a scalar of which only parts are wanted."""
        if value[:1] == b"{":
            return self._object(value)
        if value[:1] == b"[":
            return self._list(value)
        return value if self.others else None

    def _object(self, text: bytes) -> bytes:
        """A renamed property replaces one that already has its new name: keys stay unique."""
        rules, becoming = self.rules, self.becoming
        values = _OBJECT.decode(text)
        if self.others and rules.keys().isdisjoint(values):
            return text
        found = _members(text, values)
        taken = {becoming[key] for key, *_ in found if key in becoming} if becoming else ()
        kept, changed = [], False
        for member in found:
            key, old = member[0], member[1]
            rule = rules.get(key)
            new = _ruled(member, rule) if rule is not None else (old if self.others else None)
            if key in taken and key not in becoming:
                new = None
            if new is not None:
                kept.append(new)
            changed = changed or new is not old
        return b"{%b}" % b",".join(kept) if changed else text

    def _list(self, text: bytes) -> bytes:
        kept, changed = [], False
        for element, at, value in _elements(text):
            new = self.shaped(value)
            if new is not None:
                kept.append(element if new is value else element[:at] + new + element[at + len(value) :])
            changed = changed or new is not value
        return b"[%b]" % b",".join(kept) if changed else text


def _ruled(member: Member, rule: _Rule) -> bytes | None:
    """Returns the member's new text, or None if its rule leaves it out."""
    if rule.out:
        return None
    _, text, value, at = member
    if rule.inner is not None:
        new = rule.inner.shaped(value)
        if new is None:
            return None
        if new is not value:
            text = text[:at] + new + text[at + len(value) :]
    return _renamed(text, rule.name) if rule.name else text


def _renamed(member: bytes, name: str) -> bytes:
    found = _MEMBER.match(member)
    start, end = found.span(1) if found is not None else (0, 0)
    return member[:start] + quoted(name) + member[end:]


def shaped(body: bytes, levels: Mapping[str, _Level], name_key: str = "", name: bytes | None = None) -> bytes:
    """Returns the body with the rules applied and, if it is given, `name` as the value of `name_key`.

    Returns `body` itself if nothing changes.
    """
    parts, changed = [], False
    for key, text, value, at in _members(body, _OBJECT.decode(body)):
        level = levels.get(key)
        new: bytes | None = value
        if level is not None:
            new = level.shaped(value)
        elif name is not None and key == name_key:
            new = name
        if new is value or new is None:
            parts.append(text)
        else:
            parts.append(text[:at] + new + text[at + len(value) :])
            changed = True
    return b"{%b}" % b",".join(parts) if changed else body


def levels_of(selection: PropertySelection) -> dict[str, _Level]:
    """Returns the rules for the event's members `properties`, `traits` and `context`."""
    properties = _Level(others=selection.only is None)
    context = _Level()
    for path in selection.only or ():
        _only(properties, path)
    for path in selection.leave_out or ():
        key, _, rest = path.partition(".")
        for level, last in _places(*((context, rest) if key == CONTEXT else (properties, path))):
            level.rule(last).out = True
    for path, name in selection.rename.items():
        for level, last in _places(properties, path):
            level.rule(last).name = level.becoming[last] = name
    levels = dict.fromkeys(_PARTS, properties) if properties.rules else {}
    return levels | ({CONTEXT: context} if context.rules else {})


def _only(level: _Level, path: str) -> None:
    """Keeps the value at the path and drops its siblings, unless another path keeps the whole object around it."""
    *around, last = path.split(".")
    if around:
        level.rule(path)
    for key in around:
        known = key in level.rules
        rule = level.rule(key)
        if known and rule.inner is None:
            return
        rule.inner = rule.inner or _Level(others=False)
        level = rule.inner
    level.rules[last] = _Rule()


def _places(level: _Level, path: str) -> Iterator[tuple[_Level, str]]:
    """Yields both readings of a path: a key whose name contains the dots, and a key of a nested object."""
    *around, last = path.split(".")
    if around:
        yield level, path
    for key in around:
        rule = level.rule(key)
        rule.inner = rule.inner or _Level()
        level = rule.inner
    yield level, last


# Cutting JSON. Every body was written by this package and is valid JSON.


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


@lru_cache(4096)
def _head(key: str) -> bytes:
    return b"%b:" % quoted(key)


def _members(text: bytes, values: dict[str, msgspec.Raw]) -> list[Member]:
    """Returns the members of an object that spans the whole text. `values`: the decoded object."""
    members = []
    for key, raw in values.items():
        head, value = _head(key), bytes(raw)
        members.append((key, head + value, value, len(head)))
    if b"{%b}" % b",".join([member[1] for member in members]) == text:
        return members  # the usual case: no white space, no escapes in keys, no duplicate key
    return list(_cut(text))


def _cut(text: bytes) -> Iterator[Member]:
    start = 1
    while (found := _MEMBER.match(text, start)) is not None:
        value_at, value_end = found.span(2) if found[2] is not None else _nested(text, found.end())
        end = _next(text, value_end)
        yield msgspec.json.decode(found[1], type=str), text[start:end], text[value_at:value_end], value_at - start
        start = end + 1


def _elements(text: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Yields the elements of a list that spans the whole text: text, offset of the value in it, value."""
    start = 1
    while start < len(text) and (found := _ELEMENT.match(text, start)) is not None:
        if found[1] is None and text[found.end()] == _LIST_END:
            return  # an empty list
        value_at, value_end = found.span(1) if found[1] is not None else _nested(text, found.end())
        end = _next(text, value_end)
        yield text[start:end], value_at - start, text[value_at:value_end]
        start = end + 1


def _nested(text: bytes, at: int) -> tuple[int, int]:
    """Returns the span of the object or list that opens at `at`."""
    end, depth = at, 0
    while (found := _TO_BRACKET.match(text, end)) is not None:
        end = found.end()
        depth += 1 if text[end - 1] in b"{[" else -1
        if not depth:
            break
    return at, end


def _next(text: bytes, at: int) -> int:
    """Returns the offset of the comma or bracket after a value."""
    found = _TO_NEXT.match(text, at)
    return found.end() - 1 if found is not None else at
