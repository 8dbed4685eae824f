"""Segment's HTTP tracking API, and what speaks it: RudderStack, Jitsu.

Built from their documentation and tested against a server that behaves as it says; it has not met the vendors themselves.

Segment answers 200 to whatever is well-formed and small enough, and drops what it does not like later: hence ASSUMED.
RudderStack refuses a whole batch (400) for one event without an identity: the core bisects it.
"""

from __future__ import annotations

import base64
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, field_validator

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.http import Http, HttpSettings, check_url
from cdc_tracker.model import ASSUMED, Batch, Receipt
from cdc_tracker.units import Size

_ENVELOPE = 64  # bytes around the events


class SegmentSettings(HttpSettings):
    """RudderStack: `endpoint` is the data plane. Jitsu: also `auth: x-write-key`, where its `path` is not Segment's."""

    type: Literal["segment"] = "segment"
    write_key: SecretStr = Field(min_length=1)
    endpoint: str = Field(default="https://api.segment.io", description="EU: https://events.eu1.segmentapis.com")
    path: str = Field(default="/v1/batch", pattern="^/")
    auth: Literal["basic", "x-write-key"] = "basic"
    batch_events: int = Field(default=2_500, ge=1, description="Segment rejects what is above 2,500, but answers 200")
    batch_size: Size = Field(default=500_000, ge=1_000, description="RudderStack takes 4000KiB")
    event_size: Size = Field(default=32 * 1024, ge=100)

    @field_validator("endpoint")
    @classmethod
    def _url(cls, endpoint: str) -> str:
        return check_url(endpoint).rstrip("/")


class SegmentDestination:
    """Posts `{"batch": […], "sentAt": …}`, made of the events' own bytes."""

    Settings: ClassVar[type[DestinationSettings]] = SegmentSettings
    guarantee: ClassVar[Guarantee] = "once within the vendor's window"
    repeats: ClassVar[str] = (
        "drops it by its messageId within the vendor's window (Segment: about 24 hours; RudderStack: 1 hour, where deduplication "
        "is turned on), and counts it again after that"
    )
    dedupe_window: ClassVar[float] = 86_400.0
    age_limit: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: SegmentSettings, base: Path) -> None:
        self.limits = Limits(
            settings.batch_events, settings.batch_size - _ENVELOPE, settings.event_size, in_flight=settings.in_flight
        )
        key = settings.write_key.get_secret_value()
        if settings.auth == "basic":
            self._headers = {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}
        else:
            self._headers = {"X-Write-Key": key}
        self._http = Http(settings.endpoint + settings.path, settings, base, [key])

    def deliver(self, batch: Batch) -> list[Receipt]:
        """The time of sending differs from try to try; the events' bytes do not."""
        sent_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        events = b",".join([event.body for event in batch.events])
        self._http.check(self._http.post(b'{"batch":[%b],"sentAt":"%b"}' % (events, sent_at.encode()), self._headers))
        return [ASSUMED] * len(batch.events)

    def probe(self) -> None:
        """Reaches the host. The write key is not tried: nothing but an event would show whether it holds."""
        self._http.reach()

    def close(self) -> None:
        self._http.close()
