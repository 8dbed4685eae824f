"""What the conformance suite needs to know of a destination: how to open it, and how to look at what it holds."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from cdc_tracker.destinations.base import Cursor, Destination, DestinationSettings, KeyedCheckpoint
from cdc_tracker.destinations.registry import described, load
from cdc_tracker.model import Batch, Event, Position
from tests.missing import leave_out
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
    varies: str = ""  # a pattern of what in a request's body differs from try to try, as documented
    keeps: Callable[[dict[str, Any]], dict[str, Any]] = lambda properties: properties  # what becomes of an event's properties
    deepest: int | None = None  # objects in objects; deeper ones are rejected `too_deep`
    stranger: Mapping[str, Any] = field(default_factory=dict)  # settings with credentials that the vendor says it does not know
    keep: Callable[[], Callable[[], None]] | None = None  # a backup; called, what it gives brings that back
    remove: Callable[[], None] | None = None  # everything that is there, as somebody else would
    refuse: Callable[[Event, str], None] | None = None  # the vendor refuses this event by name, in such words, and takes others
    throttle: Callable[[Event], None] | None = None  # the vendor puts this event off, and takes others
    relieve: Callable[[], None] = lambda: None  # the end of that


class EngineUnavailable(Exception):
    """The machine has not what it takes; the text says how to get it."""


class Engines:
    """Real engines, each started when first asked for, and kept until the end of the test session."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[str, Any] = {}
        self._lacking: dict[str, str] = {}  # asked for once only: finding out may take its time

    def get(self, name: str) -> Any:
        """What `tests.vendors.NAME.engine()` gives. Where the machine has it not, the test is skipped; in CI it fails."""
        if name not in self._running and name not in self._lacking:
            try:
                self._running[name] = self._stack.enter_context(importlib.import_module(f"tests.vendors.{name}").engine())
            except EngineUnavailable as error:
                self._lacking[name] = f"{name}: {error}"
        if name in self._lacking:
            leave_out(self._lacking[name])
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


CURSOR = Cursor("main", "shop", origin="6f0d1b1e-0000-5000-8000-000000000001")


def nobody(position: Position) -> bool:
    """A position stored under the name alone is none of ours."""
    return False


def anybody(position: Position) -> bool:
    """One stored under the name alone is ours, whatever it is."""
    return True


@dataclass(frozen=True)
class Opener:
    """Opens a destination under settings, each time a new one."""

    settings: DestinationSettings
    given: Mapping[str, Any]
    folder: Path
    cursor: Cursor | None = CURSOR
    owns: Callable[[Position], bool] = nobody

    def __call__(self) -> Destination:
        destination = described(self.settings)("shop", self.settings, self.folder)
        if self.cursor is not None and isinstance(destination, KeyedCheckpoint):
            destination.bind(self.cursor, self.owns)
        return destination

    def bound(self, cursor: Cursor | None, owns: Callable[[Position], bool] = nobody) -> Opener:
        """For another stream; None: as before there were cursors."""
        return replace(self, cursor=cursor, owns=owns)

    def changed(self, **settings: Any) -> Opener:
        """With some settings more, or others."""
        return made(self.settings.type, self.folder, **{**self.given, **settings})

    def moved(self, old: str, new: str, **settings: Any) -> Opener:
        """With a vendor at another address."""
        texts = {key: value.replace(old, new) for key, value in self.given.items() if isinstance(value, str)}
        return self.changed(**texts, **settings)


def made(kind: str, folder: Path, **settings: Any) -> Opener:
    """Opens a destination of a type with these settings."""
    return Opener(load(kind).Settings.model_validate({"type": kind, **settings}), settings, folder)


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
    """With every digit of every number, also of those that Python's int refuses to read."""
    value: dict[str, Any] = json.loads(text, parse_float=Decimal, parse_int=whole)
    return value


def whole(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 4_000 else Decimal(digits)


def in_texts(properties: dict[str, Any], *, lists: bool = False) -> dict[str, Any]:
    """As vendors keep properties who know only texts and numbers, and `lists`: null left out, the rest as texts of JSON."""
    plain = (str, int, Decimal, list) if lists else (str, int, Decimal)

    def kept(value: Any) -> Any:
        known = isinstance(value, plain) and not isinstance(value, bool)
        return value if known else _json(value)

    return {key: kept(value) for key, value in properties.items() if value is not None}


def _json(value: Any) -> str:
    """With every digit of a Decimal."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json(key)}:{_json(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)
