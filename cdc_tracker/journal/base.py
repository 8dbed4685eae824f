"""What every journal answers: its extent, what waits in it, what a trim did; and how a range of it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from cdc_tracker.model import Position, Segment


@dataclass(frozen=True, slots=True)
class Horizon:
    """The journal's extent. `first` is the position of its first change; a rewind reaches back to just before it."""

    first: Position
    first_time: int  # microseconds since the Unix epoch
    last: Position
    last_time: int
    segments: int
    bytes: int

    @property
    def start(self) -> Position:
        """The lowest position that a checkpoint can be rewound to."""
        return self.first.before


@dataclass(frozen=True, slots=True)
class Waiting:
    """The amount of the journal after a position, in whole segments: at least the exact amount, at most one segment more."""

    changes: int = 0
    bytes: int = 0
    oldest: int = 0  # commit time, microseconds since the Unix epoch; 0 if nothing waits
    more: bool = False  # there are more segments than are counted, and their changes are not counted


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The result of a trim. `blocked`: the journal exceeds its size, and its oldest segment is still needed."""

    deleted: int  # segments
    bytes: int  # of the deleted
    blocked: bool


class Readable(Protocol):
    """A journal, as its readers see it."""

    def read(self, after: Position, limit: int) -> list[Segment]:
        """The first `limit` segments whose `last` is past the position, in order. The first can also have earlier changes."""

    def horizon(self) -> Horizon | None:
        """The journal's extent, None if nothing was ever appended."""


def segments_between(
    journal: Readable,
    after: Position,
    upto: Position,
    at_once: int = 16,
    *,
    on_gap: Callable[[Position], None] = lambda _: None,
) -> Iterator[tuple[Segment, Position]]:
    """Yields the segments with changes after `after`, up to `upto`, each with the position after which it is to be read.

    Reads `at_once` segments at a time. The last segment may extend past `upto`. `on_gap`: called with the position before the
    next segment if the journal may have been trimmed up to there while it was read.
    """
    while after < upto and (segments := journal.read(after, at_once)):
        begins, horizon = segments[0].first.before, journal.horizon()
        if after < begins and (horizon is None or after < horizon.start):
            on_gap(begins)
        for segment in segments:
            if after >= upto:
                return
            yield segment, after
            after = segment.last
