"""PostHog's capture server, v1 and v0."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec

from tests.vendors.kit import Kit, Place, decoded, made
from tests.vendors.server import Answer, Request, VendorServer

API_KEY = "phc_3f9d0c"
HEADERS = ("posthog-sdk-info", "posthog-attempt", "posthog-request-id", "posthog-request-timestamp", "content-type", "user-agent")
NOBODY = {"0", "anonymous", "null", "undefined"}  # some of the ids that v1 keeps an event of, but makes no person of


class _Event(msgspec.Struct):
    event: str
    distinct_id: str
    timestamp: str = ""
    uuid: str = ""
    options: msgspec.Raw = msgspec.Raw(b"{}")
    properties: msgspec.Raw = msgspec.Raw(b"{}")


class _Batch(msgspec.Struct):
    batch: list[_Event]
    created_at: str = ""
    api_key: str = ""
    historical_migration: bool = False


_BATCH = msgspec.json.Decoder(_Batch)


class PosthogServer(VendorServer):
    """v1 answers for each event: ok, warning, drop or retry; a batch with a missing or repeated uuid is 400 as a whole.

    v0 answers 200 to whatever is JSON with the right key, and drops what it does not like. Both keep one event of a uuid, name,
    day and distinct_id: the last. `without_v1`: an older server. `results`: what v1 says to single uuids, scripted.
    """

    def __init__(
        self,
        *,
        api_key: str = API_KEY,
        without_v1: bool = False,
        port: int = 0,
        keep_requests: bool = True,
        batch_bytes: int = 20_000_000,
    ) -> None:
        self.events: dict[tuple[str, str, str, str], _Event] = {}
        self.historical: dict[str, bool] = {}  # uuid → whether it came as a historical migration
        self.results: dict[str, tuple[str, str]] = {}  # uuid → result and details; used up by one answer
        self.repeated = 0
        self.dropped = 0
        self._api_key = api_key
        self._without_v1 = without_v1
        self._batch_bytes = batch_bytes
        super().__init__(port=port, keep_requests=keep_requests)

    def handle(self, request: Request) -> Answer:
        if len(request.body) > self._batch_bytes:
            return _failure(413, "payload_too_large")
        if request.path == "/i/v1/analytics/events" and not self._without_v1:
            return self._v1(request)
        if request.path != "/batch/":
            return Answer(404, b"not found")
        batch = _BATCH.decode(request.body)
        if batch.api_key != self._api_key:
            return Answer(401, b'{"type":"authentication_error","code":"invalid_api_key"}')
        self._keep(batch)
        return Answer(body=b'{"status":"Ok"}')

    def _v1(self, request: Request) -> Answer:
        if "authorization" not in request.headers:
            return _failure(401, "missing_authorization")
        if any(name not in request.headers for name in HEADERS):
            return _failure(400, "missing_required_headers")
        if request.headers["authorization"] != f"Bearer {self._api_key}":
            return _failure(401, "invalid_api_token")
        uuid.UUID(request.headers["posthog-request-id"])
        datetime.fromisoformat(request.headers["posthog-request-timestamp"])
        try:
            batch = _BATCH.decode(request.body)
            datetime.fromisoformat(batch.created_at)
            ids = [str(uuid.UUID(event.uuid)) for event in batch.batch]
        except (msgspec.DecodeError, ValueError):
            return _failure(400, "request_parsing_error")
        if not batch.batch:
            return _failure(400, "empty_batch")
        if len(set(ids)) < len(ids):
            return _failure(400, "duplicate_event_uuid")
        results = {one.uuid: self._result(one) for one in batch.batch}
        self._keep(batch, lambda event: results[event["uuid"]]["result"] in ("drop", "retry"))
        headers = {"Retry-After": "1"} if any(each["result"] == "retry" for each in results.values()) else {}
        return Answer(body=json.dumps({"results": results}).encode(), headers=headers)

    def _result(self, event: _Event) -> dict[str, str]:
        with self.lock:
            scripted = self.results.pop(event.uuid, None)
        if scripted:
            return {"result": scripted[0], "details": scripted[1]}
        reason = _fault(event)
        if reason:
            return {"result": "drop", "details": reason}
        if event.distinct_id.strip().lower() in NOBODY:
            return {"result": "ok", "details": "person_processing_disabled"}
        return {"result": "ok"}

    def take(self, request: Request, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        self._keep(_BATCH.decode(request.body), drop)

    def _keep(self, batch: _Batch, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        with self.lock:
            for event in batch.batch:
                if _fault(event) or (drop and drop({"uuid": event.uuid, "event": event.event})):
                    self.dropped += 1
                    continue
                key = (event.uuid, event.event, event.timestamp[:10], event.distinct_id)
                self.repeated += key in self.events
                self.events[key] = event
                self.historical[event.uuid] = batch.historical_migration

    def held(self) -> list[dict[str, Any]]:
        with self.lock:
            events = list(self.events.values())
        return [
            {
                "type": "track",
                "event": event.event,
                "messageId": event.uuid,
                "userId": event.distinct_id,
                "properties": decoded(bytes(event.properties)),
                "options": decoded(bytes(event.options)),
                "timestamp": event.timestamp,
            }
            for event in events
        ]

    def summary(self) -> dict[str, int]:
        with self.lock:
            return {**super().summary(), "events": len(self.events), "repeated": self.repeated, "dropped": self.dropped}


def _fault(event: _Event) -> str:
    if not event.event:
        return "missing_event_name"
    if len(event.event.encode()) > 200:
        return "event_name_too_long"
    if not event.distinct_id:
        return "missing_distinct_id"
    if len(event.distinct_id.encode()) > 200:
        return "distinct_id_too_large"
    return "" if bytes(event.properties).startswith(b"{") else "malformed_event_properties"


def _failure(status: int, tag: str) -> Answer:
    return Answer(status, json.dumps({"error": tag, "error_description": tag.replace("_", " "), "error_uri": ""}).encode())


def settings(url: str) -> dict[str, Any]:
    """Of a destination that sends to this server."""
    return {"api_key": API_KEY, "host": url}


@contextmanager
def _kit(place: Place, without_v1: bool = False) -> Iterator[Kit]:
    with PosthogServer(without_v1=without_v1) as server:
        yield Kit(
            made("posthog", place.folder, **settings(server.url)),
            server.held,
            keeps_repeats=False,
            server=server,
            keeps=lambda properties: {
                **properties,
                "$geoip_disable": True,
                "$is_server": True,
                **({"$lib": "cdc-tracker"} if without_v1 else {}),
            },
            stranger={"api_key": "phc_another"},
            refuse=None if without_v1 else lambda event, words: server.results.update({event.message_id: ("drop", words)}),
            throttle=None if without_v1 else lambda event: server.results.update({event.message_id: ("retry", "not_now")}),
        )


KITS = {"posthog": _kit, "posthog-v0": lambda place: _kit(place, without_v1=True)}
TRANSLATING = list(KITS)
NAMING = DEFERRING = ["posthog"]  # v0 names none


def serve(port: int) -> VendorServer:
    """For a process of its own."""
    return PosthogServer(port=port, keep_requests=False)
