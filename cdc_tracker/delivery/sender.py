"""Delivering one batch until every event of it has a final receipt: the retries, splits and bisections of every destination."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from cdc_tracker.delivery.batching import split_by_limits
from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
from cdc_tracker.destinations.support.faults import Fault, checked, sound
from cdc_tracker.errors import (
    BatchRejected,
    CdcTrackerError,
    CheckpointMoved,
    DestinationBlocked,
    DestinationUnavailable,
    Stop,
    TooLarge,
)
from cdc_tracker.model import ASSUMED, DELIVERED, START, Batch, Outcome, Position, Receipt
from cdc_tracker.units import format_size

log = structlog.get_logger("deliver")

_LOOK = 0.1  # seconds between two looks at `stop` while waiting
_DOUBTFUL = 20  # events


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


class NothingPasses(DestinationBlocked):
    """The destination fails at every event of a batch, each alone: so it does not show whether the events are at fault."""

    def __init__(self, count: int, fault: Fault) -> None:
        what = {0: "storing its position", 1: "the only event that there is"}.get(count, f"every one of {count} events")
        super().__init__(
            f"the destination fails at {what}: {fault.place}",
            hint="its code, a library or its settings are at fault, or all these events are: the log has the traceback. "
            "Nothing of them is lost or parked; they are tried again, and one that passes shows which are at fault",
        )
        self.count, self.fault = count, fault
        self.out_of_band = False  # only events that go beside the stream were in flight


def send(
    destination: Destination,
    batch: Batch,
    *,
    stop: Callable[[], bool],
    on_trouble: Callable[[CdcTrackerError], None],
    backoff: Backoff = BACKOFF,
    vouched: bool = False,
) -> list[Receipt]:
    """Deliver until every event has a final receipt: DELIVERED, ASSUMED, SUPPRESSED or REJECTED. Never gives up.

    The batch goes in as many calls as the destination's limits ask for, in order.

    - DestinationUnavailable: the same events again, with exponential backoff and full jitter, honouring `retry_after`;
      DestinationBlocked: once a minute.
    - TooLarge: in halves; an event alone is REJECTED `too_large`. One above `limits.event_bytes` is REJECTED
      `event_too_large` without being sent.
    - BatchRejected: in halves, until what is refused is alone: REJECTED `refused`.
    - RETRY receipts: those events again, alone; the others keep their receipts.
    - Whatever else it raises, and an answer that is not one receipt an event: in halves. An event that fails alone, and alone
      once more after others have passed, is REJECTED `destination_error`. Where none passes, NothingPasses is raised and
      nothing is rejected, unless it is `vouched` for: events that are none of the batch's have passed.

    `on_trouble` hears of every failure as it happens. Raises Interrupted within about 0.2 s once `stop()` is true (a
    call under way is let finish), and passes on Stop.

    A batch without events only asks a destination that holds its checkpoint to store `upto`; others are not called.

    A part carries an `upto` that lies before every event that has no receipt yet or was rejected, so that a destination
    which stores it never claims an event whose dead letter could still be lost; nor does `upto` ever move it backwards.
    """
    sending = _Sending(destination, batch, stop, on_trouble, backoff)
    try:
        return sending.run(vouched)
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
        self._passed = False  # the destination has answered for an event
        self._suspects: dict[int, Fault] = {}  # events that it has failed at alone

    def run(self, vouched: bool) -> list[Receipt]:
        parts = self._parts()
        while parts:
            part = parts.pop()
            try:
                self._until_final(part)
            except (TooLarge, BatchRejected, Fault) as error:
                left = [i for i in part if self._receipts[i] is None]
                if len(left) > 1:
                    parts.extend(reversed([[i] for i in left] if self._doubtful else self._halves(left)))
                else:
                    self._alone(left, error)
        if self._suspects:
            self._judge(vouched)
        return [receipt for receipt in self._receipts if receipt is not None]

    @property
    def _doubtful(self) -> bool:
        """So many events have failed alone, and none has passed, that halves would only send each of them many times."""
        return len(self._suspects) >= _DOUBTFUL and not self._passed

    def _parts(self) -> list[list[int]]:
        """What can be sent, in calls, the first one last."""
        sendable = self._sendable()
        events = self._batch.events
        if not sendable:
            alone = not events and isinstance(self._destination, HoldsCheckpoint)
            return [[]] if alone else []
        calls = split_by_limits(
            [events[i] for i in sendable] if len(sendable) < len(events) else events, self._destination.limits
        )
        if len(calls) == 1:
            return [sendable]
        places = iter(sendable)
        return [list(islice(places, len(call))) for call in calls][::-1]

    def _alone(self, left: list[int], error: TooLarge | BatchRejected | Fault) -> None:
        """A call with one event, or with none, has failed."""
        if isinstance(error, Fault):
            if not left:
                raise NothingPasses(0, error)
            self._suspects[left[0]] = error
        else:
            code = "too_large" if isinstance(error, TooLarge) else "refused"
            self._settle(left[0], Receipt(Outcome.REJECTED, code, detail=str(error)))
            self._passed = True

    def _judge(self, vouched: bool) -> None:
        """An event that fails again alone, when others have passed, is at fault; a fault that was passing has gone by then."""
        suspects, self._suspects = self._suspects, {}
        if not (self._passed or vouched):
            raise NothingPasses(len(suspects), next(iter(suspects.values())))
        told: set[str] = set()
        for i in sorted(suspects):
            try:
                self._until_final([i])
            except (TooLarge, BatchRejected) as error:
                self._alone([i], error)
            except Fault as fault:
                detail = f"the destination failed at this event: {fault.place}"
                self._settle(i, Receipt(Outcome.REJECTED, "destination_error", detail=detail))
                if fault.place not in told:
                    told.add(fault.place)
                    event = self._batch.events[i]
                    log.error(
                        "the destination fails at an event, which is parked",
                        mapping=event.mapping,
                        position=str(event.position),
                        error=fault.place,
                        traceback=fault.trace,
                    )

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
            with sound():
                receipts = checked(self._destination.deliver(self._part(left)), len(left))
        except (DestinationUnavailable, TooLarge, BatchRejected) as error:
            self._on_trouble(error)
            raise
        except (Stop, CheckpointMoved):  # none of them is an event's
            raise
        except BaseException as error:  # a library may raise anything: SystemExit, KeyboardInterrupt, a panic of Rust
            raise Fault(error) from None
        self._passed = True
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
        self._receipts[i] = receipt
        return True

    def _part(self, left: list[int]) -> Batch:
        events = self._batch.events
        if len(left) == len(events):
            return self._batch
        ours = set(left)
        pending = (i for i, receipt in enumerate(self._receipts) if _holds_back(receipt) and i not in ours)
        barrier = next(pending, None)
        upto = self._batch.upto if barrier is None else before(events[barrier].position)
        if isinstance(self._destination, HoldsCheckpoint):
            upto = max(upto, self._destination.position() or START)
        out_of_band = f"{self._batch.out_of_band} {left[0]}-{left[-1]}" if self._batch.out_of_band else ""
        return Batch([events[i] for i in left], upto, out_of_band, self._batch.history)

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


def _holds_back(receipt: Receipt | None) -> bool:
    """No position may pass the event: it is not dealt with, or its dead letter is not stored."""
    return receipt is None or receipt.outcome is Outcome.REJECTED


def before(position: Position) -> Position:
    """The last position that does not include this one."""
    return Position(position.commit_lsn, position.ordinal - 1)
