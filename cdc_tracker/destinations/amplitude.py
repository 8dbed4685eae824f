"""Amplitude: events by HTTP V2 and, where they are old, by Batch Event Upload; users by Identify, groups by Group Identify.

Sources: Amplitude's documentation of these four APIs and of batching and retries; its Python SDK, for the answers. Tested against
a server that follows these documents, not against Amplitude itself.

- track, page, screen → events: userId is `user_id`, anonymousId `device_id`, messageId `insert_id`, context.groupId a group.
- revenue: Amplitude's revenue fields are filled from the properties that `revenue` names; by default none are.
- identify → /identify with `$set`, which applies to later events: requests keep the order of each user.
- group → /groupidentify with `$set`, and /identify, which makes the user a member.
- alias has no counterpart in these APIs and is rejected.

After a 400 or 429 no event of the request was taken. Events that the answer names are REJECTED, or RETRY if they are throttled;
the rest is sent again at once. HTTP V2 names only the first event of each fault, /batch names all: after two rounds the rest goes
to /batch. If every event is throttled, Amplitude asks to wait 30 seconds.
Objects nested deeper than 40, the properties included, are rejected, because Amplitude does not accept them.
`min_id_length` is sent as 1, because by default Amplitude removes ids of fewer than 5 characters.
Unknown: whether a 200 of /identify proves delivery (so ASSUMED), whether it accepts compressed forms (so none is), and whether it
checks the key before it finds the list of events empty, which `probe` relies on.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
from pydantic import Field, SecretStr

from cdc_tracker.destinations.base import DestinationSettings, Limits
from cdc_tracker.destinations.support.event_view import NO_CONTEXT, Call, EventRejected, decoded, read_call
from cdc_tracker.destinations.support.http import Http, HttpSettings, OptionalUrl, Reply
from cdc_tracker.destinations.support.json_splice import MEMBERS, event_time, levels, members, quoted
from cdc_tracker.destinations.support.vendor import (
    INVALID_IDS,
    VIEWED,
    HttpDestination,
    Item,
    check_id,
    send_groups,
    translated,
    viewed_properties,
)
from cdc_tracker.errors import BatchRejected, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import ASSUMED, DELIVERED, Batch, Event, Outcome, Receipt
from cdc_tracker.units import Duration, Size

_HOSTS = {"us": "https://api2.amplitude.com", "eu": "https://api.eu.amplitude.com"}
_PATHS = {"live": "/2/httpapi", "history": "/batch", "identify": "/identify", "groupidentify": "/groupidentify"}
_INVALID_IDS = INVALID_IDS | {"lmy47d"}
_AT_ONCE = 1_000  # identifications per request: 1,024 are documented for groups
_LIVE_ROUNDS = 2  # requests to HTTP V2, which names few events at a time, before /batch
_THROTTLED = 30.0  # seconds
_DEPTH = 40  # nested objects, the properties included

Revenue = Literal["revenue", "price", "quantity", "productId", "revenueType", "currency"]


class AmplitudeSettings(HttpSettings):
    type: Literal["amplitude"] = "amplitude"
    api_key: SecretStr = Field(min_length=1)
    region: Literal["us", "eu"] = "us"
    endpoint: OptionalUrl = Field(default=None, description="instead of the region's address, such as your own proxy")
    min_id_length: int = Field(default=1, ge=1, le=1024, description="shorter ids are rejected")
    group_type: str = Field(default="company", min_length=1, description="the group type of your groups in the project")
    revenue: dict[Revenue, str] = Field(
        default_factory=dict,
        description="of track calls: revenue, price, quantity, productId, revenueType, currency → the property to take it from",
    )
    history_after: Duration = Field(default=86_400.0, ge=0, description="older events go to /batch, as replayed ones do")
    batch_events: int = Field(default=2_000, ge=1, le=2_000, description="plans without Growth: Amplitude recommends 10")
    batch_size: Size = Field(default=1_000_000, ge=10_000)
    compression: Literal["none", "gzip"] = "gzip"


class _Answer(msgspec.Struct):
    """The body of a 200, 400 or 429."""

    error: str = ""
    events_ingested: int = -1
    missing_field: str | None = None
    events_with_invalid_fields: dict[str, list[int]] = {}
    events_with_missing_fields: dict[str, list[int]] = {}
    events_with_invalid_id_lengths: dict[str, list[int]] = {}
    silenced_events: list[int] = []
    throttled_events: list[int] = []


_ANSWER = msgspec.json.Decoder(_Answer)
_NUMBER, _WHOLE, _TEXT = re.compile(rb"-?[0-9].*").fullmatch, re.compile(rb"-?[0-9]+").fullmatch, re.compile(rb'".*"').fullmatch
_FITS = {"revenue": _NUMBER, "price": _NUMBER, "quantity": _WHOLE, "productId": _TEXT, "revenueType": _TEXT, "currency": _TEXT}
_EXPECTED = {_NUMBER: "a number", _WHOLE: "a whole number", _TEXT: "a text"}


class AmplitudeDestination(HttpDestination):
    """DELIVERED means that Amplitude reported every event of the request as ingested; users and groups are ASSUMED."""

    Settings: ClassVar[type[DestinationSettings]] = AmplitudeSettings
    duplicate_handling: ClassVar[str] = (
        "drops an event of one device or user and insert_id within 7 days, and counts it again after that; a user or a group is "
        "set to the same values again"
    )
    dedupe_window: ClassVar[float] = 7 * 86_400.0

    def __init__(self, name: str, settings: AmplitudeSettings, base: Path) -> None:
        host = settings.endpoint or _HOSTS[settings.region]
        self._urls = {kind: host + path for kind, path in _PATHS.items()}
        self._key = settings.api_key.get_secret_value()
        self._tail = b'],"options":{"min_id_length":%d}}' % settings.min_id_length
        self._head = b'{"api_key":%b,"events":[' % quoted(self._key)
        size = settings.batch_size - len(self._head) - len(self._tail)
        self.limits = Limits(settings.batch_events, size, size, in_flight=settings.in_flight)
        self._shortest = settings.min_id_length
        self._revenue = settings.revenue
        self._group_type = quoted(settings.group_type)
        self._history_after = int(settings.history_after * 1_000_000)
        self._http = Http(self._urls["live"], settings, base, [self._key])

    def deliver(self, batch: Batch) -> list[Receipt]:
        recent = math.inf if batch.history else time.time_ns() // 1000 - self._history_after
        receipts, made = translated(batch.events, partial(self._items, recent))
        return send_groups(receipts, list(chain.from_iterable(made)), self._send)

    def probe(self) -> None:
        """Sends an empty list of events: Amplitude checks the key and keeps nothing."""
        reply = self._http.post(self._head + self._tail, {}, packed=False)
        self._check_key(reply)
        if reply.status != 400:
            self._http.check(reply)

    # Translation.

    def _items(self, recent: float, index: int, event: Event) -> list[Item]:
        call = read_call(event)
        group = (call.context or NO_CONTEXT).group
        if event.type == "alias":
            raise EventRejected("not_supported", "type", "alias has no counterpart in Amplitude's HTTP APIs")
        user = self._checked_id(call.user_id, "userId") if call.user_id else None
        device = self._checked_id(call.anonymous_id, "anonymousId") if call.anonymous_id else None
        who = b'"user_id":%b' % quoted(user) if user else b""
        if device:
            who += b'%b"device_id":%b' % (b"," if who else b"", quoted(device))
        if event.type == "identify":
            body = b'{%b,"user_properties":{"$set":{%b}}}' % (who, members(call.traits))
            _check_depth(members(call.traits), "traits")
            return [Item(index, "identify", body, user, device)]
        if event.type == "group":
            return self._group(index, call, who)
        micros, _ = event_time(call, event)
        old = micros < recent
        if event.type in VIEWED:
            name, inner = VIEWED[event.type], viewed_properties(call)
        else:
            name, inner = call.event, members(call.properties)
        _check_depth(inner, "properties")
        body = b'{%b,"event_type":%b,"time":%d,"insert_id":%b%b%b%b,"event_properties":{%b}}' % (
            who,
            quoted(name),
            micros // 1000,
            quoted(event.message_id),
            b',"groups":{%b:%b}' % (self._group_type, quoted(group)) if group else b"",
            b',"$skip_user_properties_sync":true' if old else b"",
            self._revenue_fields(inner) if self._revenue and event.type == "track" else b"",
            inner,
        )
        return [Item(index, "events", body, user, device, group, old=old)]

    def _revenue_fields(self, inner: bytes) -> bytes:
        """Amplitude's revenue fields as JSON members, each with a comma before it. The properties stay as they are."""
        found = decoded(MEMBERS, b"{%b}" % inner)
        made = []
        for field, name in self._revenue.items():
            value = bytes(found.get(name, b"null"))
            if value == b"null":
                continue
            if not _FITS[field](value):
                raise EventRejected("type_mismatch", f"properties.{name}", f"Amplitude's {field} is {_EXPECTED[_FITS[field]]}")
            made.append(b',"%b":%b' % (field.encode(), value))
        return b"".join(made)

    def _checked_id(self, name: str, field: str) -> str:
        check_id("Amplitude", _INVALID_IDS, name, field)
        if len(name) < self._shortest:
            raise EventRejected("id_invalid", field, f"the id has fewer than {self._shortest} characters: see `min_id_length`")
        return name

    def _group(self, index: int, call: Call, who: bytes) -> list[Item]:
        _check_depth(members(call.traits), "traits")
        group = quoted(call.group_id)
        form = b'{"group_type":%b,"group_value":%b,"group_properties":{"$set":{%b}}}'
        made = [Item(index, "groupidentify", form % (self._group_type, group, members(call.traits)), group=call.group_id)]
        if who:
            member = b'{%b,"groups":{%b:%b}}' % (who, self._group_type, group)
            made.append(Item(index, "identify", member, call.user_id, call.anonymous_id, call.group_id))
        return made

    # Sending.

    def _send(self, kind: str, items: Sequence[Item]) -> list[Receipt]:
        return self._send_by_age(items) if kind == "events" else self._identify(kind, items)

    def _send_by_age(self, items: Sequence[Item]) -> list[Receipt]:
        """Sends old events to /batch first. Among events, their time and not the order of sending counts."""
        if not any(item.old for item in items):
            return self._events("live", items)
        parts = [("history", [item for item in items if item.old]), ("live", [item for item in items if not item.old])]
        answers = {kind: iter(self._events(kind, part)) for kind, part in parts}
        return [next(answers["history" if item.old else "live"]) for item in items]

    def _events(self, kind: str, items: Sequence[Item]) -> list[Receipt]:
        receipts: list[Receipt | None] = [None] * len(items)
        left = list(range(len(items)))
        rounds = 0
        while left:
            path = "history" if rounds >= _LIVE_ROUNDS else kind
            body = b"%b%b%b" % (self._head, b",".join([items[i].body for i in left]), self._tail)
            reply = self._http.post(body, {}, url=self._urls[path])
            named = self._read(reply, len(left))
            for place, receipt in named.items():
                receipts[left[place]] = receipt
            left = [i for i in left if receipts[i] is None]
            if all(receipt is not None and receipt.outcome is Outcome.RETRY for receipt in receipts):
                raise DestinationUnavailable(f"{reply.place} throttles all users of the request", retry_after=_THROTTLED)
            rounds += 1
        return [receipt for receipt in receipts if receipt is not None]

    def _read(self, reply: Reply, count: int) -> dict[int, Receipt]:
        """Receipts by index in the request: of all events after a 2xx, else of those that the answer names."""
        if reply.ok:
            answer = reply.read(_ANSWER)
            if answer is None:
                return dict(enumerate(self._http.unreadable(reply, count)))
            return dict.fromkeys(range(count), DELIVERED if answer.events_ingested == count else ASSUMED)
        self._check_key(reply)
        named = self._named(_decoded(reply)) if reply.status in (400, 429) else {}
        if not named:
            self._http.check(reply)
        if not all(0 <= place < count for place in named):
            raise BatchRejected(f"{reply.place} names events that were not sent: {self._http.quoted(reply.text)}")
        return named

    def _named(self, answer: _Answer) -> dict[int, Receipt]:
        said = self._http.quoted(answer.error)
        named = {place: Receipt(Outcome.RETRY, said) for place in answer.throttled_events}
        named |= {place: Receipt(Outcome.REJECTED, "silenced", detail=said) for place in answer.silenced_events}
        for found, words in (
            (answer.events_with_invalid_id_lengths, "the id is too short"),
            (answer.events_with_missing_fields, "the field is missing"),
            (answer.events_with_invalid_fields, "the field is invalid"),
        ):
            for field, places in found.items():
                detail = f"{said}: {words}"
                named |= {place: Receipt(Outcome.REJECTED, "refused", field, detail) for place in places}
        return named

    def _identify(self, kind: str, items: Sequence[Item]) -> list[Receipt]:
        for start in range(0, len(items), _AT_ONCE):
            bodies = b",".join([item.body for item in items[start : start + _AT_ONCE]])
            fields = {"api_key": self._key, "identification": f"[{bodies.decode()}]"}
            reply = self._http.post_form(fields, url=self._urls[kind])
            self._check_key(reply)
            self._http.check(reply)
        return [ASSUMED] * len(items)

    def _check_key(self, reply: Reply) -> None:
        """Raises DestinationBlocked if the key is wrong, which is a 400."""
        if reply.status == 400 and "api key" in _error(reply).lower():
            raise DestinationBlocked(f"{reply.place} answered 400: {self._http.quoted(reply.text)}", hint="correct `api_key`")


def _check_depth(inner: bytes, field: str) -> None:
    """Raises EventRejected if objects are nested too deep. Parses only if there are enough braces."""
    if inner.count(b"{") >= _DEPTH and any(level.depth >= _DEPTH for level in levels(inner, field)):
        raise EventRejected("too_deep", field, f"objects nested deeper than {_DEPTH}, which Amplitude does not accept")


def _decoded(reply: Reply) -> _Answer:
    return reply.read(_ANSWER) or _Answer(error=reply.text)


def _error(reply: Reply) -> str:
    return _decoded(reply).error or reply.text
