"""Google Analytics 4: the Measurement Protocol and its validation server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from tests.vendors.kit import Kit, Place, decoded, in_texts, made
from tests.vendors.server import Answer, Request, VendorServer

MEASUREMENT_ID, API_SECRET = "G-TEST123", "s3cret+of/ga4"
SENDER = "the sender's"
BACK = 72 * 3600 * 1_000_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_CLIENT = re.compile(r"[1-9][0-9]*\.[1-9][0-9]*")


class _Event(msgspec.Struct):
    name: str
    timestamp_micros: int = 0
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _Body(msgspec.Struct):
    client_id: str
    events: list[_Event]
    user_id: str = ""
    timestamp_micros: int = 0
    ip_override: str = ""
    user_agent: str = ""
    consent: dict[str, str] = {}


_BODY = msgspec.json.Decoder(_Body)


class Ga4Server(VendorServer):
    """204 to everything, whatever becomes of it.

    Dropped: requests with a wrong secret, above 130 KB, with more than 25 events or without a proper client_id; purchases of a
    client with a transaction_id that it has. Parameters above the limits (200 items are one) and a user_id above 256 characters
    are ignored one by one, and events older than 72 hours are dated 72 hours back. `/debug/mp/collect` says what it minds, and
    keeps nothing.
    """

    def __init__(self, *, port: int = 0, keep_requests: bool = True) -> None:
        self.events: list[dict[str, Any]] = []  # name, params, client_id, user_id, consent, time; as GA4 came to hold them
        self.reads = "event"  # where it looks for an event's time: event, request or params; without one, it is now
        self.counted = 0
        self.dropped = 0
        self._purchases: set[tuple[str, str]] = set()
        self._keep = keep_requests
        super().__init__(port=port, keep_requests=keep_requests)

    def handle(self, request: Request) -> Answer:
        if urlsplit(request.path).path == "/debug/mp/collect":
            messages = [{"description": text, "validationCode": "VALUE_INVALID"} for text in self._faults(request)]
            return Answer(body=json.dumps({"validationMessages": messages}).encode())
        self.take(request)
        return Answer(204, b"")

    def _faults(self, request: Request) -> Iterator[str]:
        """What the validation server says: nothing of secrets."""
        body = _BODY.decode(request.body)
        if not _CLIENT.fullmatch(body.client_id):
            yield "client_id must be two positive numbers, joined by a period."
        if len(body.events) > 25:
            yield "More than 25 events."
        for i, event in enumerate(body.events):
            if not _NAME.fullmatch(event.name):
                yield f"Event at index: [{i}] has invalid name [{event.name}]. Names must start with an alphabetic character."

    def take(self, request: Request, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        place = urlsplit(request.path)
        body = _BODY.decode(request.body)
        known = parse_qs(place.query) == {"measurement_id": [MEASUREMENT_ID], "api_secret": [API_SECRET]}
        fits = len(request.body) < 130_000 and len(body.events) <= 25 and _CLIENT.fullmatch(body.client_id)
        with self.lock:
            if place.path != "/mp/collect" or not known or not fits:
                self.dropped += len(body.events)
                return
            for event in body.events:
                self._keep_event(body, event, drop)

    def _keep_event(self, body: _Body, event: _Event, drop: Callable[[dict[str, Any]], bool] | None) -> None:
        if not self._keep:
            self.counted += 1
            return
        params = decoded(bytes(event.params))
        purchase = (body.client_id, params.get("transaction_id", ""))
        if (
            (event.name == "purchase" and purchase in self._purchases)
            or (drop and drop(params))
            or not _NAME.fullmatch(event.name)
        ):
            self.dropped += 1
            return
        if event.name == "purchase":
            self._purchases.add(purchase)
        times = {"params": params.pop("timestamp_micros", 0), "event": event.timestamp_micros, "request": body.timestamp_micros}
        sent = times[self.reads] or int(time.time() * 1_000_000)
        kept = {key: value for key, value in list(params.items())[:25] if _within_limits(key, value)}
        at = max(sent, int(time.time() * 1_000_000) - BACK)
        user = body.user_id if len(body.user_id) <= 256 else ""
        about = {"client_id": body.client_id, "user_id": user, "consent": body.consent}
        about |= {"ip": body.ip_override or SENDER, "agent": body.user_agent or SENDER}
        self.events.append({"name": event.name, "params": kept, "sent": sent, "time": at, **about})
        self.counted += 1

    def held(self) -> list[dict[str, Any]]:
        """By the time that was sent: GA4 shows events in the order of their times, not of their arrival."""
        with self.lock:
            events = sorted(self.events, key=lambda event: event["sent"])
        return [
            {
                "type": "track",
                "event": event["name"],
                "messageId": event["params"].get("message_id"),
                "userId": event["user_id"],
                "properties": {key: value for key, value in event["params"].items() if key != "message_id"},
                "timestamp": event["time"],
            }
            for event in events
        ]

    def summary(self) -> dict[str, int]:
        with self.lock:
            return {**super().summary(), "events": self.counted, "dropped": self.dropped}


def _within_limits(key: str, value: object) -> bool:
    longest = {"page_title": 300, "page_referrer": 420, "page_location": 1_000}.get(key, 100)
    many = key == "items" and isinstance(value, list) and len(value) > 200
    return bool(_NAME.fullmatch(key)) and not many and not (isinstance(value, str) and len(value) > longest)


def settings(url: str) -> dict[str, Any]:
    """Of a destination that sends to this server. The events of tests and benchmarks are of long ago, and have long texts."""
    return {
        "measurement_id": MEASUREMENT_ID,
        "api_secret": API_SECRET,
        "host": url,
        "compression": "none",
        "too_old": "send",
        "long_values": "truncate",
    }


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    with Ga4Server() as server:
        opened = made("ga4", place.folder, **settings(server.url))
        yield Kit(opened, server.held, keeps_repeats=True, server=server, keeps=in_texts)


KITS = {"ga4": _kit}
TRANSLATING = list(KITS)


def serve(port: int) -> VendorServer:
    """For a process of its own."""
    return Ga4Server(port=port, keep_requests=False)
