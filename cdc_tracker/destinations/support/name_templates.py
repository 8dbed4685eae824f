"""Names and keys made from an event: a topic, stream, subject or routing key by a template, and the key of a message."""

from __future__ import annotations

import re
from collections.abc import Callable

from cdc_tracker.destinations.support.event_view import read_change, read_event
from cdc_tracker.destinations.support.naming import snake_case, within
from cdc_tracker.model import RAW, Event, canonical

_PART = re.compile(r"\{(\w*)\}")
_FIELDS = ("event", "type", "schema", "table")


def check_template(text: str) -> str:
    """Returns the text. Raises ValueError if it is empty or has an unknown `{field}`."""
    for field in _PART.findall(text):
        if field not in _FIELDS:
            raise ValueError(f"`{{{field}}}` is unknown: there are {', '.join(f'{{{name}}}' for name in _FIELDS)}")
    if not text or "{" in _PART.sub("", text) or "}" in _PART.sub("", text):
        raise ValueError("must be a name, which may contain {event}, {type}, {schema} and {table}")
    return text


def literal(template: str) -> str:
    """An example of the template's names: `x` for each field."""
    return _PART.sub("x", template)


def check_raw_template(text: str) -> str:
    """Returns the text. Raises ValueError if it has a `{field}` that a raw change does not have."""
    for field in _PART.findall(text):
        if field not in ("schema", "table"):
            raise ValueError(f"a raw change has no `{{{field}}}`: there are {{schema}} and {{table}}")
    return text


def operation(event: Event) -> str:
    """The operation of a raw change, by Debezium's letter."""
    return read_change(event).op


class NameTemplate:
    """Makes a name for each event. `{event}` is the name of a track, page or screen call in snake_case, else the call's type.

    For a raw change, `{schema}` and `{table}` are those of its table.
    """

    def __init__(self, template: str, clean: Callable[[str], str] = str, limit: int = 1 << 20) -> None:
        """`clean` makes a field's value safe for the destination. `limit`: the bytes of UTF-8 of the longest name."""
        self._template = template
        self._clean = clean
        self._limit = limit
        self._fixed = None if _PART.search(template) else template
        self._by_table = "{schema}" in template or "{table}" in template
        self._known: dict[tuple[str, str, str, str], str] = {}

    def name(self, event: Event) -> str:
        """Raises EventRejected if the event is not in the shape of a call."""
        if self._fixed is not None:
            return self._fixed
        fields = self._fields(event)
        name = self._known.get(fields)
        if name is None:
            if len(self._known) > 10_000:  # bounds the memory if names are unlimited
                self._known.clear()
            name = self._known[fields] = self._make(*fields)
        return name

    def _fields(self, event: Event) -> tuple[str, str, str, str]:
        """The event's name and type, and the schema and table if the template has them."""
        if event.type == RAW:
            source = read_change(event).source
            return "", RAW, source.schema, source.table
        call = read_event(event)
        if not self._by_table:
            return call.title, event.type, "", ""
        source = call.read_source()
        return call.title, event.type, source.schema, source.table

    def _make(self, name: str, kind: str, schema: str, table: str) -> str:
        values = {"event": snake_case(name) or kind, "type": kind, "schema": schema or "none", "table": table or "none"}
        return within(_PART.sub(lambda found: self._clean(values[found[1]]), self._template), self._limit)


_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def check_key(text: str) -> str:
    """Returns the text. Raises ValueError if it is neither `user`, `row`, `none` nor a path within the event."""
    if not _PATH.fullmatch(text):
        raise ValueError("must be user, row, none, or a path within the event such as properties.order_id")
    return text


def check_raw_key(text: str) -> str:
    """As `check_key`, for raw changes."""
    if text not in ("row", "none") and text.partition(".")[0] not in ("before", "after", "source"):
        raise ValueError(f"a raw change has no `{text}`: key it by row, none, or a path within it such as after.user_id")
    return text


def key_maker(key: str) -> Callable[[Event], bytes | None]:
    """A function from an event to the key of its message, or None if the event does not have it.

    `user`: userId, else anonymousId, else groupId. `row`: the row's key, if the settings have `Requirements(row_key=True)`.
    """
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
