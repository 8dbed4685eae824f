"""Divides events into batches within a destination's limits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from cdc_tracker.destinations.base import Limits
from cdc_tracker.model import Event


def split_by_limits(events: Sequence[Event], limits: Limits) -> list[list[Event]]:
    """The events in order, in batches within `limits`; each event counts with one separator byte.

    The events of one change share a batch, and so its `upto`, unless they exceed the limits of a batch and `limits.whole_changes`
    is not set. An event that is too large by itself stays: `send` rejects it.
    """
    if _fits(events, limits):
        return [list(events)] if events else []
    batches: list[list[Event]] = []
    batch: list[Event] = []
    room = limits.batch_bytes
    for _, same in groupby(events, attrgetter("position")):
        change = list(same)
        size = _size(change)
        if batch and (len(batch) + len(change) > limits.events or size > room):
            batches.append(batch)
            batch = []
            room = limits.batch_bytes
        if not batch and not limits.whole_changes and not _fits(change, limits):
            *full, change = _divide(change, limits)
            batches.extend(full)
            size = _size(change)
        batch.extend(change)
        room -= size
    batches.append(batch)
    return batches


def _divide(events: list[Event], limits: Limits) -> list[list[Event]]:
    parts: list[list[Event]] = [[]]
    for event in events:
        if parts[-1] and not _fits([*parts[-1], event], limits):
            parts.append([])
        parts[-1].append(event)
    return parts


def _fits(events: Sequence[Event], limits: Limits) -> bool:
    return len(events) <= limits.events and _size(events) <= limits.batch_bytes


def _size(events: Sequence[Event]) -> int:
    return sum([len(event.body) for event in events]) + len(events)
