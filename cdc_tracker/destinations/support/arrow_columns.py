"""Events as an Arrow table, for files and warehouses. JSON stays text, so that its numbers stay exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from cdc_tracker.destinations.support.event_view import EventView, read_event
from cdc_tracker.errors import BatchRejected, ConfigError
from cdc_tracker.model import Event
from cdc_tracker.times import iso_to_micros

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("type", "event", "user_id", "anonymous_id", "group_id", "previous_id")
JSONS = ("properties", "traits", "context")
TIMES = ("timestamp", "committed_at")


def arrow(extra: str) -> None:
    """Imports pyarrow, which is slow. Raises ConfigError if it is missing; `extra` is the one that installs it."""
    try:
        import pyarrow  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError("pyarrow is missing", hint=f"pip install 'cdc-tracker[{extra}]'") from error


def table(events: Sequence[Event]) -> pa.Table:
    """One row per event, in order. Raises BatchRejected if one is not in the shape of a call."""
    import pyarrow as pa  # noqa: PLC0415

    calls = [read_event(event) for event in events]
    fields = {name: pa.array([getattr(call, name) for call in calls], pa.string()) for name in TEXTS if name != "event"}
    fields["event"] = pa.array([call.title or None for call in calls], pa.string())
    fields["message_id"] = pa.array([call.message_id for call in calls], pa.string())
    fields["timestamp"] = _times(calls)
    for name in JSONS:
        fields[name] = pa.array([_json(getattr(call, name)) for call in calls], pa.string())
    fields["committed_at"] = pa.array([event.committed_at for event in events], pa.timestamp("us", "UTC"))
    order = ("message_id", *TEXTS, "timestamp", *JSONS, "committed_at")
    schema = pa.schema([pa.field(name, fields[name].type, nullable=name not in ("message_id", "type")) for name in order])
    return pa.table([fields[name] for name in order], schema=schema)


def _json(value: msgspec.Raw) -> bytes | None:
    return bytes(value) or None


def _times(calls: list[EventView]) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415

    kind = pa.timestamp("us", "UTC")
    texts = [call.timestamp or None for call in calls]
    try:
        return pa.array(texts, pa.string()).cast(kind)
    except pa.ArrowInvalid:  # one of them is written in another form of ISO 8601
        return pa.array([_micros(text) for text in texts], kind)


def _micros(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return iso_to_micros(text)
    except (ValueError, OverflowError):
        raise BatchRejected("the event's timestamp is not a time") from None
