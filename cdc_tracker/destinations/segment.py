"""Segment's HTTP tracking API. RudderStack and Jitsu implement it too, with their own limits and answers: see their modules.

Sources: Segment's documentation of its HTTP API (batch, limits, errors) and of duplicate data. Tested against a server that
follows them, not against Segment itself.

Segment answers 200 to everything that is well-formed and small enough, and drops what is invalid later: hence ASSUMED. An event
without an identity, which it drops, is rejected here. It also drops a messageId of 100 characters or more: such an event is sent
with a UUID derived from it.
Unknown: the effect of `sentAt` if the worker's clock is wrong. Segment adjusts timestamps by the difference to its own clock.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
from pydantic import Field, SecretStr

from cdc_tracker.destinations.base import DestinationSettings, Limits
from cdc_tracker.destinations.support.event_view import decoded
from cdc_tracker.destinations.support.http import Http, HttpSettings, OptionalUrl, Reply
from cdc_tracker.destinations.support.json_splice import MEMBERS
from cdc_tracker.destinations.support.naming import legal_id
from cdc_tracker.destinations.support.vendor import HttpDestination
from cdc_tracker.model import ASSUMED, Batch, Event, Outcome, Receipt
from cdc_tracker.times import now_iso
from cdc_tracker.units import Size

_OVERHEAD = 64  # bytes around the events
_HOSTS = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}
_ID_CHARACTERS = 99
_NO_IDENTITY = Receipt(Outcome.REJECTED, "identity_missing", "userId", "the event has neither userId nor anonymousId")


class TrackingSettings(HttpSettings):
    """The settings of every vendor with this API."""

    write_key: SecretStr = Field(min_length=1)
    batch_events: int = Field(ge=1)
    batch_size: Size = Field(ge=1_000)
    event_size: Size = Field(default=32 * 1024, ge=100, description="larger events are parked as event_too_large")


class TrackingDestination(HttpDestination):
    """Posts `{"batch": […]}`, made of the events' own bytes."""

    def __init__(self, url: str, headers: Mapping[str, str], settings: TrackingSettings, base: Path) -> None:
        size = settings.batch_size - _OVERHEAD
        self.limits = Limits(settings.batch_events, size, settings.event_size, in_flight=settings.in_flight)
        self._headers = headers
        self._http = Http(url, settings, base, [settings.write_key.get_secret_value()])

    def deliver(self, batch: Batch) -> list[Receipt]:
        refused = [self._refused(event) for event in batch.events]
        sendable = [event for event, no in zip(batch.events, refused, strict=True) if no is None]
        taken = iter(self._post(sendable) if sendable else ())
        return [next(taken) if no is None else no for no in refused]

    def _refused(self, event: Event) -> Receipt | None:
        """The receipt of an event without an identity. Searches the bytes, so a nested key of the same name counts, too."""
        body = event.body
        return None if b'"userId":' in body or b'"anonymousId":' in body else _NO_IDENTITY

    def _post(self, events: Sequence[Event]) -> list[Receipt]:
        body = b'{"batch":[%b]%b}' % (b",".join([self._body(event) for event in events]), self._sent_at())
        reply = self._http.post(body, self._headers)
        self._http.check(reply)
        return self._read(reply, events)

    def _body(self, event: Event) -> bytes:
        """The event's own bytes, except for a messageId that the vendor would drop or change."""
        message_id = legal_id(event.message_id, self._fits)
        if message_id == event.message_id:
            return event.body
        members = decoded(MEMBERS, event.body)
        return msgspec.json.encode({**members, "messageId": message_id})

    def _fits(self, message_id: str) -> bool:
        """Whether the vendor keeps this messageId as it is."""
        return True

    def _sent_at(self) -> bytes:
        return b""

    def _read(self, reply: Reply, events: Sequence[Event]) -> list[Receipt]:
        """The receipts after a 2xx."""
        return [ASSUMED] * len(events)


def basic(key: str) -> dict[str, str]:
    """The header with the write key as Segment requires it: a user without a password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}


class SegmentSettings(TrackingSettings):
    type: Literal["segment"] = "segment"
    region: Literal["us", "eu"] = "us"
    endpoint: OptionalUrl = Field(default=None, description="another address than the region's, such as a proxy of yours")
    batch_events: int = Field(default=2_500, ge=1, description="Segment rejects what is above 2,500, but answers 200")
    batch_size: Size = Field(default=500_000, ge=1_000)


class SegmentDestination(TrackingDestination):
    """ASSUMED means well-formed and small enough."""

    Settings: ClassVar[type[DestinationSettings]] = SegmentSettings
    duplicate_handling: ClassVar[str] = "drops it by its messageId within about 24 hours, and counts it again after that"
    dedupe_window: ClassVar[float] = 86_400.0

    def __init__(self, name: str, settings: SegmentSettings, base: Path) -> None:
        url = (settings.endpoint or _HOSTS[settings.region]) + "/v1/batch"
        super().__init__(url, basic(settings.write_key.get_secret_value()), settings, base)

    def _fits(self, message_id: str) -> bool:
        return len(message_id) <= _ID_CHARACTERS

    def _sent_at(self) -> bytes:
        """Differs from attempt to attempt; the events' bytes do not."""
        return b',"sentAt":"%b"' % now_iso().encode()
