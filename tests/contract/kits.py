"""What the conformance suite needs to know of each destination: how to open it, and how to look at what it holds."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

from cdc_tracker.destinations.base import Destination
from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.destinations.registry import load
from cdc_tracker.destinations.stdout import StdoutDestination, StdoutSettings
from cdc_tracker.model import Batch, Event, Position
from tests.postgres import Database
from tests.servers import SegmentServer, WebhookServer

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
WRITE_KEY = "wk-3f9d0c"
HTTP = ("segment", "segment-gzip", "webhook", "webhook-batch", "webhook-gzip")
HOLDERS = ("jsonl", "sqlite", "sqlite-typed", "postgresql", "postgresql-typed")
NAMES = ("memory", "stdout", *HTTP, *HOLDERS)

_POSTGRESQL_HELD = """
    SELECT message_id, type, event, user_id, anonymous_id, group_id, previous_id, properties::text, traits::text, context::text,
           to_char(timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM tracks ORDER BY timestamp"""
_SQLITE_HELD = """
    SELECT message_id, type, event, user_id, anonymous_id, group_id, previous_id, properties, traits, context, timestamp
    FROM tracks ORDER BY timestamp"""


@dataclass(frozen=True)
class Kit:
    name: str
    open: Callable[[], Destination]  # a new instance on the same storage; the caller closes it
    held: Callable[[], list[dict[str, Any]]]  # every event that is there, in order, repeated ones as often as they are kept
    keeps_repeats: bool
    takes_nul: bool = True  # a zero character in a string


def events(count: int, start: int = 0, **properties: Any) -> list[Event]:
    """Track calls, one a change, in transactions of ten changes."""
    return [event(n, **properties) for n in range(start, start + count)]


def event(n: int, *, name: str = "Order Paid", **properties: Any) -> Event:
    """Calls alike have the same bytes."""
    fields = {
        "type": "track",
        "event": name,
        "messageId": f"00000000-0000-5000-8000-{n:012d}",
        "userId": f"{n % 7}",
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


@contextmanager
def open_kit(name: str, folder: Path, database: Database | None) -> Iterator[Kit]:
    with ExitStack() as stack:
        if name == "memory":
            yield _memory()
        elif name == "stdout":
            yield _stdout()
        elif name == "jsonl":
            yield _jsonl(folder)
        elif name.startswith("segment"):
            yield _segment(name, folder, stack.enter_context(SegmentServer(write_key=WRITE_KEY)))
        elif name.startswith("webhook"):
            yield _webhook(name, folder, stack.enter_context(WebhookServer(secrets=(SECRET,))))
        else:
            yield _sql(name, folder, database)


def _made(kind: str, folder: Path, **settings: Any) -> Callable[[], Destination]:
    made = load(kind)
    return lambda: made("shop", made.Settings.model_validate({"type": kind, **settings}), folder)


def _memory() -> Kit:
    opened: list[MemoryDestination] = []

    def open_memory() -> Destination:
        opened.append(MemoryDestination())
        return opened[-1]

    return Kit("memory", open_memory, lambda: [decoded(e.body) for one in opened for e in one.events], keeps_repeats=True)


def _stdout() -> Kit:
    stream = io.BytesIO()
    settings = StdoutSettings()
    return Kit(
        "stdout",
        lambda: StdoutDestination("shop", settings, Path(), stream),
        lambda: [decoded(line) for line in stream.getvalue().splitlines()],
        keeps_repeats=True,
    )


def _jsonl(folder: Path) -> Kit:
    def held() -> list[dict[str, Any]]:
        return [decoded(line) for path in sorted((folder / "out").glob("*.jsonl")) for line in path.read_bytes().splitlines()]

    return Kit("jsonl", _made("jsonl", folder, path="out", rotate_size="20KB"), held, keeps_repeats=True)


def _segment(name: str, folder: Path, server: SegmentServer) -> Kit:
    compression = "gzip" if name.endswith("gzip") else "none"
    made = _made("segment", folder, write_key=WRITE_KEY, endpoint=server.url, compression=compression)
    return Kit(name, made, lambda: [decoded(body) for body in server.events.values()], keeps_repeats=False)


def _webhook(name: str, folder: Path, server: WebhookServer) -> Kit:
    def held() -> list[dict[str, Any]]:
        bodies = [body for _, body in server.deliveries]
        return [event for body in bodies for event in (body["data"] if body["type"] == "batch" else [body["data"]])]

    compression = "gzip" if name.endswith("gzip") else "none"
    size = 50 if name.endswith("batch") else False
    made = _made("webhook", folder, url=server.url + "/hook", secret=SECRET, batch=size, compression=compression)
    return Kit(name, made, held, keeps_repeats=True)


def _sql(name: str, folder: Path, database: Database | None) -> Kit:
    url = database.url if database else "sqlite:///events.db"

    def rows() -> list[tuple[Any, ...]]:
        if database:
            with psycopg.connect(database.url) as connection:
                return connection.execute(_POSTGRESQL_HELD).fetchall()
        with closing(sqlite3.connect(folder / "events.db")) as connection:
            return connection.execute(_SQLITE_HELD).fetchall()

    made = _made("sql", folder, url=url, table_per_event=name.endswith("typed"))
    return Kit(name, made, lambda: [_call(row) for row in rows()], keeps_repeats=False, takes_nul=database is None)


def _call(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row of `tracks` in the shape of the call that it was."""
    message_id, kind, event, user, anonymous, group, previous, properties, traits, context, timestamp = row
    call = {
        "type": kind,
        "name" if kind in ("page", "screen") else "event": event,
        "messageId": message_id,
        "userId": user,
        "anonymousId": anonymous,
        "groupId": group,
        "previousId": previous,
        "timestamp": timestamp,
    }
    call |= {key: decoded(text) for key, text in (("properties", properties), ("traits", traits), ("context", context)) if text}
    return {key: value for key, value in call.items() if value is not None}
