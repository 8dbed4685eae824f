"""What a destination's settings `events`, `properties` and `dry_run` make of an event. Pure.

An event's JSON is cut at its members and put together again from the same bytes: what no setting names stays as it came,
numbers, order and white space included, and the same event gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from cdc_tracker.config.selection import CONTEXT, PropertySelection
from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.destinations.support.json_splice import quoted
from cdc_tracker.model import Event

NAME_KEY = {"track": "event", "page": "name", "screen": "name"}
_PARTS = ("properties", "traits")
_LIST_END = ord("]")
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_PLAIN = rb"(%b|[^\s,:\[\]{}\"]++)?+" % _STRING
_MEMBER = re.compile(rb"\s*+(%b)\s*+:\s*+%b" % (_STRING, _PLAIN), re.DOTALL)
_ELEMENT = re.compile(rb"\s*+%b" % _PLAIN, re.DOTALL)
_TO_BRACKET = re.compile(rb"(?:[^\"\[\]{}]++|%b)*+[\[\]{}]" % _STRING, re.DOTALL)
_TO_NEXT = re.compile(rb"\s*+.", re.DOTALL)


class _Name(msgspec.Struct, gc=False):
    event: str = ""
    name: str = ""


Member: TypeAlias = tuple[str, bytes, bytes, int]
"""Of an object: its key; its text, with the white space around it; its value, and where in the text that begins."""


@dataclass(slots=True)
class _Rule:
    """What becomes of one key of an object."""

    out: bool = False
    name: str = ""  # its new one
    inner: _Level | None = None  # what becomes of its value


@dataclass(slots=True)
class _Level:
    """What becomes of an object's keys. `others`: those that have no rule stay. `becoming`: the new names, by the old ones."""

    others: bool = True
    rules: dict[str, _Rule] = field(default_factory=dict)
    becoming: dict[str, str] = field(default_factory=dict)

    def rule(self, key: str) -> _Rule:
        return self.rules.setdefault(key, _Rule())

    def shaped(self, value: bytes) -> bytes | None:
        """A value in its new shape; of a list, its objects. None: it is neither, and only parts of it would stay."""
        if value[:1] == b"{":
            return self._object(value)
        if value[:1] == b"[":
            return self._list(value)
        return value if self.others else None

    def _object(self, text: bytes) -> bytes:
        """A property that has the new name of another one that is there gives way to it: an object has a key once."""
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
    """A member under its rule; None: it is left out."""
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


class Shaping:
    """Give it an event: the event as the destination is to get it, or None where it is left out on purpose.

    The message id, the type, and all ids of people and groups stay.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        events, properties = settings.events, settings.properties
        self._dry = settings.dry_run
        self._passes = lru_cache(4096)(events.passes()) if events is not None else None
        self._renamed = {name: quoted(new) for name, new in events.rename.items()} if events is not None else {}
        self._levels = _levels(properties) if properties is not None else {}

    @classmethod
    def of(cls, settings: DestinationSettings) -> Shaping | None:
        """None where the settings ask for nothing, so that nobody pays for it."""
        asked = settings.events is not None or settings.properties is not None or settings.dry_run
        return cls(settings) if asked else None

    def __call__(self, event: Event) -> Event | None:
        if self._dry:
            return None
        name = ""
        if self._passes is not None:
            name = _name(event)
            if not self._passes(event.type, name):
                return None
        new_name = self._renamed.get(name)
        if new_name is None and not self._levels:
            return event
        body = self._body(event.body, NAME_KEY.get(event.type, ""), new_name)
        if body is event.body:
            return event
        return replace(event, body=body)

    def _body(self, body: bytes, name_key: str, new_name: bytes | None) -> bytes:
        parts, changed = [], False
        for key, text, value, at in _members(body, _OBJECT.decode(body)):
            level = self._levels.get(key)
            new: bytes | None = value
            if level is not None:
                new = level.shaped(value)
            elif new_name is not None and key == name_key:
                new = new_name
            if new is value or new is None:
                parts.append(text)
            else:
                parts.append(text[:at] + new + text[at + len(value) :])
                changed = True
        return b"{%b}" % b",".join(parts) if changed else body


def _name(event: Event) -> str:
    """What `events` knows a call by; nothing where its type has no name, or where an outbox wrote something else than text."""
    key = NAME_KEY.get(event.type)
    if key is None:
        return ""
    try:
        found = _NAMES.decode(event.body)
    except msgspec.ValidationError:
        return ""
    return found.event if key == "event" else found.name


_NAMES = msgspec.json.Decoder(_Name)


def _levels(asked: PropertySelection) -> dict[str, _Level]:
    """What becomes of the event's properties, traits and context."""
    properties = _Level(others=asked.only is None)
    context = _Level()
    for path in asked.only or ():
        _only(properties, path)
    for path in asked.leave_out or ():
        key, _, rest = path.partition(".")
        for level, last in _places(*((context, rest) if key == CONTEXT else (properties, path))):
            level.rule(last).out = True
    for path, name in asked.rename.items():
        for level, last in _places(properties, path):
            level.rule(last).name = level.becoming[last] = name
    levels = dict.fromkeys(_PARTS, properties) if properties.rules else {}
    return levels | ({CONTEXT: context} if context.rules else {})


def _only(level: _Level, path: str) -> None:
    """Keep what is at the path, and nothing beside it, unless the whole of what is around it was asked for, too."""
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
    """Where a path leads: into objects, and to a key that has the dots in its own name."""
    *around, last = path.split(".")
    if around:
        yield level, path
    for key in around:
        rule = level.rule(key)
        rule.inner = rule.inner or _Level()
        level = rule.inner
    yield level, last


# Cutting JSON. What comes here was written by us, and holds.


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


@lru_cache(4096)
def _head(key: str) -> bytes:
    return b"%b:" % quoted(key)


def _members(text: bytes, values: dict[str, msgspec.Raw]) -> list[Member]:
    """The members of an object that begins and ends where the text does. `values`: as it decodes."""
    members = []
    for key, raw in values.items():
        head, value = _head(key), bytes(raw)
        members.append((key, head + value, value, len(head)))
    if b"{%b}" % b",".join([member[1] for member in members]) == text:
        return members  # the usual case: no white space, no escapes in a key, no key that stands twice
    return list(_cut(text))


def _cut(text: bytes) -> Iterator[Member]:
    start = 1
    while (found := _MEMBER.match(text, start)) is not None:
        value_at, value_end = found.span(2) if found[2] is not None else _nested(text, found.end())
        end = _next(text, value_end)
        yield msgspec.json.decode(found[1], type=str), text[start:end], text[value_at:value_end], value_at - start
        start = end + 1


def _elements(text: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """The elements of a list that begins and ends where the text does: each as it stands, where its value begins, its value."""
    start = 1
    while start < len(text) and (found := _ELEMENT.match(text, start)) is not None:
        if found[1] is None and text[found.end()] == _LIST_END:
            return  # an empty list
        value_at, value_end = found.span(1) if found[1] is not None else _nested(text, found.end())
        end = _next(text, value_end)
        yield text[start:end], value_at - start, text[value_at:value_end]
        start = end + 1


def _nested(text: bytes, at: int) -> tuple[int, int]:
    """From the bracket of an object or list to behind the one that closes it."""
    end, depth = at, 0
    while (found := _TO_BRACKET.match(text, end)) is not None:
        end = found.end()
        depth += 1 if text[end - 1] in b"{[" else -1
        if not depth:
            break
    return at, end


def _next(text: bytes, at: int) -> int:
    """Where the comma or bracket after a value stands."""
    found = _TO_NEXT.match(text, at)
    return found.end() - 1 if found is not None else at
