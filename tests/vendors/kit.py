"""What the conformance suite needs to know of a destination: how to open it, and how to look at what it holds."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.destinations.base import Destination
from cdc_tracker.destinations.registry import load
from cdc_tracker.model import Batch, Event, Position
from tests.postgres import Servers
from tests.vendors.server import VendorServer


@dataclass(frozen=True)
class Kit:
    """`held`: every event that is there, in order and in the shape of our calls (type, event, messageId, userId, properties,
    timestamp …), repeated ones as often as they are kept."""

    open: Callable[[], Destination]  # a new instance on the same storage; the caller closes it
    held: Callable[[], list[dict[str, Any]]]
    keeps_repeats: bool
    takes_nul: bool = True  # a zero character in a string
    exactly_once: bool = False  # it holds its own checkpoint
    merges: bool = False  # its checkpoint follows its events: killed between, it holds more, which comes again in vain
    server: VendorServer | None = None


class EngineUnavailable(Exception):
    """The machine has not what it takes; the text says how to get it."""


class Engines:
    """Real engines, each started when first asked for, and kept until the end of the test session."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """What `tests.vendors.NAME.engine()` gives. Where the machine has it not, the test is skipped; in CI it fails."""
        if name not in self._running:
            try:
                self._running[name] = self._stack.enter_context(importlib.import_module(f"tests.vendors.{name}").engine())
            except EngineUnavailable as error:
                if os.environ.get("CI") == "true":
                    pytest.fail(f"{name}: {error}")
                pytest.skip(f"{name}: {error}")
        return self._running[name]

    def close(self) -> None:
        self._stack.close()


@dataclass(frozen=True)
class Place:
    """Where a kit is set up: a folder of its own, and the servers of the session."""

    folder: Path
    engines: Engines
    postgres: Servers


OpenKit = Callable[[Place], AbstractContextManager[Kit]]


def made(kind: str, folder: Path, **settings: Any) -> Callable[[], Destination]:
    """Opens a destination of a type with these settings."""
    destination = load(kind)
    return lambda: destination("shop", destination.Settings.model_validate({"type": kind, **settings}), folder)


def events(count: int, start: int = 0, **properties: Any) -> list[Event]:
    """Track calls, one a change, in transactions of ten changes."""
    return [event(n, **properties) for n in range(start, start + count)]


def event(n: int, *, name: str = "Order Paid", **properties: Any) -> Event:
    """Calls alike have the same bytes."""
    fields = {
        "type": "track",
        "event": name,
        "messageId": f"00000000-0000-5000-8000-{n:012d}",
        "userId": f"user-{n % 7}",  # vendors refuse ids such as 0
        "properties": {"order_id": n, **properties},
        "context": {"source": {"lsn": f"0/{n:X}"}},
        "timestamp": f"2026-01-02T{n // 3600 % 24:02d}:{n // 60 % 60:02d}:{n % 60:02d}.{n // 86400:06d}Z",
    }
    return raw_event(n, json.dumps(fields, ensure_ascii=False, separators=(",", ":")))


def raw_event(n: int, body: str) -> Event:
    read = json.loads(body)
    position = Position(1_000 + n // 10 * 100, n % 10)
    return Event(read["messageId"], read["type"], body.encode(), "order_paid", position, 1_700_000_000_000_000 + n)


def batch(made: list[Event]) -> Batch:
    return Batch(made, made[-1].position)


def decoded(text: str | bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return value
