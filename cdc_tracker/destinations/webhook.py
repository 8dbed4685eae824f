"""Webhooks as Standard Webhooks describes them: signed, with an id that stays the same over retries.

One request per event: `{"type": "track.order_paid", "timestamp": …, "data": EVENT}`. `webhook-id` is the event's messageId, or a
UUID derived from it if a header cannot hold it. `type` is the event's type and, for track, page and screen, its name in
snake_case; `timestamp` is the event's own.
With `batch: N`, up to N events per request: `{"type": "batch", "timestamp": that of the last, "data": [EVENT, …]}`; `webhook-id`
is a hash of their messageIds. The signature is of the body before compression, as receivers see it after decompression.

`format: cloudevents` makes the bodies CloudEvents 1.0 ("CloudEvents", "JSON Event Format", "HTTP Protocol Binding"), in
structured mode, or with `batch` in batched mode; headers and signature stay as they are.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.support.event_view import read_event
from cdc_tracker.destinations.support.http import Http, HttpSettings, check_url
from cdc_tracker.destinations.support.json_splice import quoted
from cdc_tracker.destinations.support.naming import legal_id, snake_case
from cdc_tracker.destinations.support.vendor import HttpDestination, send_parts
from cdc_tracker.model import DELIVERED, Batch, Event, Receipt
from cdc_tracker.times import iso

_VALUE = re.compile(r"[!-~](?:[ -~\t]*[!-~])?").fullmatch  # what every server takes as a header's value: visible ASCII
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_ID_LENGTH = 255
_RESERVED = ("content-type", "content-length", "content-encoding", "host", "transfer-encoding", "connection")


class WebhookSettings(HttpSettings):
    type: Literal["webhook"] = "webhook"
    url: SecretStr = Field(description="only its host is ever shown: webhook URLs are often secret")
    secret: list[SecretStr] = Field(
        min_length=1, description="`whsec_…`; several while secrets are changed: the body is then signed with each"
    )
    batch: Literal[False] | int = Field(default=False, description="events in one request; false: each in a request of its own")
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="sent with every request")
    format: Literal["standard", "cloudevents"] = "standard"
    source: str = Field(default="cdc-tracker", min_length=1, description="of CloudEvents: a URI that says where they come from")

    @field_validator("url")
    @classmethod
    def _http_url(cls, url: SecretStr) -> SecretStr:
        check_url(url.get_secret_value())
        return url

    @field_validator("secret", mode="before")
    @classmethod
    def _listed(cls, secret: object) -> object:
        return [secret] if isinstance(secret, str | SecretStr) else secret

    @field_validator("secret")
    @classmethod
    def _signing_keys(cls, secrets: list[SecretStr]) -> list[SecretStr]:
        for secret in secrets:
            _key(secret)
        return secrets

    @field_validator("batch", mode="before")
    @classmethod
    def _size(cls, batch: object) -> object:
        if batch is not False and (isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= 10_000):
            raise ValueError("must be false or a number from 1 to 10000")
        return batch

    @field_validator("headers")
    @classmethod
    def _not_reserved(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            if name.lower() in _RESERVED or name.lower().startswith("webhook-"):
                raise ValueError(f"`{name}` is set by cdc-tracker itself")
            if not _NAME(name) or not (_VALUE(value.get_secret_value()) or value.get_secret_value() == ""):
                raise ValueError(f"{name!r} is no header: its name or value has characters that HTTP does not allow")
        return headers


def _secret_parts(url: str) -> list[str]:
    """Parts of the URL to redact: a receiver may repeat the path or the query alone."""
    parts = urlsplit(url)
    found = [parts.path, f"{parts.path}?{parts.query}" if parts.query else "", parts.query]
    return [part for part in found if part.strip("/")]


def _key(secret: SecretStr) -> bytes:
    prefix, underscore, encoded = secret.get_secret_value().strip().partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if prefix + underscore != "whsec_" or not 24 <= len(key) <= 64:
        raise ValueError("must be `whsec_` and then 24 to 64 bytes in base64")
    return key


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """One signature of `webhook-signature`."""
    digest = hmac.digest(key, b"%b.%b.%b" % (message_id.encode(), timestamp.encode(), body), hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


class WebhookDestination(HttpDestination):
    """DELIVERED means that the receiver answered 2xx."""

    Settings: ClassVar[type[DestinationSettings]] = WebhookSettings
    guarantee: ClassVar[Guarantee] = "at least once"
    duplicate_handling: ClassVar[str] = "receives it again, under the same messageId (without batches also the same webhook-id)"
    dedupe_window: ClassVar[float] = 0.0

    def __init__(self, name: str, settings: WebhookSettings, base: Path) -> None:
        self._batched = settings.batch is not False
        # In requests of one event each, a call takes a hundred, so that their checkpoint is not written for every one.
        events = settings.batch or 100
        self.limits = Limits(events, batch_bytes=1024**2, event_bytes=8 * 1024**2, in_flight=settings.in_flight)
        self._keys = [_key(secret) for secret in settings.secret]
        self._headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        self._cloud = settings.format == "cloudevents"
        self._source = quoted(settings.source)
        secrets = [secret.get_secret_value() for secret in settings.secret]
        url = settings.url.get_secret_value()
        self._http = Http(url, settings, base, [*secrets, *self._headers.values(), *_secret_parts(url)])

    def deliver(self, batch: Batch) -> list[Receipt]:
        events = batch.events
        if not self._batched:
            return send_parts([None] * len(events), [([i], partial(self._single, event)) for i, event in enumerate(events)])
        ids = ",".join([event.message_id for event in events])
        if self._cloud:
            content, body = "cloudevents-batch+json", b"[%b]" % b",".join([self._cloud_event(event) for event in events])
        else:
            content, timestamp = "json", _describe(events[-1])[1]
            data = b",".join([event.body for event in events])
            body = b'{"type":"batch","timestamp":%b,"data":[%b]}' % (quoted(timestamp), data)
        self._post("batch_" + hashlib.sha256(ids.encode()).hexdigest()[:32], body, content)
        return [DELIVERED] * len(events)

    def _single(self, event: Event) -> list[Receipt]:
        if self._cloud:
            self._post(event.message_id, self._cloud_event(event), "cloudevents+json")
        else:
            kind, timestamp, _ = _describe(event)
            head = b'{"type":%b,"timestamp":%b,"data":' % (quoted(kind), quoted(timestamp))
            self._post(event.message_id, head + event.body + b"}", "json")
        return [DELIVERED]

    def _cloud_event(self, event: Event) -> bytes:
        """The event as a CloudEvent. `subject` is the user that it is about."""
        kind, timestamp, subject = _describe(event)
        about = b',"subject":' + quoted(subject) if subject else b""
        head = b'{"specversion":"1.0","id":%b,"source":%b,"type":%b,"time":%b%b,"datacontenttype":"application/json","data":' % (
            quoted(event.message_id),
            self._source,
            quoted(kind),
            quoted(timestamp),
            about,
        )
        return head + event.body + b"}"

    def _post(self, message_id: str, body: bytes, content: str) -> None:
        """Sends a signed body. The header has the event's id if it can hold it; the body always has it."""
        message_id = legal_id(message_id, _is_header)
        timestamp = str(int(time.time()))
        headers = {
            **self._headers,
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(sign(key, message_id, timestamp, body) for key in self._keys),
        }
        self._http.check(self._http.post(body, headers, content_type=f"application/{content}"))


def _is_header(text: str) -> bool:
    return len(text) <= _ID_LENGTH and _VALUE(text) is not None


def _describe(event: Event) -> tuple[str, str, str]:
    """The webhook's type and timestamp, and the user that it is about."""
    call = read_event(event)
    name = snake_case(call.title)
    timestamp = call.timestamp or iso(event.committed_at)
    return (f"{event.type}.{name}" if name else event.type), timestamp, call.user_id or call.anonymous_id or ""
