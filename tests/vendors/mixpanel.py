"""Mixpanel's ingestion: /import, /engage, /groups."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from cdc_tracker.times import EPOCH
from tests.vendors.kit import Kit, Opener, Place, made
from tests.vendors.server import Answer, Request, VendorServer

INVALID = {"00000000-0000-0000-0000-000000000000", "anon", "anonymous", "nil", "none", "null", "n/a", "na", "undefined"}
INVALID |= {"unknown", "<nil>", "0", "-1", "true", "false", "[]", "{}"}
_OURS = {"time", "$insert_id", "distinct_id", "$device_id", "$user_id", "token"}


_READ = msgspec.json.Decoder(float_hook=Decimal).decode
_INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")


class Fault(Exception):
    """What is wrong with a record, and with which field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class MixpanelServer(VendorServer):
    """Validates each record as documented, takes the good ones of a batch, and names the others.

    Of events alike in name, time, distinct_id and $insert_id only the latest is shown. An event with $device_id and $user_id
    joins the two. `account`: a service account, which goes with its project_id; without one the token authenticates.
    """

    def __init__(
        self,
        *,
        token: str = "token",
        account: tuple[str, str] | None = None,
        project_id: str | None = None,
        batch_bytes: int = 2_097_152,
        port: int = 0,
        keep_requests: bool = True,
    ) -> None:
        self.events: dict[tuple[object, ...], dict[str, Any]] = {}
        self.profiles: dict[str, dict[str, Any]] = {}
        self.groups: dict[tuple[str, str], dict[str, Any]] = {}
        self.seen: dict[str, float] = {}  # `Last Seen` of profiles
        self._updated: dict[tuple[str, str, str], float] = {}
        self.joined: dict[str, str] = {}  # $device_id → $user_id
        self.minds: dict[str, str] = {}  # $insert_id → what it says of such an event
        self.repeated = 0
        self._token = token
        user = ":".join(account) if account else f"{token}:"
        self._basic = "Basic " + base64.b64encode(user.encode()).decode()
        self._project = project_id
        self._batch_bytes = batch_bytes
        super().__init__(port=port, keep_requests=keep_requests)

    def handle(self, request: Request) -> Answer:
        url = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/import":
            authorized = request.headers.get("authorization") == self._basic and query.get("project_id") == self._project
            if not authorized:
                return _said(401, error="Invalid credentials")
        elif url.path not in ("/engage", "/groups"):
            return _said(404, error="not found")
        elif "content-encoding" in request.headers:
            return Answer(400, b'{"status":0,"error":"data, missing or empty"}')
        if len(request.body) > self._batch_bytes or request.body.count(b"\n") > 2_000:
            return _said(413, error=f"request exceeds max limit of {self._batch_bytes} bytes")
        try:
            records = _READ(request.body)
        except ValueError:
            return _said(400, error="invalid JSON")
        if not records or len(records) > 2_000:
            return _said(400, error="expected 1 to 2000 records")
        if url.path == "/import":
            return self._import(records)
        return self._profiles(records, strict="strict" in query)

    def _import(self, records: list[dict[str, Any]]) -> Answer:
        failed = []
        for index, record in enumerate(records):
            try:
                _validate(record)
                self._check_minded(record)
            except Fault as fault:
                insert_id = record.get("properties", {}).get("$insert_id", "")
                failed.append({"index": index, "insert_id": insert_id, "field": fault.field, "message": str(fault)})
            else:
                self._keep(record)
        landed = len(records) - len(failed)
        if failed:
            error = "some data points in the request failed validation"
            return _said(400, error=error, num_records_imported=landed, failed_records=failed)
        return _said(200, num_records_imported=landed)

    def _check_minded(self, record: dict[str, Any]) -> None:
        words = self.minds.get(record["properties"]["$insert_id"])
        if words:
            raise Fault("properties", words)

    def _profiles(self, records: list[dict[str, Any]], *, strict: bool) -> Answer:
        """`strict` is honoured as on /import; else 1 or 0."""
        failed = [
            {"index": index, "message": f"{field}, missing or empty"}
            for index, record in enumerate(records)
            for field in ("$token", "$distinct_id" if "$group_key" not in record else "$group_id", "$set")
            if record.get(field) in (None, "")
        ]
        minded = {fault["index"] for fault in failed}
        with self.lock:
            for index, record in enumerate(records):
                if index in minded or record["$token"] != self._token:
                    continue  # a wrong token is answered like a right one
                self._set(record)
        if strict and failed:
            return _said(
                400, error="some data points failed", num_records_imported=len(records) - len(minded), failed_records=failed
            )
        if strict:
            return _said(200, num_records_imported=len(records))
        return Answer(body=b"0" if failed else b"1")

    def _set(self, record: dict[str, Any]) -> None:
        """Updates apply in the order of their `$time`; what is set is the server's time, unless `$ignore_time` is true."""
        now = time.time()
        group = "$group_key" in record
        who = (record["$group_key"], record["$group_id"]) if group else ("", record["$distinct_id"])
        held: dict[Any, dict[str, Any]] = self.groups if group else self.profiles
        profile = held.setdefault(who if group else who[1], {})
        for name, value in record["$set"].items():
            if self._updated.get((*who, name), 0) <= record.get("$time", now):
                self._updated[(*who, name)] = record.get("$time", now)
                profile[name] = value
        if not group and record.get("$ignore_time") is not True:
            self.seen[who[1]] = now

    def _keep(self, record: dict[str, Any]) -> None:
        properties = record["properties"]
        device, user = properties.get("$device_id"), properties.get("$user_id")
        distinct = user or (f"$device:{device}" if device else properties.get("distinct_id"))
        key = (record["event"], properties["time"], distinct, properties["$insert_id"])
        with self.lock:
            self.repeated += key in self.events
            self.events[key] = record
            if device and user:
                self.joined.setdefault(device, user)

    def take(self, request: Request, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        if request.path.startswith("/import"):
            for record in _READ(request.body):
                if drop is None or not drop(record):
                    self._keep(record)

    def held(self) -> list[dict[str, Any]]:
        with self.lock:
            return [_call(record) for record in self.events.values()]

    def summary(self) -> dict[str, int]:
        with self.lock:
            counts = {"events": len(self.events), "repeated": self.repeated, "profiles": len(self.profiles)}
        return {**super().summary(), **counts}


def _said(code: int, **body: object) -> Answer:
    return Answer(code, json.dumps({"code": code, "status": "OK" if code == 200 else "Bad Request", **body}).encode())


def _validate(record: dict[str, Any]) -> None:
    properties = record.get("properties")
    if not isinstance(record.get("event"), str) or not record["event"]:
        raise Fault("event", "'event' is invalid: must be a non-empty string")
    if not isinstance(properties, dict) or len(properties) >= 255:
        raise Fault("properties", "'properties' is invalid: must have fewer than 255 keys")
    moment = properties.get("time")
    if not isinstance(moment, int) or not 365 * 86_400_000 <= moment <= (time.time() + 3_600) * 1_000:
        raise Fault("properties.time", "'properties.time' is invalid: must be specified as seconds since epoch")
    insert_id = properties.get("$insert_id", "")
    if not _INSERT_ID.fullmatch(insert_id) or insert_id in INVALID:
        raise Fault("properties.$insert_id", "'properties.$insert_id' is invalid")
    for field in ("distinct_id", "$user_id", "$device_id"):
        if str(properties.get(field, "x")).lower() in INVALID:
            raise Fault(f"properties.{field}", f"'properties.{field}' is invalid: value is not allowed")
    _measure(properties, "properties", 0)


def _measure(value: object, path: str, depth: int) -> None:
    if isinstance(value, dict):
        if len(value) >= 255 or depth > 3:
            raise Fault(path, f"'{path}' is invalid: too many keys, or nested deeper than 3")
        for key, inner in value.items():
            if isinstance(inner, dict | list):
                _measure(inner, f"{path}.{key}", depth + 1)
    elif isinstance(value, list):
        if len(value) >= 255:
            raise Fault(path, f"'{path}' is invalid: too many elements")
        for inner in value:
            if isinstance(inner, dict | list):
                _measure(inner, path, depth)


def _call(record: dict[str, Any]) -> dict[str, Any]:
    properties = record["properties"]
    moment = EPOCH + timedelta(milliseconds=properties["time"])
    call = {
        "type": "track",
        "event": record["event"],
        "messageId": properties["$insert_id"],
        "userId": properties.get("$user_id", properties.get("distinct_id")),
        "anonymousId": properties.get("$device_id"),
        "properties": {key: value for key, value in properties.items() if key not in _OURS},
        "timestamp": moment.replace(tzinfo=None).isoformat() + "Z",
    }
    return {key: value for key, value in call.items() if value is not None}


TOKEN = "mp-9c1f07"
ACCOUNT = ("worker.a1b2.mp-service-account", "sAs3cret")


def _kit(server: MixpanelServer, opened: Opener, stranger: dict[str, Any]) -> Kit:
    return Kit(
        opened,
        server.held,
        keeps_repeats=False,
        server=server,
        deepest=3,
        stranger=stranger,
        refuse=lambda event, words: server.minds.update({event.message_id: words}),
    )


@contextmanager
def _token(place: Place) -> Iterator[Kit]:
    with MixpanelServer(token=TOKEN) as server:
        yield _kit(server, made("mixpanel", place.folder, token=TOKEN, endpoint=server.url), {"token": "another-token"})


@contextmanager
def _account(place: Place) -> Iterator[Kit]:
    with MixpanelServer(token=TOKEN, account=ACCOUNT, project_id="42") as server:
        account = {"project_id": 42, "service_account": ACCOUNT[0], "service_secret": ACCOUNT[1]}
        opened = made("mixpanel", place.folder, token=TOKEN, endpoint=server.url, id_merge="original", **account)
        yield _kit(server, opened, {"service_secret": "another-secret"})


KITS = {"mixpanel": _token, "mixpanel-account": _account}
TRANSLATING = list(KITS)
NAMING = list(KITS)


def serve(port: int) -> VendorServer:
    """For a process of its own."""
    return MixpanelServer(port=port, keep_requests=False)


def settings(url: str) -> dict[str, Any]:
    """Of a destination that sends to it."""
    return {"type": "mixpanel", "token": "token", "endpoint": url}
