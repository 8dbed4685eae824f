"""The calls to one destination that are in flight, in order: the live stream's and those of jobs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import NamedTuple, TypeAlias

from cdc_tracker.delivery.sender import NothingPasses, send
from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import START, Batch, Event, Position, Receipt

Done: TypeAlias = Callable[[list[Receipt]], None]
"""Called with one final receipt an event, from `submit` or `settle`, in the order in which the calls were submitted."""


class _Call(NamedTuple):
    batch: Batch
    done: Done
    future: Future[list[Receipt]]
    began: float  # by the monotonic clock


class Dispatcher:
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
        self._calls: deque[_Call] = deque()
        self.passes = 0  # calls whose events the destination has answered for

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def waited(self) -> float:
        """Seconds since the oldest call in flight was submitted."""
        return time.monotonic() - self._calls[0].began if self._calls else 0.0

    def submit(
        self,
        events: Sequence[Event],
        upto: Position,
        done: Done,
        *,
        least: Position = START,
        out_of_band: str = "",
        history: bool = False,
        vouched: bool = False,
        store: bool = False,
    ) -> None:
        """Send the events after those submitted before; waits where the lane is full. `least`: no `upto` lies before it.

        `vouched`: see send. `store`: also without events, so that the destination stores `upto`.
        Raises what `settle` does, and has not taken the events then.
        """
        if not (events or self._calls or store):
            done([])
            return
        self.settle(self._width - 1)
        batch = Batch(list(events), max(upto, least), out_of_band, history)
        self._calls.append(_Call(batch, done, self._pool.submit(self._send, batch, vouched), time.monotonic()))

    def settle(self, leave: int) -> None:
        """Wait until at most `leave` calls are in flight, and hand out the receipts of those that are done.

        Raises send.Interrupted where a call was given up. Raises send.NothingPasses where a call found that, and no other
        one shows that events do pass: nothing is in flight then, and nothing that was has been taken.
        """
        while self._calls and (len(self._calls) > leave or self._calls[0].future.done()):
            call = self._calls[0]
            try:
                receipts = self._result(call.future)
            except NothingPasses as error:
                receipts = self._vouched(call, error)
            self._calls.popleft()
            self.passes += _passed(receipts)
            call.done(receipts)

    def close(self) -> None:
        """Does not wait for a call under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _result(self, future: Future[list[Receipt]]) -> list[Receipt]:
        while not wait([future], timeout=1.0).done:
            self._waiting()
        return future.result()

    def _vouched(self, failed: _Call, error: NothingPasses) -> list[Receipt]:
        """The receipts of a call in which no event has passed, if one of those in flight beside it shows that others do."""
        passed = False
        for call in self._calls:
            with suppress(NothingPasses):
                passed = _passed(self._result(call.future)) or passed
        if passed:
            return self._result(self._pool.submit(self._send, failed.batch, True))
        error.out_of_band = all(call.batch.out_of_band for call in self._calls)
        self._calls.clear()
        raise error

    def _send(self, batch: Batch, vouched: bool) -> list[Receipt]:
        return send(self._destination, batch, stop=self._abandon, on_trouble=self._on_trouble, vouched=vouched)


def _passed(receipts: list[Receipt]) -> bool:
    return any(receipt.reason != "destination_error" for receipt in receipts)
