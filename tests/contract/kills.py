"""A process that delivers to an exactly-once destination and is killed at any moment; and what is there then."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import cast

from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
from cdc_tracker.destinations.send import send
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import Position
from tests.vendors.kit import Kit, batch, event


class Holder(Destination, HoldsCheckpoint):
    """Both protocols, for the type checker."""


@dataclass(frozen=True)
class Standing:
    """What a destination holds when nobody writes to it."""

    position: Position | None
    held: list[int]  # numbers of the events, in the destination's order
    merges: bool

    @property
    def expected(self) -> int:
        """So many events, from 0 on, should be there. One that merges may have more: they come again, and change nothing."""
        known = 0 if self.position is None else _number(self.position) + 1
        return max(known, len(self.held)) if self.merges else known

    @property
    def lost(self) -> int:
        return len(set(range(self.expected)) - set(self.held))

    @property
    def doubled(self) -> int:
        """Those that its position does not know of as well: they will come again."""
        return len(self.held) - len(set(self.held)) + len(set(self.held) - set(range(self.expected)))

    @property
    def right(self) -> bool:
        return self.held == list(range(self.expected))


def opened(kit: Kit) -> Holder:
    return cast("Holder", kit.open())


def order(kit: Kit) -> list[int]:
    return [call["properties"]["order_id"] for call in kit.held()]


def killed(kit: Kit, number: int) -> Position | None:
    """Deliver, and be killed in the batch after the next `number % 5`; the position at which it began."""
    context = multiprocessing.get_context("fork")  # the parent has nothing of the destination open
    ours, theirs = context.Pipe()
    with ours, theirs:
        child = context.Process(target=_deliver_for_ever, args=(kit.open, theirs))
        child.start()
        position: Position | None = ours.recv()
        began, batches = time.monotonic(), number % 5
        for _ in range(batches):
            ours.recv()
        time.sleep(random.uniform(0, (time.monotonic() - began) / max(batches, 1)))  # into the next one
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        child.close()
    return position


def standing(kit: Kit) -> Standing:
    """A server may still be about to commit what the killed process sent: looks until nothing changes."""
    with closing(opened(kit)) as destination:
        position = destination.position()
        while True:
            held = order(kit)
            position, before = destination.position(), position
            if position == before:
                return Standing(position, held, kit.merges)


def _deliver_for_ever(open_destination: Callable[[], Holder], done: Connection) -> None:
    """Says on `done` where it began, and then after every batch."""
    destination = open_destination()
    position = destination.position()
    done.send(position)
    n = 0 if position is None else _number(position) + 1
    while True:
        made = [event(k, name=f"Event {k % 3}", **{f"p{k % 12}": k}) for k in range(n, n + random.randint(1, 40))]
        send(destination, batch(made), stop=lambda: False, on_trouble=_quiet)
        n += len(made)
        done.send(None)


def _quiet(error: CdcTrackerError) -> None:
    """It is sent again."""


def _number(position: Position) -> int:
    """Which event stands at a position: the inverse of vendors.kit.raw_event."""
    return (position.commit_lsn - 1_000) // 10 + position.ordinal
