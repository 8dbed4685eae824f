"""Heap's server-side API: track, and add_user_properties for identify calls.

Sources: Heap's developer documentation ("Track", "Bulk Track", "Add User Properties", "Bulk Add User Properties") and an OpenAPI
description by a third party (API Evangelist), the only one to describe answers: 200 if accepted, 400 for invalid parameters.
Tested against a server that follows these, not against Heap itself.

Unknown: whether a 200 covers every event of a request (so ASSUMED); how long an `idempotency_key` is remembered (it becomes the
event's id, and no limit is documented: taken as for ever); how true and false are stored (sent as texts), and objects (sent as
their JSON text); the limit of a request; whether compressed requests are accepted (none is); how exact numbers above 2^53 are.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
from pydantic import Field, SecretStr

from cdc_tracker.destinations.base import DestinationSettings, Limits
from cdc_tracker.destinations.support.event_view import Call, EventRejected, read_event
from cdc_tracker.destinations.support.http import BaseUrl, Http, HttpSettings
from cdc_tracker.destinations.support.json_splice import MEMBERS, event_time, members, quoted
from cdc_tracker.destinations.support.vendor import HttpDestination, Part, send_parts, translated, unsupported
from cdc_tracker.errors import DestinationBlocked
from cdc_tracker.model import ASSUMED, Batch, Event, Receipt
from cdc_tracker.units import Size

HOSTS = {"us": "https://heapanalytics.com", "eu": "https://c.eu.heap-api.com"}
_MOST_TEXT = 1_023  # characters of a name or value: Heap says fewer than 1,024
_MOST_IDENTITY = 255
_USER_IDS = 2**53
_STRING = msgspec.json.Decoder(str)
_NUMBER = frozenset(b"-0123456789")


class HeapSettings(HttpSettings):
    type: Literal["heap"] = "heap"
    app_id: SecretStr = Field(min_length=1, description="the environment's id")
    region: Literal["us", "eu"] = Field(default="us", description="where the Heap data is stored")
    host: BaseUrl | None = Field(default=None, description="of a proxy before Heap; instead of `region`")
    compression: Literal["none"] = Field(default="none", description="Heap documents no other")
    long_values: Literal["reject", "truncate"] = Field(default="reject", description="for texts that are too long")
    unsupported: Literal["reject", "skip"] = Field(
        default="reject",
        description="for group, alias, page and screen, which have no counterpart; skip: left out and counted as suppressed",
    )
    batch_events: int = Field(default=1_000, ge=1, le=1_000)
    batch_size: Size = Field(default=1_000_000, ge=1_000, description="a guess: Heap documents none")
    event_size: Size = Field(default=250_000, ge=100, description="a guess, too")


class HeapDestination(HttpDestination):
    """Sends tracks in one request and user properties in another. Both can be repeated without effect."""

    Settings: ClassVar[type[DestinationSettings]] = HeapSettings
    duplicate_handling: ClassVar[str] = "drops it by its idempotency_key; user properties are set to the same values again"
    dedupe_window: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: HeapSettings, base: Path) -> None:
        self.limits = Limits(settings.batch_events, settings.batch_size, settings.event_size, in_flight=settings.in_flight)
        self._truncate = settings.long_values == "truncate"
        self._skip = settings.unsupported == "skip"
        app = settings.app_id.get_secret_value()
        host = settings.host or HOSTS[settings.region]
        self._head = b'{"app_id":%b,' % quoted(app)
        self._properties_url = f"{host}/api/add_user_properties"
        self._http = Http(f"{host}/api/track", settings, base, [app])

    def deliver(self, batch: Batch) -> list[Receipt]:
        receipts, made = translated(batch.events, self._translate)
        parts: list[Part] = []
        for is_user, name, url in ((True, b'"users"', self._properties_url), (False, b'"events"', None)):
            if found := [(index, body) for index, user, body in made if user is is_user]:
                parts.append(([index for index, _ in found], partial(self._send, name, [body for _, body in found], url)))
        return send_parts(receipts, parts)

    def _send(self, name: bytes, bodies: list[bytes], url: str | None) -> list[Receipt]:
        body = b"%b%b:[%b]}" % (self._head, name, b",".join(bodies))
        reply = self._http.post(body, {}, url=url)
        if reply.status == 400 and "app_id" in reply.text:  # otherwise a wrong one would park every event
            raise DestinationBlocked(f"{reply.place} answered 400: {self._http.quoted(reply.text)}", hint="correct `app_id`")
        self._http.check(reply)
        return [ASSUMED] * len(bodies)

    def _translate(self, index: int, event: Event) -> tuple[int, bool, bytes]:
        """The event's index, whether it is about a user's properties, and its body."""
        call = read_event(event)
        if call.type == "track":
            return index, False, self._track(call, event)
        if call.type == "identify":
            return index, True, self._user(call)
        raise unsupported("Heap", call.type, skip=self._skip)

    def _track(self, call: Call, event: Event) -> bytes:
        if not call.event or len(call.event) > _MOST_TEXT + 1:
            raise EventRejected("invalid_name", "event", f"Heap accepts names of 1 to {_MOST_TEXT + 1} characters")
        _, timestamp = event_time(call, event)
        return b'{%b,"event":%b,"timestamp":"%b","idempotency_key":%b,"properties":{%b}}' % (
            self._identity(call),
            quoted(call.event),
            timestamp.encode(),
            quoted(event.message_id),
            self._flat(call.properties, "properties"),
        )

    def _user(self, call: Call) -> bytes:
        if not call.user_id:
            raise EventRejected(
                "not_supported", "userId", "Heap keeps properties of identified users only, and this call has no userId"
            )
        return b'{%b,"properties":{%b}}' % (self._identity(call), self._flat(call.traits, "traits"))

    def _identity(self, call: Call) -> bytes:
        """`identity`, or without a userId the `user_id`, the number that Heap's scripts give a browser. Never both."""
        if call.user_id:
            if len(call.user_id) > _MOST_IDENTITY:
                raise EventRejected("id_too_long", "userId", f"Heap takes identities of {_MOST_IDENTITY} characters at most")
            return b'"identity":' + quoted(call.user_id)
        number = call.anonymous_id or ""
        if number.isascii() and number.isdigit() and int(number[:17]) < _USER_IDS and len(number) <= 16:
            return b'"user_id":"%b"' % number.encode()
        detail = "without a userId Heap accepts only a user_id from its own scripts, a number below 2^53"
        raise EventRejected("id_invalid", "anonymousId", detail)

    def _flat(self, raw: msgspec.Raw, field: str) -> bytes:
        inner = members(raw)
        if len(inner) < _MOST_TEXT and not _needs_conversion(inner):
            return inner  # fast path: numbers and short texts only
        made = []
        for name, value in MEMBERS.decode(raw).items():
            text = self._value(name, bytes(value), field)
            if text:
                made.append(b"%b:%b" % (quoted(name), text))
        return b",".join(made)

    def _value(self, name: str, value: bytes, field: str) -> bytes:
        """The value as Heap accepts it: numbers, texts and lists of them as they are; empty for null."""
        if len(name) > _MOST_TEXT:
            raise EventRejected("invalid_name", field, f"Heap takes names of properties of {_MOST_TEXT} characters at most")
        first = value[0]
        if first in _NUMBER or (first == ord('"') and len(value) <= _MOST_TEXT):
            return value
        if value == b"null":
            return b""
        if first == ord('"'):
            text = _STRING.decode(value)
        elif first == ord("["):
            return self._list(name, value, field)
        else:
            text = value.decode()  # true, false, an object
        if len(text) > _MOST_TEXT and not self._truncate:
            detail = f"Heap takes {_MOST_TEXT} characters, and it has {len(text)}"
            raise EventRejected("value_too_long", f"{field}.{name}", detail)
        return quoted(text[:_MOST_TEXT])

    def _list(self, name: str, value: bytes, field: str) -> bytes:
        """Heap joins a list of texts and numbers with `||` and cuts it. Other lists become their JSON text."""
        texts = value.decode()
        if "{" not in texts and "[" not in texts[1:] and len(texts) <= _MOST_TEXT:
            return value
        if len(texts) > _MOST_TEXT and not self._truncate:
            detail = f"Heap takes {_MOST_TEXT} characters, and the list has {len(texts)}"
            raise EventRejected("value_too_long", f"{field}.{name}", detail)
        return quoted(texts[:_MOST_TEXT])


def _needs_conversion(members: bytes) -> bool:
    """Whether there may be values other than numbers and texts."""
    return b"{" in members or b"[" in members or b"true" in members or b"false" in members or b"null" in members
