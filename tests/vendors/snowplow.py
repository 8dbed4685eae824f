"""A Snowplow collector with what comes after it, as Snowplow Micro is."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from tests.vendors.kit import Kit, Place, decoded, made
from tests.vendors.server import Answer, Request, VendorServer

TP2 = "/com.snowplowanalytics.snowplow/tp2"
PAYLOAD = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
UNSTRUCT = "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0"
CONTEXTS = "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1"
SENDER = "the sender's"
LENGTHS = {"aid": 255, "p": 255, "tna": 128, "uid": 255, "duid": 128, "ip": 128, "ua": 1_000}


class _Payload(msgspec.Struct):
    schema: str
    data: list[dict[str, str]]  # every value is a text


_PAYLOAD = msgspec.json.Decoder(_Payload)


class SnowplowServer(VendorServer):
    """200 to whatever is collected; 413 above 2 MB. Then each event is validated: `/micro/good`, `/micro/bad`, `/micro/all`.

    `registry`: Iglu's schemas, each with a function that says what is wrong with data; None: it knows every schema, and takes any
    data. Repeated event ids are kept.
    """

    def __init__(
        self,
        *,
        registry: dict[str, Callable[[dict[str, Any]], str]] | None = None,
        port: int = 0,
        keep_requests: bool = True,
        body_bytes: int = 2_000_000,
    ) -> None:
        self.good: list[dict[str, Any]] = []
        self.bad: list[dict[str, Any]] = []
        self.counted = 0
        self._registry = registry
        self._keep = keep_requests
        self._body_bytes = body_bytes
        super().__init__(port=port, keep_requests=keep_requests)

    def handle(self, request: Request) -> Answer:
        if request.path != TP2:
            return Answer(404, b"404 not found")
        if len(request.body) > self._body_bytes:
            return Answer(413, b"payload too large")
        self.take(request)
        return Answer(200, b"ok")

    def look(self, path: str) -> Answer:
        with self.lock:
            answers = {
                "/micro/good": self.good,
                "/micro/bad": self.bad,
                "/micro/all": {"total": len(self.good) + len(self.bad), "good": len(self.good), "bad": len(self.bad)},
            }
            if path in answers:
                return Answer(body=json.dumps(answers[path], default=str).encode(), headers={"Content-Type": "application/json"})
        return super().look(path)

    def take(self, request: Request, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        try:
            payload = _PAYLOAD.decode(request.body)
        except msgspec.DecodeError as error:
            self._add_bad({}, f"not a payload: {error}")
            return
        if payload.schema != PAYLOAD:
            self._add_bad({}, f"not a payload: {payload.schema}")
            return
        for parameters in payload.data:
            if not self._keep:
                with self.lock:
                    self.counted += 1
            elif not (drop and drop(parameters)):
                self._validate(parameters)

    def _validate(self, parameters: dict[str, str]) -> None:
        try:
            uuid.UUID(parameters["eid"])
            int(parameters["dtm"]), int(parameters["ttm"])
            event = _self_describing(parameters["ue_pr"], UNSTRUCT)
            entities = _self_describing(parameters["co"], CONTEXTS) if "co" in parameters else []
            missing = [key for key in ("e", "p", "tv", "aid") if key not in parameters]
        except (KeyError, ValueError) as error:
            self._add_bad(parameters, f"{type(error).__name__}: {error}")
            return
        long = [key for key, most in LENGTHS.items() if len(parameters.get(key, "")) > most]
        faults = [f"{key} is missing" for key in missing] + [f"{key} is too long" for key in long]
        faults += [fault for one in (event, *entities) if (fault := self._fault(one["schema"], one["data"]))]
        if faults:
            self._add_bad(parameters, "; ".join(faults))
            return
        self._add_good(parameters, event, entities)

    def _fault(self, schema: str, data: dict[str, Any]) -> str:
        if self._registry is None:
            return ""
        return self._registry[schema](data) if schema in self._registry else f"no registry has {schema}"

    def _add_good(self, parameters: dict[str, str], event: dict[str, Any], entities: list[dict[str, Any]]) -> None:
        # What the collector sees of a request is the sender's, unless the event says otherwise.
        where = {"user_ipaddress": parameters.get("ip", SENDER), "useragent": parameters.get("ua", SENDER)}
        raw = {"api": {"vendor": "com.snowplowanalytics.snowplow", "version": "tp2"}, "parameters": parameters}
        canonical = {"event_id": parameters["eid"], "true_tstamp": int(parameters["ttm"]), "user_id": parameters.get("uid")}
        found = {"eventType": "unstruct", "schema": event["schema"], "contexts": [entity["schema"] for entity in entities]}
        described = {"unstruct_event": event, "entities": entities}
        with self.lock:
            self.good.append({"rawEvent": raw, "event": {**canonical, **where, **described}, **found})
            self.counted += 1

    def _add_bad(self, parameters: dict[str, str], error: str) -> None:
        with self.lock:
            self.bad.append({"rawEvent": {"parameters": parameters}, "errors": [error]})

    def held(self) -> list[dict[str, Any]]:
        with self.lock:
            good = list(self.good)
        return [
            {
                "type": "track",
                "event": one["schema"].split("/")[1],
                "messageId": one["event"]["event_id"],
                "userId": one["event"]["user_id"],
                "properties": one["event"]["unstruct_event"]["data"],
                "timestamp": one["event"]["true_tstamp"],
            }
            for one in good
        ]

    def summary(self) -> dict[str, int]:
        with self.lock:
            return {**super().summary(), "events": self.counted, "bad": len(self.bad)}


def _self_describing(text: str, schema: str) -> Any:
    found = decoded(text)
    if found["schema"] != schema:
        raise ValueError(f"expected {schema}")
    return found["data"]


def settings(url: str) -> dict[str, Any]:
    """Of a destination that sends to this server."""
    return {"collector": url, "app_id": "shop", "vendor": "com.acme", "compression": "none"}


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    with SnowplowServer() as server:
        yield Kit(made("snowplow", place.folder, **settings(server.url)), server.held, keeps_repeats=True, server=server)


KITS = {"snowplow": _kit}
TRANSLATING = list(KITS)


def serve(port: int) -> VendorServer:
    """For a process of its own."""
    return SnowplowServer(port=port, keep_requests=False)
