"""Amplitude's HTTP V2, Batch Event Upload, Identify and Group Identify APIs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import msgspec

from cdc_tracker.times import EPOCH
from tests.vendors.kit import Kit, Place, made
from tests.vendors.server import Answer, Request, VendorServer

INVALID = {"anonymous", "nil", "none", "null", "n/a", "na", "undefined", "unknown", "", "{}", "lmy47d", "0", "-1"}
INVALID |= {"00000000-0000-0000-0000-000000000000"}
_SIZES = {"/2/httpapi": 1_000_000, "/batch": 20_000_000}
_REVENUE: dict[str, tuple[type, ...]] = {"revenue": (int, Decimal), "price": (int, Decimal), "quantity": (int,)}
_REVENUE |= {"productId": (str,), "revenueType": (str,), "currency": (str,)}
_WEEK = 7 * 86_400


_READ = msgspec.json.Decoder(float_hook=Decimal).decode


class AmplitudeServer(VendorServer):
    """Takes a request as a whole or not at all. A repeated insert_id of one device within 7 days is ignored.

    HTTP V2 names the first event of each fault, /batch all. `throttled`, `silenced`: ids of users and devices that are.
    `clock`: the seconds that the server believes it is.
    """

    def __init__(self, *, api_key: str = "key", port: int = 0, keep_requests: bool = True) -> None:
        self.events: list[dict[str, Any]] = []
        self.happened: list[tuple[str, str, Any]] = []  # (path, whom it is about, what), in order
        self.users: dict[str, dict[str, Any]] = {}
        self.groups: dict[tuple[str, str], dict[str, Any]] = {}
        self.repeated = 0
        self.revenue = Decimal(0)  # of all events, as its charts count it
        self.minds: dict[str, str] = {}  # insert_id → the field of such an event that it minds
        self.throttled: set[str] = set()
        self.silenced: set[str] = set()
        self.clock: Callable[[], float] = time.time
        self._key = api_key
        self._seen: dict[tuple[str, str], float] = {}
        super().__init__(port=port, keep_requests=keep_requests)

    def handle(self, request: Request) -> Answer:
        if request.path in _SIZES:
            return self._upload(request)
        if request.path in ("/identify", "/groupidentify"):
            return self._identify(request)
        return _said(404, error="Invalid request path")

    def _upload(self, request: Request) -> Answer:
        if len(request.body) > _SIZES[request.path]:
            return _said(413, error="Payload too large")
        try:
            body = _READ(request.body)
        except ValueError:
            return _said(400, error="Invalid JSON request body")
        if body.get("api_key") != self._key:
            return _said(400, error=f"Invalid API key: {body.get('api_key')}")
        events = body.get("events")
        if not events:
            return _said(400, error="Request missing required field", missing_field="events")
        if len(events) > 2_000:
            return _said(413, error="Payload too large")
        refused = self._refused(events, body.get("options", {}).get("min_id_length", 5), first_only=request.path != "/batch")
        if refused is None:
            self._keep(request.path, events)
        return refused or _said(200, events_ingested=len(events), payload_size_bytes=len(request.body), server_upload_time=1)

    def _refused(self, events: list[dict[str, Any]], shortest: int, *, first_only: bool) -> Answer | None:
        missing: dict[str, list[int]] = {}
        invalid: dict[str, list[int]] = {}
        silenced, throttled = [], []
        for index, event in enumerate(events):
            for field in ("user_id", "device_id"):
                if field in event and len(event[field]) < shortest:
                    del event[field]
            who = {event.get("user_id"), event.get("device_id")} - {None}
            if not event.get("event_type"):
                missing.setdefault("event_type", []).append(index)
            elif not who:
                missing.setdefault("user_id", []).append(index)
            if any(str(name).lower() in INVALID for name in who):
                invalid.setdefault("user_id", []).append(index)
            if _layers(event.get("event_properties", {})) > 40:
                invalid.setdefault("event_properties", []).append(index)
            if event["insert_id"] in self.minds:
                invalid.setdefault(self.minds[event["insert_id"]], []).append(index)
            if not isinstance(event.get("time", 0), int):
                invalid.setdefault("time", []).append(index)
            for field, kinds in _REVENUE.items():
                if not isinstance(event.get(field, kinds[0]()), kinds):
                    invalid.setdefault(field, []).append(index)
            silenced += [index] * bool(who & self.silenced)
            throttled += [index] * bool(who & self.throttled)
        if missing or invalid:
            named = {"events_with_missing_fields": missing, "events_with_invalid_fields": invalid}
            if first_only:
                named = {kind: {field: places[:1] for field, places in found.items()} for kind, found in named.items()}
            return _said(
                400, error="Request missing required field" if missing else "Invalid field values on some events", **named
            )
        if silenced:
            return _said(400, error="Events silenced for device_id", silenced_events=silenced, throttled_events=throttled)
        error = "Too many requests for some devices and users"
        return _said(429, error=error, eps_threshold=30, throttled_events=throttled) if throttled else None

    def _keep(self, path: str, events: list[dict[str, Any]], drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        with self.lock:
            for event in events:
                if drop and drop(event):
                    continue
                key = (str(event.get("device_id", f"of {event.get('user_id')}")), event["insert_id"])
                if self._seen.get(key, -_WEEK) > self.clock() - _WEEK:
                    self.repeated += 1
                    continue
                self._seen[key] = self.clock()
                self.events.append(event)
                self.revenue += event.get("revenue", event.get("price", 0) * event.get("quantity", 1))
                self.happened.append((path, str(event.get("user_id") or event.get("device_id")), event["event_type"]))

    def _identify(self, request: Request) -> Answer:
        """Answers in plain text."""
        if "content-encoding" in request.headers or "form" not in request.headers["content-type"]:
            return Answer(400, b"missing_event")
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if form.get("api_key") != self._key:
            return Answer(400, b"invalid_api_key")
        try:
            found = json.loads(form.get("identification", ""), parse_float=Decimal)
        except ValueError:
            return Answer(400, b"missing_event")
        if len(found) > 1_024:
            return Answer(413, b"too many identifications")
        with self.lock:
            for one in found:
                self._set(request.path, one)
        return Answer(body=b"success")

    def _set(self, path: str, one: dict[str, Any]) -> None:
        if path == "/groupidentify":
            who = (one["group_type"], one["group_value"])
            self.groups.setdefault(who, {}).update(one["group_properties"]["$set"])
            self.happened.append((path, who[1], one["group_properties"]["$set"]))
            return
        name = one.get("user_id") or one["device_id"]
        user = self.users.setdefault(name, {})
        user.update(one.get("user_properties", {}).get("$set", {}))
        user.update({f"group {kind}": value for kind, value in one.get("groups", {}).items()})
        self.happened.append((path, name, one.get("user_properties", {}).get("$set", one.get("groups"))))

    def take(self, request: Request, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        if request.path in _SIZES:
            self._keep(request.path, _READ(request.body)["events"], drop)

    def held(self) -> list[dict[str, Any]]:
        with self.lock:
            return [_call(event) for event in self.events]

    def summary(self) -> dict[str, int]:
        with self.lock:
            counts = {"events": len(self.events), "repeated": self.repeated, "users": len(self.users)}
        return {**super().summary(), **counts}


def _layers(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_layers, value.values()), default=0)
    return max(map(_layers, value), default=0) if isinstance(value, list) else 0


def _said(code: int, **body: object) -> Answer:
    return Answer(code, json.dumps({"code": code, **body}).encode())


def _call(event: dict[str, Any]) -> dict[str, Any]:
    moment = EPOCH + timedelta(milliseconds=event["time"])
    call = {
        "type": "track",
        "event": event["event_type"],
        "messageId": event["insert_id"],
        "userId": event.get("user_id"),
        "anonymousId": event.get("device_id"),
        "properties": event["event_properties"],
        "timestamp": moment.replace(tzinfo=None).isoformat() + "Z",
    }
    return {key: value for key, value in call.items() if value is not None}


API_KEY = "amp-71d2e9"


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    with AmplitudeServer(api_key=API_KEY) as server:
        opened = made("amplitude", place.folder, api_key=API_KEY, endpoint=server.url)
        yield Kit(
            opened,
            server.held,
            keeps_repeats=False,
            server=server,
            deepest=39,
            stranger={"api_key": "another-key"},
            refuse=lambda event, words: server.minds.update({event.message_id: words}),
            throttle=lambda event: server.throttled.add(event.decoded()["userId"]),
            relieve=server.throttled.clear,
        )


KITS = {"amplitude": _kit}
TRANSLATING = list(KITS)
NAMING = list(KITS)
DEFERRING = list(KITS)


def serve(port: int) -> VendorServer:
    """For a process of its own."""
    return AmplitudeServer(port=port, keep_requests=False)


def settings(url: str) -> dict[str, Any]:
    """Of a destination that sends to it."""
    return {"type": "amplitude", "api_key": "key", "endpoint": url}
