"""The only road to a destination: sends batches of the live stream, of retries and of jobs, and accounts for them in order."""

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
    """Sends up to `limits.in_flight` batches at once; one, if the destination holds its checkpoint. Used from one thread."""

    def __init__(
        self,
        name: str,
        destination: Destination,
        *,
        abandon: Callable[[], bool],
        on_trouble: Callable[[CdcTrackerError], None],
        waiting: Callable[[], None],
    ) -> None:
        """`abandon`: whether to give up calls in flight. `waiting` is called once a second during a long call."""
        self._destination = destination
        self._abandon, self._on_trouble, self._waiting = abandon, on_trouble, waiting
        self._width = 1 if isinstance(destination, HoldsCheckpoint) else destination.limits.in_flight
        self._pool = ThreadPoolExecutor(self._width, thread_name_prefix=name)
        self._calls: deque[_Call] = deque()
        self.passes = 0  # calls in which an event passed

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
        others_passed: bool = False,
        store: bool = False,
    ) -> None:
        """Sends the events after those submitted before, and first waits for a free place.

        `least`: the lowest `upto` to send. `others_passed`: see send. `store`: call the destination even without events, so that
        it stores `upto`. Raises what `settle` raises; the events are then not submitted.
        """
        if not (events or self._calls or store):
            done([])
            return
        self.settle(self._width - 1)
        batch = Batch(list(events), max(upto, least), out_of_band, history)
        self._calls.append(_Call(batch, done, self._pool.submit(self._send, batch, others_passed), time.monotonic()))

    def settle(self, leave: int) -> None:
        """Waits until at most `leave` calls are in flight, and calls `done` for those that have ended.

        Raises Interrupted if a call was abandoned. Raises NothingPasses if no event of a call passed and no other call in flight
        shows that events do pass: then nothing is in flight, and no receipt of the calls that were is handed out.
        """
        while self._calls and (len(self._calls) > leave or self._calls[0].future.done()):
            call = self._calls[0]
            try:
                receipts = self._result(call.future)
            except NothingPasses as error:
                receipts = self._retried(call, error)
            self._calls.popleft()
            self.passes += _passed(receipts)
            call.done(receipts)

    def close(self) -> None:
        """Does not wait for calls in flight."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _result(self, future: Future[list[Receipt]]) -> list[Receipt]:
        while not wait([future], timeout=1.0).done:
            self._waiting()
        return future.result()

    def _retried(self, failed: _Call, error: NothingPasses) -> list[Receipt]:
        """The receipts of a second try of a call in which no event passed. Raises the error if no other call in flight passed."""
        passed = False
        for call in self._calls:
            with suppress(NothingPasses):
                passed = _passed(self._result(call.future)) or passed
        if passed:
            return self._result(self._pool.submit(self._send, failed.batch, True))
        error.out_of_band = all(call.batch.out_of_band for call in self._calls)
        self._calls.clear()
        raise error

    def _send(self, batch: Batch, others_passed: bool) -> list[Receipt]:
        return send(self._destination, batch, stop=self._abandon, on_trouble=self._on_trouble, others_passed=others_passed)


def _passed(receipts: list[Receipt]) -> bool:
    return any(receipt.reason != "destination_error" for receipt in receipts)
