"""Calls for tests of destinations that translate, and what becomes of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import Batch, Event, Receipt
from tests.vendors.kit import raw_event

QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)
EXACT = (
    '{"name":"日本 😀 \\"x\\" \\\\ \\n","big":123456789012345678901234567890,"fraction":1234567890123456789.000000000000000001}'
)
"""Properties whose bytes a vendor must get as they are."""


def message_id(n: int) -> str:
    return f"00000000-0000-5000-8000-{n:012d}"


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def call(n: int = 0, kind: str = "track", **fields: Any) -> Event:
    """Of user 3, a minute ago; a field that is None is left out. `raw`: JSON text instead of `properties`."""
    given: dict[str, Any] = {"type": kind, "messageId": message_id(n), "userId": "3", "timestamp": ago(minutes=1)}
    given |= {"event": "Order Paid", "properties": {"order_id": n}} if kind == "track" else {}
    raw = fields.pop("raw", None)
    given = {key: value for key, value in {**given, **fields}.items() if value is not None}
    text = json.dumps(given, ensure_ascii=False)
    return raw_event(n, text.replace(f'"properties": {{"order_id": {n}}}', f'"properties": {raw}') if raw else text)


def batch(*events: Event, history: bool = False) -> Batch:
    return Batch(list(events), events[-1].position, history=history)


def settled(destination: Destination, made: Batch) -> tuple[list[Receipt], list[CdcTrackerError]]:
    """Final receipts, and what went wrong on the way."""
    troubles: list[CdcTrackerError] = []
    receipts = send(destination, made, stop=lambda: False, on_trouble=troubles.append, backoff=QUICK)
    destination.close()
    return receipts, troubles
