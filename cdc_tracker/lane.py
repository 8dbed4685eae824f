"""The calls to one destination that are in flight, in order: the live stream's and those of jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeAlias

from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
from cdc_tracker.destinations.batching import split_by_limits
from cdc_tracker.destinations.send import send
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import START, Batch, Event, Position, Receipt

Done: TypeAlias = Callable[[list[Receipt]], None]
"""Called with one final receipt an event, from `submit` or `settle`, in the order in which the calls were submitted."""


class Lane:
    """At most `width` calls at once: one, where the destination holds its checkpoint. Used from one thread."""

    def __init__(
        self,
        name: str,
        destination: Destination,
        *,
        abandon: Callable[[], bool],
        on_trouble: Callable[[CdcTrackerError], None],
        waiting: Callable[[], None],
    ) -> None:
        """`waiting` is called once a second while a call takes long."""
        self._destination = destination
        self._abandon, self._on_trouble, self._waiting = abandon, on_trouble, waiting
        self._width = 1 if isinstance(destination, HoldsCheckpoint) else destination.limits.in_flight
        self._pool = ThreadPoolExecutor(self._width, thread_name_prefix=name)
        self._calls: deque[tuple[Future[list[Receipt]], Done]] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def submit(
        self,
        events: Sequence[Event],
        upto: Position,
        done: Done,
        *,
        least: Position = START,
        aside: str = "",
        history: bool = False,
    ) -> None:
        """Send the events after those submitted before; waits where the lane is full. `least`: no `upto` lies before it."""
        if not events and not self._calls:
            done([])
            return
        self.settle(self._width - 1)
        self._calls.append((self._pool.submit(self._send, list(events), upto, least, aside, history), done))

    def settle(self, leave: int) -> None:
        """Wait until at most `leave` calls are in flight, and hand out the receipts of those that are done.

        Raises send.Interrupted where a call was given up.
        """
        while self._calls and (len(self._calls) > leave or self._calls[0][0].done()):
            future, done = self._calls[0]
            while not wait([future], timeout=1.0).done:
                self._waiting()
            receipts = future.result()
            self._calls.popleft()
            done(receipts)

    def close(self) -> None:
        """Does not wait for a call under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, events: list[Event], upto: Position, least: Position, aside: str, history: bool) -> list[Receipt]:
        receipts: list[Receipt] = []
        parts = split_by_limits(events, self._destination.limits)
        for number, part in enumerate(parts, 1):
            last = part[-1].position
            reached = upto if number == len(parts) else Position(last.commit_lsn, last.ordinal - 1)
            named = f"{aside} part {number}" if aside and len(parts) > 1 else aside
            batch = Batch(part, max(reached, least), named, history)
            receipts += send(self._destination, batch, stop=self._abandon, on_trouble=self._on_trouble)
        return receipts
