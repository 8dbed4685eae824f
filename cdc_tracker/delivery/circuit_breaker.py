"""A destination fails at every event: when to try again, with how many events, and when to reject the events."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from cdc_tracker.delivery.sender import NothingPasses
from cdc_tracker.destinations.base import Limits
from cdc_tracker.journal import Journal
from cdc_tracker.model import Position, Segment

FEW = 5  # events; if more of them fail together, the destination is the likelier cause
TRIES = 3  # after which few events are rejected, if others have passed before
REOPENED = 8  # tries (minutes) after which the destination is opened again: a client may be broken for good
LOOKAHEAD = 2_000  # events to read, among which one may pass
SIZE = 16 * 1024**2  # bytes of the segments to read
AT_ONCE = 4  # segments
LONGEST = 60.0  # seconds between two tries


@dataclass
class CircuitBreaker:
    """For the stream of one destination.

    After each failure the stream is read again from the last accounted position, so that newer events, and the results of mended
    mappings, are sent with those that failed. If one of them passes, the events are at fault, not the destination. If there is no
    newer event, a few events are rejected after some tries, provided that the destination has taken others since the last time.
    """

    failures: int = 0
    until: float = 0.0  # nothing is sent before it (time.monotonic)
    _others_passed: bool = False
    _spent: int = 0  # the dispatcher's passes when events were last rejected

    def trip(self, error: NothingPasses, passes: int) -> bool:
        """Records a failure and returns whether to report it. `passes`: the dispatcher's, so far."""
        self.failures += 1
        few = 0 < error.count <= FEW and passes > self._spent
        self._others_passed = few and self.failures >= TRIES
        wait = 0.5 * self.failures if few else min(2.0 ** (self.failures - 1), LONGEST)
        self.until = time.monotonic() + wait
        return not few

    @property
    def needs_reopening(self) -> bool:
        """Whether it has failed for so long that a new connection may help."""
        return self.failures >= REOPENED

    def others_passed(self, events: int, passes: int) -> bool:
        """Whether the next call, of `events` events, may reject those at which the destination fails. To be asked once a call."""
        others_passed, self._others_passed = self._others_passed and events <= FEW, False
        if others_passed:
            self._spent = passes
        return others_passed

    def reset(self) -> None:
        """Events were accounted for."""
        self.failures, self._others_passed = 0, False

    def is_open(self) -> bool:
        """Whether nothing is sent for now."""
        return self.failures > 0 and time.monotonic() < self.until

    def segments(self, journal: Journal, after: Position) -> list[Segment]:
        """The segments to read at once while it fails: enough to hold events of later transactions, of which one may pass."""
        found: list[Segment] = []
        while len(found) < LOOKAHEAD and sum(len(segment.frames) for segment in found) < SIZE:
            more = journal.read(after, AT_ONCE)
            if not more:
                break
            found += more
            after = more[-1].last
        return found

    def limits(self, limits: Limits) -> Limits:
        """The limits of a pending batch: while it fails, even a destination of single events gets several to compare."""
        return replace(limits, events=LOOKAHEAD) if self.failures else limits
