"""PostHog: its capture API v1, which reports on each event; v0, which does not, for servers without v1.

Sources: PostHog's documentation ("POST-only public endpoints", "Historical migrations overview", "Person processing"); for v1 and
its limits, the source of its capture server (rust/capture/src/v1) and the Go SDK's encoder for it. Tested against a server that
follows these, not against PostHog itself. Unknown: when v0 drops an event, because it answers 200 in any case.

- v1 by default adjusts an event's time by the difference of the clocks. This is turned off: the time comes from the database, and
  PostHog recognizes a repeated event by its uuid, name, distinct_id and the day of its time.
- For an event without an address (`context.ip`), PostHog would take the worker's as the user's. This is turned off.
- A project over its billing limit drops events. They are sent again until there is room, instead of being parked by the million.
"""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
from pydantic import Field, SecretStr

from cdc_tracker import __version__
from cdc_tracker.destinations.base import DestinationSettings, Limits
from cdc_tracker.destinations.support.event_view import NO_CONTEXT, Call, EventRejected, decoded, read_call
from cdc_tracker.destinations.support.http import UNREADABLE, BaseUrl, Http, HttpSettings, Reply, retry_after
from cdc_tracker.destinations.support.json_splice import check_id_length, event_time, members, quoted
from cdc_tracker.destinations.support.naming import is_uuid, legal_id
from cdc_tracker.destinations.support.vendor import HttpDestination, send_parts, translated
from cdc_tracker.model import ASSUMED, DELIVERED, Batch, Event, Outcome, Receipt
from cdc_tracker.times import now_iso
from cdc_tracker.units import Size

HOSTS = {"us": "https://us.i.posthog.com", "eu": "https://eu.i.posthog.com"}
V1, V0 = "/i/v1/analytics/events", "/batch/"
_HISTORY = 48 * 3600  # seconds; older events go as a historical migration
_ID_BYTES = _NAME_BYTES = 200
_INVALID_IDS = {"0", "00000000-0000-0000-0000-000000000000", "[object object]", "anonymous", "anonymous-user", "backend"}
_INVALID_IDS |= {"distinct_id", "distinctid", "email", "false", "guest", "id", "nan", "none", "not_authenticated", "null"}
_INVALID_IDS |= {"system", "true", "undefined", "user"}
"""Ids that PostHog considers mistakes: it merges no person with them."""


class PosthogSettings(HttpSettings):
    type: Literal["posthog"] = "posthog"
    api_key: SecretStr = Field(min_length=1, description="the project's: `phc_…`")
    region: Literal["us", "eu"] = "us"
    host: BaseUrl | None = Field(default=None, description="of your own PostHog, or of a proxy before it; instead of `region`")
    api: Literal["auto", "v1", "v0"] = Field(default="auto", description="auto: v1 if the server has it")
    group_type: str = Field(default="company", min_length=1, description="what `groupId` names")
    person_profiles: Literal["identified_only", "always"] = Field(
        default="identified_only", description="always: events without a userId create a person, too"
    )
    compression: Literal["none", "gzip"] = "gzip"
    batch_events: int = Field(default=1_000, ge=1, le=10_000)
    batch_size: Size = Field(default=5_000_000, ge=1_000, le=19_000_000, description="PostHog accepts 20 MB")
    event_size: Size = Field(default=900_000, ge=100)


class _Result(msgspec.Struct, frozen=True, gc=False):
    result: str = ""
    details: str | None = None


_OK = _Result("ok")
_NO_ADDRESS, _ADDRESS = b'"$is_server":true,"$geoip_disable":true', b'"$is_server":true,"$ip":%b'
_V1 = (  # by whether it may create no person: options beside the properties, and the last of our properties
    (b'"options":{"disable_skew_correction":true},', b""),
    (b'"options":{"disable_skew_correction":true,"process_person_profile":false},', b""),
)
_V0 = ((b"", b',"$lib":"cdc-tracker"'), (b"", b',"$lib":"cdc-tracker","$process_person_profile":false'))


class _Results(msgspec.Struct):
    results: dict[str, _Result]


class _Failure(msgspec.Struct):
    error: str = ""


class _Page(msgspec.Struct):
    url: str | None = None


class _Translated(msgspec.Struct, gc=False):
    """An event in PostHog's shape. `who`, `other`: its persons' ids. `updates`: it changes a person for later events."""

    index: int
    micros: int
    uuid: str
    timestamp: str
    body: bytes
    who: str
    other: str
    updates: bool


_RESULTS = msgspec.json.Decoder(_Results)
_FAILURE = msgspec.json.Decoder(_Failure)
_PAGE = msgspec.json.Decoder(_Page)


class PosthogDestination(HttpDestination):
    """DELIVERED as v1 reports, ASSUMED on v0. An empty batch detects, once, which of the two the server has."""

    Settings: ClassVar[type[DestinationSettings]] = PosthogSettings
    duplicate_handling: ClassVar[str] = (
        "replaces it by the repeated one (same uuid, name, day and distinct_id) when its storage is tidied up, and may count "
        "both until then"
    )
    dedupe_window: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: PosthogSettings, base: Path) -> None:
        self.limits = Limits(settings.batch_events, settings.batch_size, settings.event_size, in_flight=settings.in_flight)
        self._key = settings.api_key.get_secret_value()
        self._api = settings.api
        self._group_type = settings.group_type
        self._always = settings.person_profiles == "always"
        self._host = settings.host or HOSTS[settings.region]
        self._http = Http(self._host + V1, settings, base, [self._key])

    def deliver(self, batch: Batch) -> list[Receipt]:
        if self._api == "auto":
            self._api = self._server_api()
        since = math.inf if batch.history else int((time.time() - _HISTORY) * 1_000_000)
        receipts, made = translated(batch.events, self._translate)
        old, live = [one for one in made if one.micros < since], [one for one in made if one.micros >= since]
        parts = [(part, history) for events, history in ((old, True), (live, False)) for part in _split_requests(events)]
        return send_parts(
            receipts, [([one.index for one in part], partial(self._send, part, history)) for part, history in parts]
        )

    def probe(self) -> None:
        """v1: an empty batch shows whether the key is well-formed. v0: only reaches the host."""
        if self._api == "v0":
            self._http.reach()
        else:
            self._server_api()

    def _server_api(self) -> Literal["v1", "v0"]:
        """Sends v1 an empty batch, which it refuses with an error of its own. Sends no event."""
        reply = self._post_v1([], "", False)
        if _knows_v1(reply):
            return "v1"
        if self._api == "v1" or not _lacks_v1(reply):
            self._http.check(reply)
        return "v0"

    def _send(self, made: Sequence[_Translated], history: bool) -> Sequence[Receipt]:
        if self._api == "v0":
            head = b'{"api_key":%b,"historical_migration":%b,"batch":[' % (quoted(self._key), b"true" if history else b"false")
            body = head + b",".join([one.body for one in made]) + b"]}"
            self._http.check(self._http.post(body, {}, url=self._host + V0))
            return [ASSUMED] * len(made)
        reply = self._post_v1([one.body for one in made], "".join([one.uuid for one in made]), history, made[-1].timestamp)
        self._http.check(reply)
        found = reply.read(_RESULTS)
        if found is None:
            return self._http.unreadable(reply, len(made))
        wait = retry_after(reply.headers)
        return [_receipt(found.results.get(one.uuid), wait) for one in made]

    def _post_v1(self, bodies: list[bytes], ids: str, history: bool, created: str = "2020-01-01T00:00:00Z") -> Reply:
        """Only the headers differ from attempt to attempt."""
        flag = b',"historical_migration":true' if history else b""
        body = b'{"created_at":"%b"%b,"batch":[%b]}' % (created.encode(), flag, b",".join(bodies))
        headers = {
            "Authorization": f"Bearer {self._key}",
            "PostHog-Sdk-Info": f"cdc-tracker/{__version__}",
            "PostHog-Attempt": "1",
            "PostHog-Request-Id": str(uuid.UUID(bytes=hashlib.sha256(ids.encode()).digest()[:16])),
            "PostHog-Request-Timestamp": now_iso(),
        }
        return self._http.post(body, headers)

    def _translate(self, index: int, event: Event) -> _Translated:
        call = read_call(event)
        context = call.context or NO_CONTEXT
        address, group = context.given_address, context.group
        micros, timestamp = event_time(call, event)
        name, own, inner = self._translate_call(call, group)
        distinct = call.user_id or call.anonymous_id or (f"${self._group_type}_{call.group_id}" if call.group_id else "")
        if not distinct:
            raise EventRejected("identity_missing", "userId", "PostHog needs a distinct_id")
        if call.type == "group" and not call.group_id:
            raise EventRejected("identity_missing", "groupId", "PostHog needs the group's key")
        check_id_length(distinct, _ID_BYTES, "userId" if call.user_id else "anonymousId")
        if len(name) > _NAME_BYTES and len(call.event.encode()) > _NAME_BYTES:
            raise EventRejected("invalid_name", "event", f"PostHog accepts names of {_NAME_BYTES} bytes at most")
        identifier = legal_id(event.message_id, is_uuid)
        options, ending = (_V0 if self._api == "v0" else _V1)[not (call.user_id or self._always)]
        body = b'{"event":%b,"uuid":"%b","distinct_id":%b,"timestamp":"%b",%b"properties":{%b%b%b%b%b}}' % (
            name,
            identifier.encode(),
            quoted(distinct),
            timestamp.encode(),
            options,
            own,
            _ADDRESS % quoted(address) if address else _NO_ADDRESS,
            ending,
            b"," if inner else b"",
            inner,
        )
        updates = call.type not in ("track", "page", "screen")
        other = (call.anonymous_id or call.previous_id or "") if updates else ""
        return _Translated(index, micros, identifier, timestamp, body, distinct, other, updates)

    def _translate_call(self, call: Call, context_group: str) -> tuple[bytes, bytes, bytes]:
        """PostHog's name of the event as JSON, the members to add to its properties, each with a comma, and its members."""
        if call.type == "track":
            group = call.group_id or context_group
            own = b'"$groups":{%b:%b},' % (quoted(self._group_type), quoted(group)) if group else b""
            return quoted(call.event), own, members(call.properties)
        if call.type == "identify":
            return self._identify(call)
        if call.type == "alias":
            _check_merge(call.previous_id, "previousId")
            _check_merge(call.user_id, "userId")
            return b'"$create_alias"', b'"alias":%b,' % quoted(call.previous_id), b""
        if call.type == "group":
            about = quoted(self._group_type), quoted(call.group_id), members(call.traits)
            return b'"$groupidentify"', b'"$group_type":%b,"$group_key":%b,"$group_set":{%b},' % about, b""
        own = b'"name":%b,' % quoted(call.name) if call.name else b""
        if call.type == "screen":
            own += b'"$screen_name":%b,' % quoted(call.name) if call.name else b""
            return b'"$screen"', own, members(call.properties)
        url = decoded(_PAGE, call.properties).url if members(call.properties) else None
        own += b'"$current_url":%b,' % quoted(url) if url else b""
        return b'"$pageview"', own, members(call.properties)

    def _identify(self, call: Call) -> tuple[bytes, bytes, bytes]:
        """With only an anonymousId there is no id to merge it with: the traits are set on it."""
        own = b'"$set":{%b},' % members(call.traits)
        if not call.user_id:
            return b'"$set"', own, b""
        _check_merge(call.user_id, "userId")
        if call.anonymous_id and call.anonymous_id != call.user_id:
            _check_merge(call.anonymous_id, "anonymousId")
            own = b'"$anon_distinct_id":%b,%b' % (quoted(call.anonymous_id), own)
        return b'"$identify"', own, b""


def _split_requests(made: list[_Translated]) -> list[list[_Translated]]:
    """Returns the events of each request, in order. No request contains a uuid twice: v1 refuses such a request as a whole.

    Uses the fewest requests that also keep the order between a person's updates and the person's other events.
    """
    if len({one.uuid for one in made}) == len(made):
        return [made] if made else []
    requests: list[list[_Translated]] = []
    free: dict[str, int] = {}  # uuid → the first request without it
    updated: dict[str, int] = {}  # id of a person → the last request that updates it
    last: dict[str, int] = {}  # id of a person → the last request with one of its events
    for one in made:
        people = (one.who, one.other) if one.other else (one.who,)
        seen = last if one.updates else updated
        place = max(free.get(one.uuid, 0), *[seen.get(person, 0) for person in people])
        if place == len(requests):
            requests.append([])
        requests[place].append(one)
        free[one.uuid] = place + 1
        for person in people:
            last[person] = max(place, last.get(person, 0))
            if one.updates:
                updated[person] = place
    return requests


def _check_merge(identifier: str | None, field: str) -> None:
    if not identifier or identifier.strip().lower() in _INVALID_IDS:
        raise EventRejected("id_invalid", field, "PostHog considers this id a mistake and merges no person with it")
    check_id_length(identifier, _ID_BYTES, field)


def _knows_v1(reply: Reply) -> bool:
    return reply.status == 400 and (reply.read(_FAILURE) or _Failure()).error == "empty_batch"


def _lacks_v1(reply: Reply) -> bool:
    """Whether the server has no v1: not found, no POST, or another answer; an older PostHog, or a proxy for the older API."""
    return reply.status in (400, 404, 405) or reply.ok


def _receipt(result: _Result | None, wait: float | None) -> Receipt:
    if result == _OK:
        return DELIVERED
    if result is None:
        return Receipt(Outcome.ASSUMED, UNREADABLE, detail="PostHog took the request and does not report on this event")
    details = result.details or ""
    if result.result in ("ok", "warning"):
        return Receipt(Outcome.DELIVERED, details) if details else DELIVERED
    if result.result == "retry" or details == "billing_limit_exceeded":
        return Receipt(Outcome.RETRY, details or "retry", retry_after=wait)
    return Receipt(Outcome.REJECTED, details or "dropped", detail=f"PostHog drops it: {details or result.result}")
