"""Delivering one batch until every event of it has a final receipt: the retries, splits and bisections of every destination."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable, Stop, TooLarge, Unexplained
from cdc_tracker.model import ASSUMED, DELIVERED, START, Batch, Outcome, Position, Receipt
from cdc_tracker.units import format_size

_LOOK = 0.1  # seconds between two looks at `stop` while waiting


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next try, in seconds: at random up to `first`, then up to twice as much each time."""

    first: float = 0.5
    cap: float = 60.0
    blocked: float = 60.0
    longest: float = 3600.0  # what a Retry-After may ask for at most


BACKOFF = Backoff()


class Interrupted(CdcTrackerError):
    """Stopped before every event had a final receipt."""

    def __init__(self, receipts: list[Receipt | None]) -> None:
        """`receipts`: the final ones that there are, None for the events that still need one."""
        super().__init__()
        self.receipts = receipts


def send(
    destination: Destination,
    batch: Batch,
    *,
    stop: Callable[[], bool],
    on_trouble: Callable[[CdcTrackerError], None],
    backoff: Backoff = BACKOFF,
) -> list[Receipt]:
    """Deliver until every event has a final receipt: DELIVERED, ASSUMED or REJECTED. Never gives up.

    - DestinationUnavailable: the same events again, with exponential backoff and full jitter, honouring `retry_after`;
      DestinationBlocked: once a minute.
    - TooLarge: in halves; an event alone is REJECTED `too_large`. One above `limits.event_bytes` is REJECTED
      `event_too_large` without being sent.
    - Unexplained: in halves, until what is refused is alone: REJECTED `refused`.
    - RETRY receipts: those events again, alone; the others keep their receipts.

    `on_trouble` hears of every failure as it happens. Raises Interrupted within about 0.2 s once `stop()` is true (a
    call under way is let finish), and passes on Stop and what is none of ours.

    A batch without events only asks a destination that holds its checkpoint to store `upto`; others are not called.

    A part carries an `upto` that lies before every event that has no receipt yet or was rejected, so that a destination
    which stores it never claims an event whose dead letter could still be lost; nor does `upto` ever move it backwards.
    """
    sending = _Sending(destination, batch, stop, on_trouble, backoff)
    try:
        return sending.run()
    finally:
        sending.forget()


class _Sending:
    def __init__(
        self,
        destination: Destination,
        batch: Batch,
        stop: Callable[[], bool],
        on_trouble: Callable[[CdcTrackerError], None],
        backoff: Backoff,
    ) -> None:
        self._destination = destination
        self._batch = batch
        self._stop = stop
        self._on_trouble = on_trouble
        self._backoff = backoff
        self._exponential = wait_random_exponential(multiplier=backoff.first, max=backoff.cap)
        self._receipts: list[Receipt | None] = [None] * len(batch.events)
        self._first_rejected = len(batch.events)

    def run(self) -> list[Receipt]:
        sendable = self._sendable()
        alone = not self._batch.events and isinstance(self._destination, HoldsCheckpoint)
        parts = [sendable] if sendable or alone else []
        while parts:
            part = parts.pop()
            try:
                self._until_final(part)
            except (TooLarge, Unexplained) as error:
                left = [i for i in part if self._receipts[i] is None]
                if len(left) == 1:
                    code = "too_large" if isinstance(error, TooLarge) else "refused"
                    self._settle(left[0], Receipt(Outcome.REJECTED, code, detail=str(error)))
                else:
                    parts.extend(reversed(self._halves(left)))
        return [receipt for receipt in self._receipts if receipt is not None]

    def forget(self) -> None:
        """Let go of the events: tenacity's call state is a cycle that holds this object until the collector comes by."""
        self._batch = Batch((), START)
        self._receipts = []

    def _sendable(self) -> list[int]:
        """All events but those above the limit, which are rejected here."""
        limit = self._destination.limits.event_bytes
        sizes = [len(event.body) for event in self._batch.events]
        if sizes and max(sizes) > limit:
            for i, size in enumerate(sizes):
                if size > limit:
                    detail = f"the event has {format_size(size)}, and the destination takes {format_size(limit)}"
                    self._settle(i, Receipt(Outcome.REJECTED, "event_too_large", detail=detail))
        return [i for i, receipt in enumerate(self._receipts) if receipt is None]

    def _until_final(self, part: list[int]) -> None:
        retrying = Retrying(
            retry=retry_if_exception_type(DestinationUnavailable), wait=self._wait, sleep=self._sleep, reraise=True
        )
        retrying(self._attempt, part)

    def _attempt(self, part: list[int]) -> None:
        if self._stop():
            raise Interrupted(self._receipts)
        left = [i for i in part if self._receipts[i] is None]
        try:
            receipts = self._destination.deliver(self._part(left))
        except (DestinationUnavailable, TooLarge, Unexplained) as error:
            self._on_trouble(error)
            raise
        if len(receipts) != len(left):
            raise Stop(f"a destination answered {len(receipts)} receipts to {len(left)} events", hint="this is a bug in it")
        if receipts and receipts[0] in (DELIVERED, ASSUMED) and receipts.count(receipts[0]) == len(self._receipts):
            self._receipts = list(receipts)  # the usual case: all of them, and all alike
            return
        retry = [self._settle(i, receipt) for i, receipt in zip(left, receipts, strict=True)].count(False)
        if retry:
            reason = next(receipt.reason for receipt in receipts if receipt.outcome is Outcome.RETRY)
            text = f"{retry} of {len(left)} events were not taken" + (f": {reason}" if reason else "")
            asked = [receipt.retry_after for receipt in receipts if receipt.retry_after is not None]
            trouble = DestinationUnavailable(text, retry_after=max(asked, default=None))
            self._on_trouble(trouble)
            raise trouble

    def _settle(self, i: int, receipt: Receipt) -> bool:
        """Keep a receipt if it is final."""
        if receipt.outcome is Outcome.RETRY:
            return False
        if receipt.outcome is Outcome.REJECTED:
            self._first_rejected = min(self._first_rejected, i)
        self._receipts[i] = receipt
        return True

    def _part(self, left: list[int]) -> Batch:
        events = self._batch.events
        if len(left) == len(events):
            return self._batch
        # Parts go in order, so what has no receipt yet lies in this part or after its end.
        barrier = min(self._first_rejected, left[-1] + 1)
        upto = self._batch.upto if barrier >= len(events) else _before(events[barrier].position)
        if isinstance(self._destination, HoldsCheckpoint):
            upto = max(upto, self._destination.position() or START)
        aside = f"{self._batch.aside} {left[0]}-{left[-1]}" if self._batch.aside else ""
        return Batch([events[i] for i in left], upto, aside, self._batch.history)

    def _halves(self, part: list[int]) -> list[list[int]]:
        """Two parts, cut as near the middle as a border between two changes allows."""
        events = self._batch.events
        borders = [k for k in range(1, len(part)) if events[part[k]].position != events[part[k - 1]].position]
        middle = len(part) // 2
        cut = min(borders, key=lambda k: abs(k - middle), default=middle)
        return [part[:cut], part[cut:]]

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        seconds = self._backoff.blocked if isinstance(error, DestinationBlocked) else self._exponential(state)
        asked = error.retry_after if isinstance(error, DestinationUnavailable) else None
        return max(seconds, min(asked or 0.0, self._backoff.longest))

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stop():
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _LOOK))
        raise Interrupted(self._receipts)


def _before(position: Position) -> Position:
    """The last position that does not include this one."""
    return Position(position.commit_lsn, position.ordinal - 1)
