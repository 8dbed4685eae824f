"""A receiver of webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from tests.vendors.kit import Kit, Place, made, whole
from tests.vendors.server import Answer, Request, VendorServer


class WebhookServer(VendorServer):
    """A Standard Webhooks receiver: 401 where no signature holds or the timestamp is more than 5 minutes off, else 204."""

    def __init__(self, *, secrets: tuple[str, ...], port: int = 0, keep_requests: bool = True) -> None:
        """`secrets`: those that the receiver trusts, `whsec_…`."""
        self.deliveries: list[tuple[str, Any]] = []  # (webhook-id, body) in order, repeated ones too
        self.refuses: Callable[[dict[str, Any]], bool] = lambda body: False  # bodies it answers 422 to
        self.minds: dict[str, str] = {}  # webhook-id → what it answers 422 with
        self._keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
        super().__init__(port=port, keep_requests=keep_requests)

    @property
    def events(self) -> dict[str, dict[str, Any]]:
        """messageId → event, each once, single or from batches."""
        found: dict[str, dict[str, Any]] = {}
        for event in self.held():
            found.setdefault(event["messageId"], event)
        return found

    def held(self) -> list[dict[str, Any]]:
        """Every event that came, repeated ones too, whatever the format."""
        with self.lock:
            bodies = [body for _, body in self.deliveries]
        return [event for body in bodies for event in _events(body)]

    def handle(self, request: Request) -> Answer:
        if not self._signed(request):
            return Answer(401, b'{"message":"no matching signature"}')
        words = self.minds.get(request.headers["webhook-id"])
        if words:
            return Answer(422, json.dumps({"message": words}).encode())
        body = json.loads(request.body, parse_float=Decimal, parse_int=whole)
        if self.refuses(body):
            return Answer(422, b'{"message":"this receiver minds the event"}')
        self._take(request, body)
        return Answer(204, b"")

    def take(self, request: Request, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        body = json.loads(request.body, parse_float=Decimal, parse_int=whole)
        if drop is None or not drop(body):
            self._take(request, body)

    def _take(self, request: Request, body: Any) -> None:
        with self.lock:
            self.deliveries.append((request.headers["webhook-id"], body))

    def _signed(self, request: Request) -> bool:
        headers = request.headers
        message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > 300:
            return False
        content = f"{message_id}.{timestamp}.".encode() + request.body
        expected = {"v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in self._keys}
        return bool(expected & set(headers.get("webhook-signature", "").split()))

    def summary(self) -> dict[str, int]:
        with self.lock:
            received = len(self.deliveries)
        return {**super().summary(), "deliveries": received, "events": len(self.events)}


def _events(body: Any) -> list[dict[str, Any]]:
    if isinstance(body, list):  # CloudEvents, batched
        return [each["data"] for each in body]
    return body["data"] if body["type"] == "batch" else [body["data"]]


SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"


def settings(url: str) -> dict[str, Any]:
    """Of a destination that sends to this receiver."""
    return {"url": url + "/hook", "secret": SECRET, "batch": 1_000}


@contextmanager
def _kit(place: Place, **more: Any) -> Iterator[Kit]:
    with WebhookServer(secrets=(SECRET,)) as server:
        opened = made("webhook", place.folder, **{**settings(server.url), "batch": False, **more})
        single = opened.given["batch"] is False
        yield Kit(
            opened,
            server.held,
            keeps_repeats=True,
            server=server,
            stranger={"secret": "whsec_" + "YW5vdGhlci1zZWNyZXQtYW5vdGhlci1zZWNyZXQt"},
            refuse=(lambda event, words: server.minds.update({event.message_id: words})) if single else None,
        )


KITS = {
    "webhook": _kit,
    "webhook-batch": lambda place: _kit(place, batch=50),
    "webhook-gzip": lambda place: _kit(place, compression="gzip"),
    "webhook-cloudevents": lambda place: _kit(place, format="cloudevents"),
    "webhook-cloudevents-batch": lambda place: _kit(place, format="cloudevents", batch=50),
}


NAMING = ["webhook", "webhook-gzip", "webhook-cloudevents"]  # in requests of one event


def serve(port: int) -> VendorServer:
    """For a process of its own."""
    return WebhookServer(secrets=(SECRET,), port=port, keep_requests=False)
