"""Tells which rows of a table the live stream has overtaken, so that a row read earlier never replaces a later change."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

from cdc_tracker.destinations.support.event_view import EventView, read_event
from cdc_tracker.model import Event

MARGIN = 60.0
"""Seconds before the reading of a chunk for which the stream's events are remembered: while a transaction waits for a synchronous
standby, its commit may be captured before other sessions see what it wrote."""


class _Noted(NamedTuple):
    at: float  # time.monotonic
    xid: int


_STATEFUL = ("identify", "group")  # calls whose last one counts


class Reading(NamedTuple):
    """When a chunk was read. Newer than its rows may be the stream's events since `began` (time.monotonic), and those of the
    transactions `running` then, whose changes the reader did not see."""

    began: float
    running: Collection[int]


class Overlap:
    """The live stream's recent events that may overtake the rows of one mapping.

    A row's event is overtaken by a stream event with the same messageId, and by a later identify (group) call about the same user
    (group), because destinations keep the traits that came last. A change that makes no event overtakes nothing.
    """

    def __init__(self, mapping: str, kind: str) -> None:
        """`mapping`: its key. `kind`: the type of its events."""
        self._mapping = mapping
        self._kind = kind if kind in _STATEFUL else ""
        self._ids: dict[str, float] = {}
        self._subjects: dict[tuple[str, str], _Noted] = {}

    @property
    def size(self) -> int:
        """The number of remembered events and calls."""
        return len(self._ids) + len(self._subjects)

    def note(self, events: Iterable[Event]) -> None:
        """Remembers events of the live stream, as they are sent."""
        now = time.monotonic()
        for event in events:
            if event.mapping == self._mapping:
                self._ids[event.message_id] = now
            if event.type == self._kind:
                call = read_event(event)
                self._subjects[_subject(call)] = _Noted(now, call.read_source().xid)

    def overtaken(self, events: Iterable[Event], reading: Reading) -> set[str]:
        """Returns the messageIds of the row events that the stream has overtaken."""
        return {event.message_id for event in events if self._is_overtaken(event, reading)}

    def forget(self, before: float) -> None:
        """Drops what was noted more than MARGIN before the moment `before` (time.monotonic)."""
        limit = before - MARGIN
        self._ids = {key: noted for key, noted in self._ids.items() if noted >= limit}
        self._subjects = {key: noted for key, noted in self._subjects.items() if noted.at >= limit}

    def _is_overtaken(self, event: Event, reading: Reading) -> bool:
        if event.message_id in self._ids:
            return True
        if event.type != self._kind:
            return False
        noted = self._subjects.get(_subject(read_event(event)))
        return noted is not None and (noted.at >= reading.began or noted.xid in reading.running)


def _subject(call: EventView) -> tuple[str, str]:
    """The call's type and the group or user that it is about."""
    return call.type, (call.group_id if call.type == "group" else call.user_id or call.anonymous_id) or ""
