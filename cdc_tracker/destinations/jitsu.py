"""Jitsu's server-to-server API: Segment's batch with an answer that names events.

Sources: Jitsu's documentation of its events API, the source of its ingest service (jitsucom/bulker: router_batch_handler.go,
router.go) and its console's defaults (deduplication by message_id within 31 days in the warehouses it loads). Tested against a
server that follows these, not against Jitsu itself.

A 200 holds `{ok, receivedEvents, okEvents, errors[]}`; an error is the text `Message ID: ID: TYPE: words`, with the id cut to 64
characters of [A-Za-z0-9._-]. `event error` is the event's fault: REJECTED. Whatever else (`producer error`, `quota exceeded`) is
Jitsu's own: RETRY. A source without destinations, or an unknown one, blocks; older versions answer 200 with `error` to that.
Events that are not named were put into the ingest service's queue in memory: hence ASSUMED.
`sentAt` is left out: Jitsu adjusts timestamps by the difference to its own clock, and stores it with every event.
Unknown: the limit of a request. Jitsu must process a request within 5 seconds, so batches are small.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
from pydantic import Field

from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.destinations.segment import TrackingDestination, TrackingSettings
from cdc_tracker.destinations.support.http import BaseUrl, Reply
from cdc_tracker.errors import BatchRejected, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import ASSUMED, Event, Outcome, Receipt
from cdc_tracker.units import Size

_FOREIGN = re.compile(r"[^A-Za-z0-9._-]")
_ERROR = re.compile(r"Message ID: ([A-Za-z0-9._-]{1,64}): (.*)", re.DOTALL)
_OF_THE_EVENT = "event error"
_NO_DESTINATION = "no destinations found"


class JitsuSettings(TrackingSettings):
    type: Literal["jitsu"] = "jitsu"
    endpoint: BaseUrl = Field(description="Jitsu Cloud: https://SITE.d.jitsu.com or a domain of yours; else where your Jitsu is")
    batch_events: int = Field(default=1_000, ge=1)
    batch_size: Size = Field(default=2_000_000, ge=1_000)
    event_size: Size = Field(default=1_000_000, ge=100, description="larger events are parked as event_too_large")


class _Answer(msgspec.Struct, rename="camel"):
    received_events: int = -1
    errors: list[str] = []
    error: str = ""


_ANSWER = msgspec.json.Decoder(_Answer)


class JitsuDestination(TrackingDestination):
    """Events that an answer does not name are ASSUMED."""

    Settings: ClassVar[type[DestinationSettings]] = JitsuSettings
    duplicate_handling: ClassVar[str] = (
        "drops it by its messageId within 31 days in the warehouses that it loads, as they are set up by default; its other "
        "destinations receive it again"
    )
    dedupe_window: ClassVar[float] = 31 * 86_400.0

    def __init__(self, name: str, settings: JitsuSettings, base: Path) -> None:
        key = {"X-Write-Key": settings.write_key.get_secret_value()}
        super().__init__(settings.endpoint + "/api/s/s2s/batch", key, settings, base)

    def _refused(self, event: Event) -> Receipt | None:
        """Accepts every event: Jitsu does not require an identity."""
        return None

    def _read(self, reply: Reply, events: Sequence[Event]) -> list[Receipt]:
        answer = reply.read(_ANSWER)
        if answer is None:
            return self._http.unreadable(reply, len(events))
        if answer.received_events < 0:
            raise DestinationBlocked(
                f"{reply.place} took nothing: {self._http.quoted(answer.error or reply.text)}",
                hint="correct `write_key` or `endpoint`: Jitsu does not find the source",
            )
        return self._named(answer.errors, events) if answer.errors else [ASSUMED] * len(events)

    def _named(self, errors: list[str], events: Sequence[Event]) -> list[Receipt]:
        named: dict[str, list[Receipt]] = {}
        for error in errors:
            found = _ERROR.match(error)
            if _NO_DESTINATION in error:
                text = f"Jitsu's source has no destination: {self._http.quoted(error)}"
                raise DestinationBlocked(text, hint="connect a destination to the source, in Jitsu")
            if not found:
                raise DestinationUnavailable(f"Jitsu names no event: {self._http.quoted(error)}")
            named.setdefault(found[1], []).append(self._receipt(found[2]))
        cut = [_FOREIGN.sub("_", event.message_id)[:64] for event in events]
        alike = Counter(cut)
        if any(1 < alike[name] != len(receipts) for name, receipts in named.items()):
            said = self._http.quoted(errors[0])
            raise BatchRejected(f"Jitsu names one of several events whose ids it cuts to the same: {said}")
        receipts = [named[name].pop(0) if named.get(name) else ASSUMED for name in cut]
        if receipts.count(ASSUMED) == len(receipts):
            raise DestinationUnavailable(f"Jitsu names events that were not sent: {self._http.quoted(errors[0])}")
        return receipts

    def _receipt(self, words: str) -> Receipt:
        if words.startswith(_OF_THE_EVENT):
            return Receipt(Outcome.REJECTED, "refused", detail=self._http.quoted(words.removeprefix(_OF_THE_EVENT + ": ")))
        return Receipt(Outcome.RETRY, self._http.quoted(words))
