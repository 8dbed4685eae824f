"""Names made from an event: a topic, stream, subject or routing key by template, and what an event is keyed by."""

from __future__ import annotations

import re
from collections.abc import Callable

from cdc_tracker.destinations.support.event_view import read_change, read_event
from cdc_tracker.destinations.support.naming import snake_case, within
from cdc_tracker.model import RAW, Event, canonical

_PART = re.compile(r"\{(\w*)\}")
_FIELDS = ("event", "type", "schema", "table")


def check_template(text: str) -> str:
    """The text, if every `{field}` in it is known. Raises ValueError."""
    for field in _PART.findall(text):
        if field not in _FIELDS:
            raise ValueError(f"`{{{field}}}` is not known: there are {', '.join(f'{{{name}}}' for name in _FIELDS)}")
    if not text or "{" in _PART.sub("", text) or "}" in _PART.sub("", text):
        raise ValueError("must be a name, which may hold {event}, {type}, {schema} and {table}")
    return text


def literal(template: str) -> str:
    """An example of what a template makes: `x` for each field."""
    return _PART.sub("x", template)


def check_raw_template(text: str) -> str:
    """The text, if a raw change has every `{field}` in it. Raises ValueError."""
    for field in _PART.findall(text):
        if field not in ("schema", "table"):
            raise ValueError(f"a raw change has no `{{{field}}}`: there are {{schema}} and {{table}}")
    return text


def operation(event: Event) -> str:
    """The operation of a raw change, by Debezium's letter."""
    return read_change(event).op


class NameTemplate:
    """Where an event goes. `{event}` is a track's, page's or screen's name in snake_case, of other calls their type.

    A raw change goes by its `{schema}` and `{table}`.
    """

    def __init__(self, template: str, clean: Callable[[str], str] = str, limit: int = 1 << 20) -> None:
        """`clean` makes what is put in for a field safe for the destination; `limit`: bytes of UTF-8 that a name may have."""
        self._template = template
        self._clean = clean
        self._limit = limit
        self._fixed = None if _PART.search(template) else template
        self._made: dict[tuple[str, str, str, str], str] = {}

    def name(self, event: Event) -> str:
        if self._fixed is not None:
            return self._fixed
        fields = _fields(event)
        made = self._made.get(fields)
        if made is None:
            if len(self._made) > 10_000:  # names that never end would fill the memory
                self._made.clear()
            made = self._made[fields] = self._make(*fields)
        return made

    def _make(self, name: str, kind: str, schema: str, table: str) -> str:
        values = {"event": snake_case(name) or kind, "type": kind, "schema": schema or "none", "table": table or "none"}
        return within(_PART.sub(lambda found: self._clean(values[found[1]]), self._template), self._limit)


def _fields(event: Event) -> tuple[str, str, str, str]:
    """An event's name, its type, its schema and table."""
    if event.type == RAW:
        source = read_change(event).source
        return "", RAW, source.schema, source.table
    call = read_event(event)
    source = call.read_source()
    return call.title, event.type, source.schema, source.table


_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def check_key(text: str) -> str:
    """Raises ValueError where it is neither `user`, `row`, `none` nor a path within the event."""
    if not _PATH.fullmatch(text):
        raise ValueError("must be user, row, none, or a path within the event such as properties.order_id")
    return text


def check_raw_key(text: str) -> str:
    """The same of raw changes."""
    if text not in ("row", "none") and text.partition(".")[0] not in ("before", "after", "source"):
        raise ValueError(f"a raw change has no `{text}`: key it by row, none, or a path within it such as after.user_id")
    return text


def key_maker(key: str) -> Callable[[Event], bytes | None]:
    """What messages are keyed by. `user`: userId, else anonymousId, else groupId; `row`: the row's key, which the destination's
    settings have to want. None where the event has it not."""
    if key == "row":
        return lambda event: event.row_key or None
    if key == "none":
        return lambda event: None
    if key == "user":
        return _by_user
    path = key.split(".")
    return lambda event: _by_path(event, path)


def _by_user(event: Event) -> bytes | None:
    call = read_event(event)
    found = call.user_id or call.anonymous_id or call.group_id
    return found.encode() if found else None


def _by_path(event: Event, path: list[str]) -> bytes | None:
    value: object = event.decoded()
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        return None
    return value.encode() if isinstance(value, str) else canonical(value).encode()
