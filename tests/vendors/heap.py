"""Heap's server-side API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from tests.vendors.kit import Kit, Place, decoded, in_texts, made
from tests.vendors.server import Answer, Request, VendorServer

APP_ID = "11223344-app"


class _Item(msgspec.Struct):
    event: str = ""
    identity: str | None = None
    user_id: str | None = None
    idempotency_key: str = ""
    timestamp: str = ""
    properties: msgspec.Raw = msgspec.Raw(b"{}")


class _Body(msgspec.Struct):
    app_id: str = ""
    events: list[_Item] = []
    users: list[_Item] = []


_BODY = msgspec.json.Decoder(_Body)


class HeapServer(VendorServer):
    """200 where every item is well-formed, else 400 for the whole request.

    The first event of an idempotency_key counts. User properties are set, the later value over the earlier.
    """

    def __init__(self, *, port: int = 0, keep_requests: bool = True) -> None:
        self.events: dict[str, _Item] = {}
        self.users: dict[str, dict[str, Any]] = {}
        self.repeated = 0
        self.dropped = 0
        super().__init__(port=port, keep_requests=keep_requests)

    def handle(self, request: Request) -> Answer:
        if request.path not in ("/api/track", "/api/add_user_properties"):
            return Answer(404, b"not found")
        body = _BODY.decode(request.body)
        items = body.events if request.path == "/api/track" else body.users
        if body.app_id != APP_ID:
            return Answer(400, b'{"error":"unknown app_id"}')
        if not 1 <= len(items) <= 1_000 or any(_fault(item, request.path) for item in items):
            faults = [_fault(item, request.path) for item in items]
            return Answer(400, ('{"error":"' + "; ".join(sorted({fault for fault in faults if fault})) + '"}').encode())
        self.take(request)
        return Answer(200, b"")

    def take(self, request: Request, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        body = _BODY.decode(request.body)
        with self.lock:
            for item in body.events:
                if drop and drop({"idempotency_key": item.idempotency_key}):
                    self.dropped += 1
                elif item.idempotency_key in self.events:
                    self.repeated += 1
                else:
                    self.events[item.idempotency_key] = item
            for item in body.users:
                self.users.setdefault(item.identity or "", {}).update(decoded(bytes(item.properties)))

    def held(self) -> list[dict[str, Any]]:
        with self.lock:
            items = list(self.events.values())
        return [
            {
                "type": "track",
                "event": item.event,
                "messageId": item.idempotency_key,
                "userId": item.identity,
                "properties": decoded(bytes(item.properties)),
                "timestamp": item.timestamp,
            }
            for item in items
        ]

    def summary(self) -> dict[str, int]:
        with self.lock:
            counts = {"events": len(self.events), "users": len(self.users), "repeated": self.repeated, "dropped": self.dropped}
        return {**super().summary(), **counts}


def _fault(item: _Item, path: str) -> str:
    if (item.identity is None) == (item.user_id is None):
        return "either identity or user_id is needed, but not both"
    if len(item.identity or "") > 255 or (item.user_id is not None and not 0 <= int(item.user_id) < 2**53):
        return "the identity is not valid"
    if path == "/api/track" and not 1 <= len(item.event) <= 1_024:
        return "an event needs a name"
    for key, value in decoded(bytes(item.properties)).items():
        if (
            len(key) >= 1_024
            or (isinstance(value, str) and len(value) >= 1_024)
            or isinstance(value, dict | bool)
            or value is None
        ):
            return "a property must be a number or a string with fewer than 1024 characters"
    return ""


def settings(url: str) -> dict[str, Any]:
    """Of a destination that sends to this server. The events of tests have long texts."""
    return {"app_id": APP_ID, "host": url, "compression": "none", "long_values": "truncate"}


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    with HeapServer() as server:
        yield Kit(
            made("heap", place.folder, **settings(server.url)),
            server.held,
            keeps_repeats=False,
            server=server,
            keeps=lambda properties: in_texts(properties, lists=True),
            stranger={"app_id": "another-app"},
        )


KITS = {"heap": _kit}
TRANSLATING = list(KITS)


def serve(port: int) -> VendorServer:
    """For a process of its own."""
    return HeapServer(port=port, keep_requests=False)
