"""Segment, and what its relatives build on."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from tests.vendors.kit import Kit, Place, decoded, made
from tests.vendors.server import Answer, Request, VendorServer


class _Identity(msgspec.Struct, rename="camel"):
    message_id: str = ""
    user_id: str | None = None
    anonymous_id: str | None = None

    @property
    def somebody(self) -> bool:
        return bool(self.user_id or self.anonymous_id)


class _SegmentBatch(msgspec.Struct, rename="camel"):
    batch: list[msgspec.Raw]
    sent_at: str = ""


_BATCH = msgspec.json.Decoder(_SegmentBatch)
_IDENTITY = msgspec.json.Decoder(_Identity)


class SegmentServer(VendorServer):
    """Segment's /v1/batch: 200 to everything that is well-formed and small enough; the first event of a messageId counts.

    More than 2,500 events: 200, and none is kept. An event without userId and anonymousId, or with a messageId of 100 characters
    and more: 200, and it is dropped. A batch or event above the limits: 400.
    """

    events_at_most = 2_500
    too_large = Answer(400, b'{"message":"too large"}')
    taken = Answer(body=b'{"success":true}')

    def __init__(
        self,
        *,
        write_key: str = "key",
        path: str = "/v1/batch",
        batch_bytes: int = 500_000,
        event_bytes: int = 32 * 1024,
        port: int = 0,
        keep_requests: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.events: dict[str, bytes] = {}  # messageId → the event's JSON as it came first
        self.repeated = 0
        self.dropped = 0
        self._path = path
        self._write_key = write_key
        self._limits = (batch_bytes, event_bytes)
        super().__init__(port=port, keep_requests=keep_requests, tls=tls)

    def handle(self, request: Request) -> Answer:
        if request.path != self._path:
            return Answer(404, b'{"message":"not found"}')
        if not self.known(request, self._write_key):
            return Answer(401, b'{"message":"invalid write key"}')
        batch_bytes, event_bytes = self._limits
        try:
            batch = _BATCH.decode(request.body).batch
            identities = [_IDENTITY.decode(event) for event in batch]
        except msgspec.DecodeError as error:
            return Answer(400, json.dumps({"message": f"malformed JSON: {error}"}).encode())
        if len(request.body) > batch_bytes or any(len(memoryview(event)) > event_bytes for event in batch):
            return self.too_large
        refused = self.refused(identities)
        if refused is None:
            self.take(request)
        return refused or self.answer(batch)

    def known(self, request: Request, key: str) -> bool:
        """Whether the request gives the write key."""
        return request.headers.get("authorization") == "Basic " + base64.b64encode(f"{key}:".encode()).decode()

    def refused(self, identities: list[_Identity]) -> Answer | None:
        """The answer to a batch that is refused as a whole."""
        return None

    def keeps(self, event: bytes, who: _Identity) -> bool:
        return who.somebody and len(who.message_id) < 100

    def answer(self, batch: list[msgspec.Raw]) -> Answer:
        return self.taken

    def take(self, request: Request, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        batch = _BATCH.decode(request.body).batch
        with self.lock:
            for event in batch:
                who = _IDENTITY.decode(event)
                raw = bytes(event)
                refused = len(batch) > self.events_at_most or not self.keeps(raw, who)
                if refused or (drop and drop(json.loads(raw))):
                    self.dropped += 1
                elif who.message_id in self.events:
                    self.repeated += 1
                else:
                    self.events[who.message_id] = raw

    def held(self) -> list[dict[str, Any]]:
        with self.lock:
            return [decoded(body) for body in self.events.values()]

    def summary(self) -> dict[str, int]:
        with self.lock:
            counts = {"events": len(self.events), "repeated": self.repeated, "dropped": self.dropped}
        return {**super().summary(), **counts}


WRITE_KEY = "wk-3f9d0c"


@contextmanager
def _kit(place: Place, compression: str = "none") -> Iterator[Kit]:
    with SegmentServer(write_key=WRITE_KEY) as server:
        opened = made("segment", place.folder, write_key=WRITE_KEY, endpoint=server.url, compression=compression)
        yield Kit(
            opened,
            server.held,
            keeps_repeats=False,
            server=server,
            varies=r',"sentAt":"[^"]*"',
            stranger={"write_key": "another-key"},
        )


KITS = {"segment": _kit, "segment-gzip": lambda place: _kit(place, "gzip")}


def serve(port: int) -> VendorServer:
    """For a process of its own."""
    return SegmentServer(port=port, keep_requests=False)


def settings(url: str) -> dict[str, Any]:
    """Of a destination that sends to it."""
    return {"type": "segment", "write_key": "key", "endpoint": url, "compression": "gzip"}
