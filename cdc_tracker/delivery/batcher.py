"""Collects the results of changes in batches: what is sent, and then committed, together."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from cdc_tracker.destinations.base import Limits
from cdc_tracker.model import Event, Position, Rejection, Result, Segment, Suppression

KEEP = 16  # segments of one batch at most: bounds memory if few changes become events


@dataclass
class PendingBatch:
    """The results of the changes after the previous batch, up to `upto`."""

    upto: Position
    events: list[Event] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    suppressions: list[Suppression] = field(default_factory=list)  # counted, not sent
    segments: list[Segment] = field(default_factory=list)  # that the events and rejections come from
    size: int = 0  # bytes of the events' bodies, with a separator each
    time: int = 0  # commit time at its end, microseconds since the Unix epoch; 0: not known, it ends within a portion

    @property
    def matched(self) -> int:
        """How many results there are."""
        return len(self.events) + len(self.rejections) + len(self.suppressions)

    def suppress(self, message_ids: Container[str], reason: str) -> None:
        """Suppresses the events with these messageIds."""
        self.suppressions += [Suppression(reason, event) for event in self.events if event.message_id in message_ids]
        self.events = [event for event in self.events if event.message_id not in message_ids]


class Batcher:
    """Collects results in batches within a destination's limits.

    A batch ends between two changes: the events of its last change may exceed the limits. Where it ends depends only on the
    position at which the batcher began, on the limits, and on the results; not on the portions in which they are added.
    """

    def __init__(self, after: Position, limits: Limits, keep: int = KEEP) -> None:
        """`after`: the position before the first change. `keep`: segments of one batch at most."""
        self._limits, self._keep = limits, keep
        self._batch = PendingBatch(after)
        self._last = after  # position of the last result; without one in the batch, where the batch begins

    def add(self, segment: Segment, results: Sequence[Result], upto: Position) -> Iterator[PendingBatch]:
        """Adds the results of the segment's changes since the last call, up to `upto`; yields the batches that are full."""
        batch, limits = self._batch, self._limits
        if results and (not batch.segments or batch.segments[-1] is not segment):
            batch.segments.append(segment)
        for result in () if self._add_all(results) else results:
            if isinstance(result, Rejection):
                batch.rejections.append(result)
            else:
                size = len(result.body) + 1 if isinstance(result, Event) else 0
                number = len(batch.events) + len(batch.suppressions)
                full = number >= limits.events or batch.size + size > limits.batch_bytes
                if full and number and result.position != self._last:
                    batch.upto = self._last
                    yield batch
                    batch = self._batch = PendingBatch(self._last, segments=[segment])
                if isinstance(result, Event):
                    batch.events.append(result)
                    batch.size += size
                else:
                    batch.suppressions.append(result)
            self._last = result.position
        batch.upto = upto
        batch.time = segment.last_time
        if len(batch.segments) >= self._keep and upto == segment.last:
            yield batch
            self._batch, self._last = PendingBatch(upto), upto

    def close(self) -> PendingBatch:
        """Returns the last batch, which may be empty."""
        return self._batch

    def _add_all(self, results: Sequence[Result]) -> bool:
        """Fast path: adds whole groups instead of single results. False: a rejection is among them, or they do not fit."""
        batch, limits = self._batch, self._limits
        events = [result for result in results if isinstance(result, Event)]
        left_out = [] if len(events) == len(results) else [result for result in results if isinstance(result, Suppression)]
        number = len(events) + len(left_out)
        if number < len(results) or len(batch.events) + len(batch.suppressions) + number > limits.events:
            return False
        size = sum([len(event.body) for event in events]) + len(events)
        if batch.size + size > limits.batch_bytes:
            return False
        batch.events += events
        batch.suppressions += left_out
        batch.size += size
        self._last = results[-1].position if results else self._last
        return True


def pack(
    segments: Sequence[Segment],
    after: Position,
    results: Callable[[Segment, Position], list[Result]],
    limits: Limits,
    keep: int = KEEP,
) -> Iterator[PendingBatch]:
    """Yields the batches of the segments' changes after `after`, with the `results` of each segment.

    The last batch ends at the end of the last segment, and may be empty.
    """
    batcher = Batcher(after, limits, keep)
    for segment in segments:
        yield from batcher.add(segment, results(segment, after), segment.last)
        after = segment.last
    yield batcher.close()


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
