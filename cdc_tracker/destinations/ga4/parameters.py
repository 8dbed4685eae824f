"""An event's name and properties in the form that GA4 accepts: identifiers, short texts, numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from cdc_tracker.destinations.support.event_view import EventRejected, decoded
from cdc_tracker.destinations.support.json_splice import ELEMENTS, MEMBERS, members, quoted
from cdc_tracker.destinations.support.naming import snake_case

MOST = 25  # parameters of an event
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_RESERVED_EVENTS = {"ad_activeview", "ad_click", "ad_exposure", "ad_query", "ad_reward", "adunit_exposure", "app_clear_data"}
_RESERVED_EVENTS |= {"app_exception", "app_install", "app_remove", "app_store_refund", "app_update", "app_upgrade", "error"}
_RESERVED_EVENTS |= {"dynamic_link_app_open", "dynamic_link_app_update", "dynamic_link_first_open", "firebase_campaign"}
_RESERVED_EVENTS |= {"firebase_in_app_message_action", "firebase_in_app_message_dismiss", "first_open", "first_visit"}
_RESERVED_EVENTS |= {"firebase_in_app_message_impression", "notification_dismiss", "notification_foreground", "os_update"}
_RESERVED_EVENTS |= {"notification_open", "notification_receive", "notification_send", "session_start", "user_engagement"}
_RESERVED_EVENTS |= {"ad_impression", "in_app_purchase", "screen_view"}  # these are for app streams only
_RESERVED_PREFIXES = ("firebase_", "ga_", "google_")
_LENGTHS = {"page_title": 300, "page_referrer": 420, "page_location": 1_000}  # characters, where they are not as many as usual
_ITEMS = 200
_TEXT = msgspec.json.Decoder(str)
_QUOTE = ord('"')
_NUMBER = frozenset(b"-0123456789")


@lru_cache(maxsize=10_000)
def event_name(name: str) -> str:
    """The name if GA4 accepts it, else in snake_case. Raises EventRejected."""
    identifier = _identifier(name, "event")
    if identifier in _RESERVED_EVENTS:
        raise EventRejected("reserved_name", "event", f"GA4 keeps the name {identifier} for itself: rename it with `event_names`")
    return identifier


def _identifier(name: str, field: str) -> str:
    identifier = name if _NAME.fullmatch(name) else snake_case(name)
    if not _NAME.fullmatch(identifier):
        detail = f"GA4 takes names of 1 to 40 of A-Z, a-z, 0-9 and _ that begin with a letter, and {identifier[:60]!r} is none"
        raise EventRejected("invalid_name", field, detail)
    if identifier.startswith(_RESERVED_PREFIXES):
        raise EventRejected("reserved_name", field, f"GA4 keeps names that begin as {identifier} does for itself")
    return identifier


class Parameters:
    """Turns properties into parameters, as bytes. `long_values`: reject or cut texts above `value_length` characters."""

    def __init__(self, names: Mapping[str, str], value_length: int, long_values: Literal["reject", "truncate"]) -> None:
        self._names = names
        self._length = value_length
        self._truncate = long_values == "truncate"
        self._keys: dict[str, tuple[str, bytes]] = {}

    def translated(self, properties: msgspec.Raw, renamed: Mapping[str, str]) -> dict[str, bytes]:
        """Parameter → its JSON, with its name and a colon. `renamed`: names for this call alone."""
        translated: dict[str, bytes] = {}
        if not members(properties):
            return translated
        known, short = self._keys, self._length + 2
        for name, value in decoded(MEMBERS, properties).items():
            key, head = known.get(name) or self.named(name)
            if renamed and name in renamed:
                key, head = self.named(renamed[name])
            text = bytes(value)
            first = text[0]
            if first not in _NUMBER and (first != _QUOTE or len(text) > short):
                text = self._value(name, key, text)
                if not text:
                    continue
            if key in translated:
                raise EventRejected("invalid_name", f"properties.{name}", f"two properties would be the parameter {key}")
            translated[key] = head + text
        return translated

    def named(self, name: str) -> tuple[str, bytes]:
        """The parameter of a property, and the beginning of its JSON."""
        key = _identifier(self._names.get(name, name), f"properties.{name}")
        if key == "firebase_conversion":
            raise EventRejected("reserved_name", f"properties.{name}", "GA4 keeps the name firebase_conversion for itself")
        found = key, b'"%b":' % key.encode()
        if len(self._keys) < 10_000:
            self._keys[name] = found
        return found

    def _value(self, name: str, key: str, value: bytes) -> bytes:
        """A value that is no number or short text: true and false as texts, structures except `items` as their JSON text."""
        if value[0] == _QUOTE:
            return self._text(name, key, value, _TEXT.decode(value))
        if value == b"null":
            return b""
        if key == "items" and value[:1] == b"[":
            count = len(decoded(ELEMENTS, value))
            if count > _ITEMS:
                raise EventRejected(
                    "too_many_properties", f"properties.{name}", f"GA4 takes {_ITEMS} items, and these are {count}"
                )
            return value
        if key == "items":
            return value
        if value in (b"true", b"false"):
            return b'"%b"' % value
        text = value.decode()
        return self._text(name, key, quoted(text), text)

    def _text(self, name: str, key: str, value: bytes, text: str) -> bytes:
        limit = _LENGTHS.get(key, self._length)
        if len(text) <= limit:
            return value
        if self._truncate:
            return quoted(text[:limit])
        raise EventRejected("value_too_long", f"properties.{name}", f"GA4 takes {limit} characters, and it has {len(text)}")
