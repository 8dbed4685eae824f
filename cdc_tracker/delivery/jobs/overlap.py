"""Which of a table's rows the live stream has overtaken, so that an older read never wins over a later change."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from cdc_tracker.model import Event

MARGIN = 60.0
"""Seconds before a chunk's reading for which the stream's events are remembered: a transaction's commit may reach us before other
sessions see what it wrote, as long as it waits for a synchronous standby."""


class _Source(msgspec.Struct, frozen=True):
    xid: int = msgspec.field(name="txId", default=0)


class _Context(msgspec.Struct, frozen=True):
    source: _Source = _Source()


class _Call(msgspec.Struct):
    context: _Context = _Context()
    user_id: str | None = msgspec.field(name="userId", default=None)
    anonymous_id: str | None = msgspec.field(name="anonymousId", default=None)
    group_id: str | None = msgspec.field(name="groupId", default=None)

    def subject(self, kind: str) -> tuple[str, str]:
        return kind, (self.group_id if kind == "group" else self.user_id or self.anonymous_id) or ""


class _Noted(NamedTuple):
    at: float  # time.monotonic
    xid: int


_CALL = msgspec.json.Decoder(_Call)
_STATEFUL = ("identify", "group")  # calls whose last one counts


class Reading(NamedTuple):
    """When a chunk was read: what the stream made from `began` (time.monotonic) on may be newer than its rows, and so may be what
    the transactions `running` wrote, which the reader did not see yet."""

    began: float
    running: Collection[int]


class Overlap:
    """What the live stream has made of late that one mapping's rows can meet.

    An event read from the table gives way to one of the stream that has its messageId, and to a later identify (group) call about
    the same user (group): destinations keep the traits that came last. Everything else that was read stands for itself: a
    change that makes no event takes nothing away.
    """

    def __init__(self, mapping: str, kind: str) -> None:
        """The mapping's key, and the type of its events."""
        self._mapping = mapping
        self._kind = kind if kind in _STATEFUL else ""
        self._ids: dict[str, float] = {}
        self._subjects: dict[tuple[str, str], _Noted] = {}

    @property
    def size(self) -> int:
        """How much is remembered."""
        return len(self._ids) + len(self._subjects)

    def note(self, events: Iterable[Event]) -> None:
        """Events of the live stream, as they are sent."""
        now = time.monotonic()
        for event in events:
            if event.mapping == self._mapping:
                self._ids[event.message_id] = now
            if event.type == self._kind:
                call = _CALL.decode(event.body)
                self._subjects[call.subject(event.type)] = _Noted(now, call.context.source.xid)

    def withheld(self, events: Iterable[Event], reading: Reading) -> set[str]:
        """messageIds of those events, read from a table, that give way."""
        return {event.message_id for event in events if self._overtaken(event, reading)}

    def forget(self, before: float) -> None:
        """What was noted more than the margin before this moment is no longer needed."""
        limit = before - MARGIN
        self._ids = {key: noted for key, noted in self._ids.items() if noted >= limit}
        self._subjects = {key: noted for key, noted in self._subjects.items() if noted.at >= limit}

    def _overtaken(self, event: Event, reading: Reading) -> bool:
        if event.message_id in self._ids:
            return True
        if event.type != self._kind:
            return False
        noted = self._subjects.get(_CALL.decode(event.body).subject(event.type))
        return noted is not None and (noted.at >= reading.began or noted.xid in reading.running)
