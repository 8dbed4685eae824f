"""Mixpanel: events by /import with strict validation, user profiles by /engage, groups by /groups.

Sources: Mixpanel's OpenAPI files of ingestion and identity (Import Events, Set Property, Group Set, Create Identity, Create
Alias), its pages on event deduplication, on identifying users (simplified and original) and on 400 and 413. Tested against a
server that follows these documents, not against Mixpanel itself. /track is not used: it accepts the last 5 days only.

- track, page, screen → events. Simplified ID merge: `$device_id`, `$user_id`, from which Mixpanel derives distinct_id. Original:
  distinct_id.
- identify → `$set` on the profile (no increments, which could not be repeated) at the call's `$time`, with `$ignore_time` unless
  `context.active` is true: otherwise a backfill would set everybody's Last Seen to now. With userId and anonymousId, also an
  event `$identify` that links the two. Original ID merge links by `$identified_id` and `$anon_id`, a UUID v4.
- group → `$set` on the group's profile. On other calls context.groupId becomes the property that the group key names.
- alias → `$create_alias` in projects with original ID merge. It has no effect with simplified ID merge, so it is rejected.

/import answers 400 if it refuses some events; it names these and has taken the others. /engage and /groups answer 200 with 1 or
0, which proves little: 1 is ASSUMED, 0 is halved until the refused entry is alone; because of `strict` they may also name it.
Profiles and groups are never compressed: only /import documents gzip.
Unknown: whether lists count for the depth of 3 (only objects are counted here); the limit of a request (10 MB on one page, 2 MB
in the OpenAPI file: 2 MB are used); what /import answers to an empty list, which `probe` relies on.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import quote

import msgspec
from pydantic import Field, SecretStr, model_validator

from cdc_tracker.destinations.base import DestinationSettings, Limits
from cdc_tracker.destinations.support.event_view import NO_CONTEXT, Call, EventRejected, read_call
from cdc_tracker.destinations.support.http import Http, HttpSettings, OptionalUrl, Reply
from cdc_tracker.destinations.support.json_splice import event_time, levels, members, quoted
from cdc_tracker.destinations.support.naming import legal_id
from cdc_tracker.destinations.support.vendor import (
    INVALID_IDS,
    VIEWED,
    HttpDestination,
    Item,
    check_id,
    keys,
    send_groups,
    translated,
    viewed_properties,
)
from cdc_tracker.errors import BatchRejected
from cdc_tracker.model import ASSUMED, DELIVERED, Batch, Event, Outcome, Receipt
from cdc_tracker.units import Size

_HOSTS = {"us": "https://api.mixpanel.com", "eu": "https://api-eu.mixpanel.com", "in": "https://api-in.mixpanel.com"}
_PATHS = {"import": "/import?strict=1", "engage": "/engage?strict=1&verbose=1&ip=0", "groups": "/groups?strict=1&verbose=1"}
_INVALID_IDS = INVALID_IDS | {"anon", "<nil>", "true", "false", "[]"}
_checked_id = partial(check_id, "Mixpanel", _INVALID_IDS)
_RESERVED = ("time", "distinct_id", "$insert_id", "$user_id", "$device_id")
_ID_LENGTH = 36
_KEYS = 254  # of an object, and elements of a list
_DEPTH = 3
_EVENT_BYTES = 1_000_000
_EARLIEST = 365 * 86_400_000_000  # 1971-01-01, in microseconds
_MOST_AHEAD = 3_600_000_000


class MixpanelSettings(HttpSettings):
    type: Literal["mixpanel"] = "mixpanel"
    token: SecretStr = Field(min_length=1, description="the project's token; profiles and groups always need it")
    project_id: int | None = Field(default=None, description="with a service account")
    service_account: str = Field(default="", description="its username; without one, the token authenticates")
    service_secret: SecretStr = SecretStr("")
    region: Literal["us", "eu", "in"] = "us"
    endpoint: OptionalUrl = Field(default=None, description="instead of the region's address, such as your own proxy")
    id_merge: Literal["simplified", "original"] = Field(default="simplified", description="as the project's settings say")
    group_key: str = Field(default="company", min_length=1, description="the property that names the group in the project")
    batch_events: int = Field(default=2_000, ge=1, le=2_000)
    batch_size: Size = Field(default=2_000_000, ge=10_000)
    compression: Literal["none", "gzip"] = "gzip"

    @model_validator(mode="after")
    def _whole_account(self) -> MixpanelSettings:
        given = [bool(self.service_account), bool(self.service_secret.get_secret_value()), self.project_id is not None]
        if any(given) and not all(given):
            raise ValueError("service_account, service_secret and project_id go together")
        return self


class _Failed(msgspec.Struct):
    index: int = -1
    insert_id: str = ""
    field: str = ""
    message: str = ""


class _Answer(msgspec.Struct):
    num_records_imported: int = -1
    failed_records: list[_Failed] = []
    status: int | str | None = None
    error: str | None = None


_ANSWER = msgspec.json.Decoder(_Answer | int)


class MixpanelDestination(HttpDestination):
    """DELIVERED means that Mixpanel counted the event as imported; profiles and groups are mostly ASSUMED."""

    Settings: ClassVar[type[DestinationSettings]] = MixpanelSettings
    duplicate_handling: ClassVar[str] = (
        "drops all but the latest event of one name, time, user and $insert_id, in reports at once and in storage later (raw "
        "exports show them all); a profile is set to the same values again"
    )
    dedupe_window: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: MixpanelSettings, base: Path) -> None:
        self.limits = Limits(settings.batch_events, settings.batch_size - 64, _EVENT_BYTES, in_flight=settings.in_flight)
        host = settings.endpoint or _HOSTS[settings.region]
        project = f"&project_id={settings.project_id}" if settings.service_account else ""
        self._urls = {kind: host + path + (project if kind == "import" else "") for kind, path in _PATHS.items()}
        token, secret = settings.token.get_secret_value(), settings.service_secret.get_secret_value()
        user = f"{settings.service_account}:{secret}" if settings.service_account else f"{token}:"
        basic = base64.b64encode(user.encode()).decode()
        self._headers = {"import": {"Authorization": f"Basic {basic}"}, "engage": {}, "groups": {}}
        self._token = quoted(token)
        self._group_key = settings.group_key
        self._simplified = settings.id_merge == "simplified"
        self._http = Http(self._urls["import"], settings, base, [token, secret, basic, quote(user)])

    def deliver(self, batch: Batch) -> list[Receipt]:
        latest = time.time_ns() // 1000 + _MOST_AHEAD
        receipts, made = translated(batch.events, partial(self._items, latest))
        return send_groups(receipts, list(chain.from_iterable(made)), self._post)

    def probe(self) -> None:
        """Sends an empty list of events: Mixpanel checks the credentials and keeps nothing."""
        reply = self._http.post(b"[]", self._headers["import"], packed=False)
        if reply.status != 400:
            self._http.check(reply)

    # Translation.

    def _items(self, latest: int, index: int, event: Event) -> list[Item]:
        call = read_call(event)
        context = call.context or NO_CONTEXT
        group = context.group
        micros, _ = event_time(call, event)
        if not _EARLIEST <= micros <= latest:
            reason = "too_old" if micros < _EARLIEST else "in_the_future"
            raise EventRejected(reason, "timestamp", "Mixpanel accepts events from 1971 to one hour from now")
        user = _checked_id(call.user_id, "userId") if call.user_id else None
        device = _checked_id(call.anonymous_id, "anonymousId") if call.anonymous_id else None
        made = b'"time":%d,"$insert_id":%b' % (micros // 1000, quoted(legal_id(event.message_id, _is_insert_id)))
        if event.type == "track":
            body = self._event(call, call.event, made, members(call.properties), group)
            return [Item(index, "import", body, user, device)]
        if event.type in VIEWED:
            return [
                Item(index, "import", self._event(call, VIEWED[event.type], made, viewed_properties(call), group), user, device)
            ]
        if event.type == "identify":
            link = [Item(index, "import", self._link(call, made), user, device)] if user and device else []
            return [*link, Item(index, "engage", self._profile(call, micros, context.is_active), user, device)]
        if event.type == "group":
            return [Item(index, "groups", self._group(call, micros), group=call.group_id)]
        return [Item(index, "import", self._alias(call, event.type, made), user, device, previous=call.previous_id)]

    def _event(self, call: Call, name: str, made: bytes, inner: bytes, group_id: str) -> bytes:
        """The event's properties as they are, followed by the reserved ones."""
        group = b""
        if group_id:
            _check_reserved(inner, (*_RESERVED, self._group_key))
            group = b",%b:%b" % (quoted(self._group_key), quoted(group_id))
        elif b'"$' in inner or b'"time"' in inner or b'"distinct_id"' in inner:
            _check_reserved(inner, _RESERVED)
        _check_limits(inner, "properties")
        comma = b"," if inner else b""
        return b'{"event":%b,"properties":{%b%b%b%b%b}}' % (quoted(name), inner, comma, made, self._who(call), group)

    def _who(self, call: Call) -> bytes:
        if not self._simplified:
            return b',"distinct_id":' + quoted(call.user_id or call.anonymous_id)
        user = b',"$user_id":%b' % quoted(call.user_id) if call.user_id else b""
        return user + b',"$device_id":%b' % quoted(call.anonymous_id) if call.anonymous_id else user

    def _link(self, call: Call, made: bytes) -> bytes:
        """An event that merges the two ids."""
        who = self._who(call)
        if not self._simplified:
            ids = quoted(call.user_id), quoted(call.anonymous_id), self._token
            who += b',"$identified_id":%b,"$anon_id":%b,"token":%b' % ids
        return b'{"event":"$identify","properties":{%b%b}}' % (made, who)

    def _alias(self, call: Call, kind: str, made: bytes) -> bytes:
        if kind != "alias" or self._simplified:
            raise EventRejected("not_supported", "type", f"{kind} has no effect in a Mixpanel project with simplified ID merge")
        ids = quoted(_checked_id(call.previous_id, "previousId")), quoted(call.user_id), self._token
        return b'{"event":"$create_alias","properties":{%b,"distinct_id":%b,"alias":%b,"token":%b}}' % (made, *ids)

    def _profile(self, call: Call, micros: int, is_active: bool) -> bytes:
        """A profile update. A row that changed, perhaps years ago, is no sign of activity: `Last Seen` stays as it is."""
        device = f"$device:{call.anonymous_id}" if self._simplified else call.anonymous_id
        traits = members(call.traits)
        _check_limits(traits, "traits")
        about = self._token, quoted(call.user_id or device), micros // 1_000_000, b"" if is_active else b',"$ignore_time":true'
        return b'{"$token":%b,"$distinct_id":%b,"$time":%d%b,"$set":{%b}}' % (*about, traits)

    def _group(self, call: Call, micros: int) -> bytes:
        traits = members(call.traits)
        _check_limits(traits, "traits")
        about = self._token, quoted(self._group_key), quoted(_checked_id(call.group_id, "groupId")), micros // 1_000_000
        return b'{"$token":%b,"$group_key":%b,"$group_id":%b,"$time":%d,"$set":{%b}}' % (*about, traits)

    # Sending.

    def _post(self, kind: str, items: Sequence[Item]) -> list[Receipt]:
        body = b"[%b]" % b",".join([item.body for item in items])
        reply = self._http.post(body, self._headers[kind], url=self._urls[kind], packed=kind == "import")
        answer = reply.read(_ANSWER)
        if isinstance(answer, _Answer) and answer.failed_records and (reply.ok or reply.status == 400):
            return self._named(answer, len(items), reply)
        self._http.check(reply)
        if answer is None:
            return self._http.unreadable(reply, len(items))
        if isinstance(answer, _Answer) and answer.num_records_imported == len(items):
            return [DELIVERED] * len(items)
        if kind != "import" and (answer == 0 or (isinstance(answer, _Answer) and answer.status == 0)):
            raise BatchRejected(f"{reply.place} answered 0: {self._http.quoted(reply.text)}")
        return [ASSUMED] * len(items)

    def _named(self, answer: _Answer, count: int, reply: Reply) -> list[Receipt]:
        """The failed records that the answer names are REJECTED. Raises BatchRejected if its counts disagree."""
        failed = {record.index: record for record in answer.failed_records}
        landed = answer.num_records_imported
        if not all(0 <= index < count for index in failed) or landed not in (-1, count - len(failed)):
            raise BatchRejected(f"{reply.place} named events that do not match its counts: {self._http.quoted(reply.text)}")
        rest = ASSUMED if landed < 0 else DELIVERED
        return [self._refused(failed[i]) if i in failed else rest for i in range(count)]

    def _refused(self, record: _Failed) -> Receipt:
        return Receipt(Outcome.REJECTED, "refused", record.field, self._http.quoted(record.message))


def _is_insert_id(text: str) -> bool:
    """Whether the text is ASCII letters, digits and hyphens, and none of the invalid ids."""
    fits = len(text) <= _ID_LENGTH and text.isascii() and text.replace("-", "a").isalnum()
    return fits and text.lower() not in _INVALID_IDS


def _check_reserved(inner: bytes, ours: Sequence[str]) -> None:
    for key in keys(inner):
        if key in ours:
            raise EventRejected("reserved_name", f"properties.{key}", "Mixpanel reserves the name of this property")


def _check_limits(inner: bytes, field: str) -> None:
    """Raises EventRejected if an object is too deep or too large. Parses only if a count of bytes does not rule it out."""
    if inner.count(b"{") <= _DEPTH and (len(inner) <= _KEYS * 2 or inner.count(b",") < _KEYS):
        return
    for level in levels(inner, field):
        if level.size > _KEYS:
            what = "keys" if level.is_object else "elements"
            raise EventRejected("too_many_properties", level.path, f"{level.size} {what}, and Mixpanel accepts fewer than 255")
        if level.is_object and level.depth > _DEPTH:
            raise EventRejected("too_deep", level.path, f"objects nested deeper than {_DEPTH}, which Mixpanel does not accept")
