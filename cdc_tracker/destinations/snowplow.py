"""Snowplow's collector, by its tracker protocol (tp2): every event is self-describing, with a schema of an Iglu registry.

Sources: Snowplow's documentation, "Atomic event properties" (fields and their lengths), "Timestamps", "Example tracker HTTP
request headers", "Snowplow Micro REST API". Tested against a server that follows these, Micro's `/micro/good` and `/micro/bad`
included, not against a collector. Unknown: whether every collector accepts gzip (so it is not offered).

- 200 means collected. Whether an event matches its schema shows later, in Snowplow's pipeline: ASSUMED.
- The event's time is sent as `ttm` (true timestamp), which the pipeline prefers, and as `dtm`. `stm`, the time of sending, is
  left out: it would differ from attempt to attempt, and matters only without `ttm`.
- `ip` and `ua` come from the context. Without them the collector uses the worker's.
- `eid` is the messageId, or a UUID derived from it. The pipeline keeps repeated ids; its data models and some loaders drop them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
from pydantic import Field, field_validator

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.support.event_view import NO_CONTEXT, Call, ContextView, EventRejected, decoded, read_call
from cdc_tracker.destinations.support.http import BaseUrl, Http, HttpSettings
from cdc_tracker.destinations.support.json_splice import event_time, members, object_with, quoted
from cdc_tracker.destinations.support.naming import is_uuid, legal_id, snake_case
from cdc_tracker.destinations.support.vendor import HttpDestination, translated
from cdc_tracker.model import ASSUMED, Batch, Event, Receipt
from cdc_tracker.units import Size

_PATH = "/com.snowplowanalytics.snowplow/tp2"
_WRAP = b'{"schema":"iglu:com.snowplowanalytics.snowplow/%b","data":%b}'
_EVENT, _CONTEXTS = b"unstruct_event/jsonschema/1-0-0", b"contexts/jsonschema/1-0-1"
_BEGIN = b'{"schema":"iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4","data":['
_SCHEMA = re.compile(r"iglu:[A-Za-z0-9_.-]+/[A-Za-z0-9_-]+/jsonschema/[1-9][0-9]*-[0-9]+-[0-9]+")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_AGENT = 1_000  # characters of a user agent


class SnowplowSettings(HttpSettings):
    type: Literal["snowplow"] = "snowplow"
    collector: BaseUrl = Field(description="`https://…`")
    path: str = Field(default=_PATH, pattern="^/", description="where the collector was given another POST path")
    app_id: str = Field(min_length=1, max_length=255)
    namespace: str | None = Field(default=None, max_length=128, pattern="^[^:;]+$", description="the tracker's name")
    platform: Literal["web", "mob", "pc", "srv", "app", "tv", "cnsl", "iot", "headset"] = "srv"
    schemas: dict[str, str] = Field(
        default_factory=dict,
        description="event, or for other calls their type → schema: `Order Paid: iglu:com.acme/order_paid/jsonschema/1-0-0`",
    )
    vendor: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="for those that `schemas` does not name: `iglu:VENDOR/order_paid/jsonschema/VERSION`",
    )
    version: str = Field(default="1-0-0", pattern=r"^[1-9][0-9]*-[0-9]+-[0-9]+$")
    contexts: dict[str, str] = Field(
        default_factory=dict, description="key of the call's context → schema of the entity that its object is sent as"
    )
    compression: Literal["none"] = Field(default="none", description="not every collector unpacks")
    batch_events: int = Field(default=1_000, ge=1, le=10_000)
    batch_size: Size = Field(
        default=800_000, ge=1_000, description="of the events; the request is larger, and a collector takes 2 MB"
    )
    event_size: Size = Field(default=500_000, ge=100, description="a collector that writes to Kinesis takes 1 MB a record")

    @field_validator("schemas", "contexts")
    @classmethod
    def _iglu(cls, schemas: dict[str, str]) -> dict[str, str]:
        for name, schema in schemas.items():
            if not _SCHEMA.fullmatch(schema):
                raise ValueError(f"`{name}` needs a schema such as iglu:com.acme/order_paid/jsonschema/1-0-0")
        return schemas


class _Entities(msgspec.Struct, gc=False):
    context: dict[str, msgspec.Raw] | None = None


_ENTITIES = msgspec.json.Decoder(_Entities)


class SnowplowDestination(HttpDestination):
    """ASSUMED means collected."""

    Settings: ClassVar[type[DestinationSettings]] = SnowplowSettings
    guarantee: ClassVar[Guarantee] = "at least once"
    duplicate_handling: ClassVar[str] = "keeps it again under the same event_id, by which its data models drop repeats"
    dedupe_window: ClassVar[float] = 0.0

    def __init__(self, name: str, settings: SnowplowSettings, base: Path) -> None:
        self.limits = Limits(settings.batch_events, settings.batch_size, settings.event_size, in_flight=settings.in_flight)
        self._settings = settings
        self._schemas: dict[str, bytes] = {}
        named = b',"tna":' + quoted(settings.namespace) if settings.namespace else b""
        # Without the version of cdc-tracker: an upgrade must not change an event's bytes.
        self._head = b'{"e":"ue","p":"%b","tv":"cdc-tracker","aid":%b%b' % (
            settings.platform.encode(),
            quoted(settings.app_id),
            named,
        )
        self._http = Http(settings.collector + settings.path, settings, base)

    def deliver(self, batch: Batch) -> list[Receipt]:
        receipts, bodies = translated(batch.events, self._translate)
        if bodies:
            body = b"".join((_BEGIN, b",".join(bodies), b"]}"))
            self._http.check(self._http.post(body, {}, content_type="application/json; charset=utf-8"))
        return [receipt or ASSUMED for receipt in receipts]

    def _translate(self, index: int, event: Event) -> bytes:
        call = read_call(event)
        micros, _ = event_time(call, event)
        schema = self._schemas.get(call.event or call.type) or self._schema(call)
        data = _WRAP % (_EVENT, b'{"schema":"%b","data":%b}' % (schema, _data(call)))
        return b'%b,"eid":"%b","dtm":"%d","ttm":"%d"%b%b,"ue_pr":%b%b}' % (
            self._head,
            legal_id(event.message_id, is_uuid).encode(),
            micros // 1000,
            micros // 1000,
            _identity(call),
            _device(call.context or NO_CONTEXT),
            quoted(data.decode()),
            self._entities(event) if self._settings.contexts else b"",
        )

    def _schema(self, call: Call) -> bytes:
        """The declared schema of the event's name, else one made from `vendor`, the name and `version`. Cached by name."""
        name = call.event or call.type
        schema = self._settings.schemas.get(name, "")
        if not schema and self._settings.vendor:
            made = snake_case(name)
            if not _NAME.fullmatch(made):
                raise EventRejected(
                    "schema_missing", "event", f"no schema can be named after {name[:60]!r}: give it one in `schemas`"
                )
            schema = f"iglu:{self._settings.vendor}/{made}/jsonschema/{self._settings.version}"
        if not schema:
            raise EventRejected("schema_missing", "event", f"`schemas` has none for {name[:60]!r}, and there is no `vendor`")
        if len(self._schemas) < 10_000:
            self._schemas[name] = schema.encode()
        return schema.encode()

    def _entities(self, event: Event) -> bytes:
        context = decoded(_ENTITIES, event.body).context or {}
        found = [
            b'{"schema":"%b","data":%b}' % (schema.encode(), bytes(context[key]))
            for key, schema in self._settings.contexts.items()
            if key in context and bytes(context[key]).startswith(b"{")
        ]
        if not found:
            return b""
        return b',"co":' + quoted((_WRAP % (_CONTEXTS, b"[%b]" % b",".join(found))).decode())


def _data(call: Call) -> bytes:
    """The self-describing data: properties or traits, ids without a field of their own, and names of pages and screens."""
    if call.type == "identify":
        return b"{%b}" % members(call.traits)
    if call.type == "group":
        return object_with(b'"group_id":' + quoted(call.group_id), call.traits)
    if call.type == "alias":
        return b'{"previous_id":%b}' % quoted(call.previous_id)
    if call.type in ("page", "screen") and call.name:
        return object_with(b'"name":' + quoted(call.name), call.properties)
    return b"{%b}" % members(call.properties)


def _identity(call: Call) -> bytes:
    """`uid` is the user's id, `duid` the browser's."""
    user, browser = call.user_id, call.anonymous_id
    if user and len(user) > 255:
        raise EventRejected("id_too_long", "userId", "Snowplow accepts 255 characters")
    if browser and len(browser) > 128:
        raise EventRejected("id_too_long", "anonymousId", "Snowplow accepts 128 characters")
    made = b',"uid":' + quoted(user) if user else b""
    return made + b',"duid":' + quoted(browser) if browser else made


def _device(device: ContextView) -> bytes:
    address, agent = device.address, device.agent
    made = b',"ip":' + quoted(address) if address else b""
    return made + b',"ua":' + quoted(agent[:_AGENT]) if agent else made
