"""While a destination fails at every event: when to try again, with how many, and when the events are to blame."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from cdc_tracker.delivery.sender import NothingPasses
from cdc_tracker.destinations.base import Limits
from cdc_tracker.journal import Journal
from cdc_tracker.model import Position, Segment

FEW = 5  # events: more of them fail together rather for a fault of the destination
REOPENED = 8  # tries after which the destination is opened anew: a client may be broken for good (minutes have passed)
TRIES = 3  # after which few events are to blame, where others have passed shortly before
LOOKAHEAD = 2_000  # events among which one is looked for that passes
SIZE = 16 * 1024**2  # bytes of their segments
AT_ONCE = 4  # segments
LONGEST = 60.0  # seconds between two tries


@dataclass
class CircuitBreaker:
    """Of one destination's stream. It is read again from where everything is dealt with, so that events that have come since, and
    mappings that were mended, are tried with those that failed. One that passes shows that they are at fault. Where there is
    none, but the destination has taken others before, a few events are held to be at fault, once.
    """

    failures: int = 0
    until: float = 0.0  # nothing is sent before (time.monotonic)
    _vouched: bool = False
    _spent: int = 0  # passes that have vouched for events already

    def met(self, error: NothingPasses, passes: int) -> bool:
        """`passes`: the dispatcher's, so far. Returns whether a person is to hear of it."""
        self.failures += 1
        few = 0 < error.count <= FEW and passes > self._spent
        self._vouched = few and self.failures >= TRIES
        wait = 0.5 * self.failures if few else min(2.0 ** (self.failures - 1), LONGEST)
        self.until = time.monotonic() + wait
        return not few

    @property
    def lasting(self) -> bool:
        """So long that a new connection may help."""
        return self.failures >= REOPENED

    def vouched(self, events: int, passes: int) -> bool:
        """Whether the destination works, and events of the next call at which it fails are at fault. It is asked once a call."""
        vouched, self._vouched = self._vouched and events <= FEW, False
        if vouched:
            self._spent = passes
        return vouched

    def over(self) -> None:
        """Events were dealt with."""
        self.failures, self._vouched = 0, False

    def holds(self) -> bool:
        return self.failures > 0 and time.monotonic() < self.until

    def segments(self, journal: Journal, after: Position) -> list[Segment]:
        """What is read at once meanwhile: so much that events of later transactions are among it, which may tell."""
        found: list[Segment] = []
        while len(found) < LOOKAHEAD and sum(len(segment.frames) for segment in found) < SIZE:
            more = journal.read(after, AT_ONCE)
            if not more:
                break
            found += more
            after = more[-1].last
        return found

    def limits(self, limits: Limits) -> Limits:
        """Of what is read at once: a destination that takes single events is given several to tell by."""
        return replace(limits, events=LOOKAHEAD) if self.failures else limits
