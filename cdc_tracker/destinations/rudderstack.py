"""RudderStack's data plane: Segment's API with answers of its own.

Sources: RudderStack's documentation of its HTTP API (limits, status codes) and of event deduplication; rudder-server's gateway
(its answers, `Gateway.maxReqSizeInKB` 4,000, deduplication off by default). Tested against a server that follows these, not
against a data plane.

It answers the text `OK` to a batch that it stores and processes later: hence ASSUMED. One event without an identity makes the
whole batch a 400 that does not name it: the core halves the batch. 404 means that the source is disabled, and blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.destinations.segment import TrackingDestination, TrackingSettings, basic
from cdc_tracker.destinations.support.http import BaseUrl
from cdc_tracker.units import Size


class RudderstackSettings(TrackingSettings):
    type: Literal["rudderstack"] = "rudderstack"
    data_plane: BaseUrl = Field(description="its URL, as the workspace shows it")
    batch_events: int = Field(default=5_000, ge=1)
    batch_size: Size = Field(default=4_000 * 1024, ge=1_000)
    compression: Literal["none", "gzip"] = "gzip"


class RudderstackDestination(TrackingDestination):
    """ASSUMED means stored by the data plane."""

    Settings: ClassVar[type[DestinationSettings]] = RudderstackSettings
    duplicate_handling: ClassVar[str] = (
        "drops it by its messageId within 1 hour where deduplication is turned on there, else it counts it again"
    )
    dedupe_window: ClassVar[float] = 3_600.0

    def __init__(self, name: str, settings: RudderstackSettings, base: Path) -> None:
        super().__init__(settings.data_plane + "/v1/batch", basic(settings.write_key.get_secret_value()), settings, base)

    def _fits(self, message_id: str) -> bool:
        """Not if blank, which RudderStack replaces by a new UUID each time, or if it has outer spaces, which may get lost."""
        return message_id.isprintable() and message_id == message_id.strip() != ""
