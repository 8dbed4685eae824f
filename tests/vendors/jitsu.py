"""Jitsu's ingest service, with a warehouse behind it that keeps one row for each message_id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from tests.vendors.kit import Kit, Place, made
from tests.vendors.segment import WRITE_KEY, SegmentServer, _Identity
from tests.vendors.server import Answer, Request, VendorServer

_TYPES = ("page", "identify", "track", "group", "alias", "screen")


class _Call(msgspec.Struct):
    type: str = ""
    event: str = ""


_CALL = msgspec.json.Decoder(_Call).decode
_IDENTITY = msgspec.json.Decoder(_Identity).decode


class JitsuServer(SegmentServer):
    """200 with counts and, for each event that is not taken, a line of text. It takes events of nobody.

    `minds`: what it finds fault with, `quota`: messageIds over the quota. `connected`: whether the source has a destination.
    `old`: answers as older versions did.
    """

    def __init__(self, **options: Any) -> None:
        self.quota: set[str] = set()
        self.minds: dict[str, str] = {}  # messageId → what it says of such an event
        self.connected = True
        self.old = False
        super().__init__(path="/api/s/s2s/batch", batch_bytes=100_000_000, event_bytes=1_000_000, **options)

    def handle(self, request: Request) -> Answer:
        answer = super().handle(request)
        if answer.status == 401:
            return Answer(200 if self.old else 401, b'{"error":"stream not found: for: [slug: s]"}')
        return answer

    def known(self, request: Request, key: str) -> bool:
        return request.headers.get("x-write-key") == key

    def keeps(self, event: bytes, who: _Identity) -> bool:
        return self._minds(event, who) is None

    def answer(self, batch: list[msgspec.Raw]) -> Answer:
        errors = []
        for event in batch:
            who = _IDENTITY(event)
            words = self._minds(bytes(event), who)
            if words:
                errors.append(f"Message ID: {re.sub('[^a-zA-Z0-9._-]', '_', who.message_id)[:64]}: {words}")
        said: dict[str, object] = {"ok": not errors, "receivedEvents": len(batch), "okEvents": len(batch) - len(errors)}
        return Answer(body=json.dumps(said | ({"errors": errors} if errors else {})).encode())

    def _minds(self, event: bytes, who: _Identity) -> str | None:
        call = _CALL(event)
        if call.type not in _TYPES:
            return f"event error: Unknown event type: {call.type}"
        if call.type == "track" and not call.event:
            return "event error: 'event' property is required for 'track' event"
        if len(call.event.encode()) > 128:
            return f"event error: Invalid track event name '{call.event}'. Max length is 128 characters."
        if who.message_id in self.minds:
            return f"event error: {self.minds[who.message_id]}"
        if not self.connected:
            return "no destinations found for stream: s1"
        return "quota exceeded: billing quota exceeded, event throttled" if who.message_id in self.quota else None


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    with JitsuServer(write_key=WRITE_KEY) as server:
        opened = made("jitsu", place.folder, write_key=WRITE_KEY, endpoint=server.url)
        yield Kit(
            opened,
            server.held,
            keeps_repeats=False,
            server=server,
            stranger={"write_key": "another-key"},
            refuse=lambda event, words: server.minds.update({event.message_id: words}),
            throttle=lambda event: server.quota.add(event.message_id),
            relieve=server.quota.clear,
        )


KITS = {"jitsu": _kit}
NAMING = list(KITS)
DEFERRING = list(KITS)


def serve(port: int) -> VendorServer:
    """For a process of its own."""
    return JitsuServer(port=port, keep_requests=False)


def settings(url: str) -> dict[str, Any]:
    """Of a destination that sends to it."""
    return {"type": "jitsu", "write_key": "key", "endpoint": url, "compression": "gzip"}
