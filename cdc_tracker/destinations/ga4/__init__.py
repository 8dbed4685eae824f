"""Google Analytics 4 by the Measurement Protocol, web streams.

Sources: Google's documentation, "Measurement Protocol reference" (transport, payload, consent, reserved names, validation
behavior), "Send Measurement Protocol events", "Validate events", "Event naming rules", "Event collection limits". Tested against
a server that follows these, not against Google. Unknown: what GA4 does with events dated in the future.

- It answers 2xx to everything: ASSUMED. What it would silently drop or cut is rejected here instead.
- All events of a request share client and user, so a batch becomes one request per client and 25 events. The order of one
  client's events is kept; between clients it is not.
- `client_id` must be two numbers separated by a dot. An anonymousId of that form (as in `_ga` cookies) is sent as it is; any
  other, or without one the userId, becomes such a pair by a hash, always the same.
- `timestamp_micros` is beside an event's name, in its params, and in the request: Google's pages and users' reports differ on
  which counts. The request's is that of its last event, for a reader that knows neither of the others.
- `context.ip` and `context.userAgent` are sent as `ip_override` and `user_agent`: without them Google uses the worker's.
- GA4 would silently change the date of events older than 72 hours: they are rejected.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import quote_plus

import msgspec
from pydantic import Field, SecretStr

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.ga4.parameters import MOST, Parameters, event_name
from cdc_tracker.destinations.support.event_view import ABSENT, NO_CONTEXT, Call, ContextView, EventRejected, decoded, read_call
from cdc_tracker.destinations.support.http import BaseUrl, Http, HttpSettings
from cdc_tracker.destinations.support.json_splice import event_time, quoted
from cdc_tracker.destinations.support.naming import legal_id
from cdc_tracker.destinations.support.vendor import HttpDestination, Part, send_parts, translated, unsupported
from cdc_tracker.errors import DestinationBlocked
from cdc_tracker.model import ASSUMED, Batch, Event, Receipt

HOSTS = {"us": "https://www.google-analytics.com", "eu": "https://region1.google-analytics.com"}
MAX_AGE = 72 * 3600.0
_REQUEST_EVENTS = 25
_REQUEST_BYTES = 130_000
_CLIENT = re.compile(r"[1-9][0-9]{0,19}\.[1-9][0-9]{0,19}")
_USER = 256  # characters of a user_id
_PAGE_PARAMETERS = {"url": "page_location", "title": "page_title", "referrer": "page_referrer"}
_NO_RENAMES: dict[str, str] = {}
_PROBE = (
    b'{"client_id":"1.1","validation_behavior":"ENFORCE_RECOMMENDATIONS","events":[{"name":"cdc_tracker_check","params":{}}]}'
)

Consent = Literal["ad_user_data", "ad_personalization"]


class Ga4Settings(HttpSettings):
    type: Literal["ga4"] = "ga4"
    measurement_id: str = Field(pattern=r"^G-[A-Z0-9]+$", description="of the web stream: `G-…`")
    api_secret: SecretStr = Field(min_length=1)
    region: Literal["us", "eu"] = Field(default="us", description="eu: taken in and processed there")
    host: BaseUrl | None = Field(default=None, description="of a server-side tag manager, say; instead of `region`")
    compression: Literal["none"] = Field(default="none", description="Google documents no other")
    event_names: dict[str, str] = Field(default_factory=dict, description="event → GA4's name for it: `Order Paid: purchase`")
    parameter_names: dict[str, str] = Field(default_factory=dict, description="property → GA4's name: `products: items`")
    transaction_id: str | None = Field(
        default=None,
        description="of purchases: the property that is sent as transaction_id; else, where that is missing, the messageId",
    )
    id_parameter: str | None = Field(
        default="message_id",
        pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$",
        description="the parameter that the messageId goes in, for queries; null: none",
    )
    consent: dict[Consent, str] = Field(
        default_factory=dict,
        description="the category of context.consent.categoryPreferences that decides each; default: of its own name",
    )
    long_values: Literal["reject", "truncate"] = Field(default="reject", description="what becomes of texts that are too long")
    value_length: int = Field(default=100, ge=36, le=500, description="characters; 500 for Analytics 360")
    too_old: Literal["reject", "send"] = Field(default="reject", description="send: GA4 then dates them 72 hours back")
    unsupported: Literal["reject", "skip"] = Field(
        default="reject",
        description="identify, group, alias and screen, which have no counterpart; skip: left out, and counted as suppressed",
    )
    batch_events: int = Field(default=1_000, ge=1, le=10_000, description="in one call; each request holds 25 of one client")


class _Consent(msgspec.Struct, rename="camel", gc=False):
    category_preferences: dict[str, bool] = {}


class _Translated(msgspec.Struct, gc=False):
    """An event in GA4's shape. `client`: the members of its request. `when`: its time as a member of both."""

    index: int
    client: bytes
    when: bytes
    body: bytes


class _Message(msgspec.Struct, rename="camel"):
    description: str = ""


class _Validation(msgspec.Struct, rename="camel"):
    validation_messages: list[_Message] = []


_CONSENT = msgspec.json.Decoder(_Consent | None)
_VALIDATION = msgspec.json.Decoder(_Validation)


class Ga4Destination(HttpDestination):
    """Every accepted event is ASSUMED: GA4 reports nothing more."""

    Settings: ClassVar[type[DestinationSettings]] = Ga4Settings
    guarantee: ClassVar[Guarantee] = "at least once"
    duplicate_handling: ClassVar[str] = (
        "keeps it as one more event, since GA4 knows none of our ids; only a purchase is known again, by its transaction_id"
    )
    dedupe_window: ClassVar[float] = 0.0
    age_limit: ClassVar[float] = MAX_AGE

    def __init__(self, name: str, settings: Ga4Settings, base: Path) -> None:
        self._settings = settings
        self._longest = settings.value_length
        self._parameters = Parameters(settings.parameter_names, settings.value_length, settings.long_values)
        self.limits = Limits(settings.batch_events, 8_000_000, _REQUEST_BYTES - 1_000, in_flight=settings.in_flight)
        secret = settings.api_secret.get_secret_value()
        host = settings.host or HOSTS[settings.region]
        query = f"?measurement_id={settings.measurement_id}&api_secret={quote_plus(secret)}"
        self._debug = f"{host}/debug/mp/collect{query}"
        self._http = Http(f"{host}/mp/collect{query}", settings, base, [secret])

    def deliver(self, batch: Batch) -> list[Receipt]:
        oldest = (time.time() - MAX_AGE) * 1_000_000 if self._settings.too_old == "reject" else -math.inf
        receipts, made = translated(batch.events, partial(self._translate, oldest))
        return send_parts(receipts, self._requests(made))

    def probe(self) -> None:
        """Sends a request to the validation server, which keeps nothing and checks neither measurement_id nor secret."""
        reply = self._http.post(_PROBE, {}, url=self._debug)
        self._http.check(reply)
        answer = reply.read(_VALIDATION)
        messages = answer.validation_messages if answer else [_Message("its answer is not that of the validation server")]
        if messages:
            said = self._http.quoted("; ".join(message.description for message in messages))
            raise DestinationBlocked(f"{reply.place} rejects the request: {said}", hint="correct `measurement_id` or `host`")

    def _client(self, call: Call, context: ContextView, consent: _Consent | None) -> bytes:
        """The members that all events of a request share: client, user, consent and device."""
        who = call.anonymous_id or call.user_id
        if not who:
            raise EventRejected("identity_missing", "userId", "GA4 needs a client_id or what to make it of")
        if call.user_id and len(call.user_id) > _USER:
            raise EventRejected("id_too_long", "userId", f"GA4 takes a user_id of {_USER} characters at most")
        user = b',"user_id":' + quoted(call.user_id) if call.user_id else b""
        said = self._consent_member(consent) if consent else b""
        return b'"client_id":"%b"%b%b%b' % (client_id(who).encode(), user, said, _device(context))

    def _consent_member(self, consent: _Consent) -> bytes:
        given = []
        for key in ("ad_user_data", "ad_personalization"):
            category = self._settings.consent.get(key, key)
            if category in consent.category_preferences:
                state = "GRANTED" if consent.category_preferences[category] else "DENIED"
                given.append(f'"{key}":"{state}"')
        return b',"consent":{%b}' % ",".join(given).encode() if given else b""

    def _translate(self, oldest: float, index: int, event: Event) -> _Translated:
        call = read_call(event)
        context = call.context or NO_CONTEXT
        consent = None if context.consent is ABSENT else decoded(_CONSENT, context.consent, "context.consent")
        if call.type not in ("track", "page"):
            raise unsupported("GA4", call.type, skip=self._settings.unsupported == "skip")
        client = self._client(call, context, consent)
        micros, _ = event_time(call, event)
        if micros < oldest:
            raise EventRejected("too_old", "timestamp", "GA4 takes events of the last 72 hours, and would redate this one")
        page = call.type == "page"
        name = "page_view" if page else event_name(self._settings.event_names.get(call.event, call.event))
        made = self._parameters.translated(call.properties, _PAGE_PARAMETERS if page else _NO_RENAMES)
        if name == "purchase":
            self._identify_purchase(made, event)
        if self._settings.id_parameter:
            made[self._settings.id_parameter] = b'"%b":%b' % (self._settings.id_parameter.encode(), self._id(event))
        made["timestamp_micros"] = when = b'"timestamp_micros":%d' % micros
        if len(made) > MOST:
            raise EventRejected("too_many_properties", "properties", f"GA4 takes {MOST} parameters, and these make {len(made)}")
        body = b'{"name":"%b",%b,"params":{%b}}' % (name.encode(), when, b",".join(made.values()))
        return _Translated(index, client, when, body)

    def _id(self, event: Event) -> bytes:
        """The messageId as the value of a parameter."""
        return quoted(legal_id(event.message_id, self._fits))

    def _fits(self, text: str) -> bool:
        return len(text) <= self._longest

    def _identify_purchase(self, made: dict[str, bytes], event: Event) -> None:
        """GA4 counts a purchase of a transaction_id once."""
        source = self._settings.transaction_id
        found = made.pop(self._parameters.named(source)[0], b"") if source else b""
        if found:
            made["transaction_id"] = b'"transaction_id":' + found.partition(b":")[2]
        made.setdefault("transaction_id", b'"transaction_id":' + self._id(event))

    def _requests(self, made: Iterable[_Translated]) -> Iterator[Part]:
        clients: dict[bytes, list[_Translated]] = {}
        for one in made:
            clients.setdefault(one.client, []).append(one)
        for client, events in clients.items():
            room = _REQUEST_BYTES - len(client) - 60
            request: list[_Translated] = []
            size = 0
            for one in events:
                if len(request) == _REQUEST_EVENTS or (request and size + len(one.body) >= room):
                    yield [each.index for each in request], partial(self._send, client, request)
                    request, size = [], 0
                request.append(one)
                size += len(one.body) + 1
            yield [each.index for each in request], partial(self._send, client, request)

    def _send(self, client: bytes, request: list[_Translated]) -> list[Receipt]:
        events = b",".join([one.body for one in request])
        self._http.check(self._http.post(b'{%b,%b,"events":[%b]}' % (client, request[-1].when, events), {}))
        return [ASSUMED] * len(request)


def _device(device: ContextView) -> bytes:
    address, agent = device.address, device.agent
    made = b',"ip_override":' + quoted(address) if address else b""
    return made + b',"user_agent":' + quoted(agent) if agent else made


@lru_cache(maxsize=100_000)
def client_id(who: str) -> str:
    """Two numbers separated by a dot, as GA4's scripts make them."""
    if _CLIENT.fullmatch(who):
        return who
    digest = hashlib.sha256(who.encode()).digest()
    first, second = (int.from_bytes(digest[at : at + 4], "big") | 1 << 31 for at in (0, 4))
    return f"{first}.{second}"
