"""Delivers one batch until each of its events has a final receipt: the retries, splits and bisections of every destination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from cdc_tracker.delivery.batcher import split_by_limits
from cdc_tracker.delivery.faults import Fault, checked, sound
from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
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
from cdc_tracker.times import wait
from cdc_tracker.units import format_size

log = structlog.get_logger("deliver")

_SUSPICIOUS = 20  # events that failed alone, with none that passed: from then on each is sent alone


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait before the next attempt: random, up to `first`, then up to twice as much each time, `cap` at most."""

    first: float = 0.5
    cap: float = 60.0
    blocked: float = 60.0  # after DestinationBlocked
    longest: float = 3600.0  # the largest Retry-After that is honoured


BACKOFF = Backoff()


class Interrupted(CdcTrackerError):
    """Stopped before every event had a final receipt. `receipts` has None for the events without one."""

    def __init__(self, receipts: list[Receipt | None]) -> None:
        super().__init__()
        self.receipts = receipts


class NothingPasses(DestinationBlocked):
    """The destination fails at each event of a batch, sent alone, so it is unknown whether it or the events are at fault."""

    def __init__(self, count: int, fault: Fault) -> None:
        """`count`: the events at which it fails; 0 if it fails at storing a position."""
        what = {0: "storing its position", 1: "the only event of the batch"}.get(count, f"each of {count} events")
        super().__init__(
            f"the destination fails at {what}: {fault.place}",
            hint="Its code, a library or its settings are at fault, or all of these events are: the log has the traceback. "
            "No event is lost or parked. They are sent again, and an event that passes shows which ones are at fault.",
        )
        self.count, self.fault = count, fault
        self.out_of_band = False  # whether all batches in flight were out of band


def send(
    destination: Destination,
    batch: Batch,
    *,
    stop: Callable[[], bool],
    on_trouble: Callable[[CdcTrackerError], None],
    backoff: Backoff = BACKOFF,
    others_passed: bool = False,
) -> list[Receipt]:
    """Delivers until every event has a final receipt: DELIVERED, ASSUMED, SUPPRESSED or REJECTED. Never gives up.

    The batch is sent in as many calls as the destination's limits require, in order.

    - DestinationUnavailable: the same events again, with exponential backoff and full jitter, honouring `retry_after`;
      DestinationBlocked: once a minute.
    - TooLarge: in halves; a single event is REJECTED `too_large`. An event above `limits.event_bytes` is REJECTED
      `event_too_large` and not sent.
    - BatchRejected: in halves, until the refused event is alone: REJECTED `refused`.
    - RETRY receipts: those events again, without the others, which keep their receipts.
    - Any other exception, and an answer without one receipt per event: in halves. An event that fails alone, and alone once more
      after others have passed, is REJECTED `destination_error`. If none passes, raises NothingPasses and rejects nothing, unless
      `others_passed`: events outside of this batch have passed lately.

    `on_trouble` is called with every failure as it happens. Raises Interrupted within about 0.2 s after `stop()` becomes true,
    but not before a call in progress returns. Raises Stop and CheckpointMoved as the destination does.

    A batch without events is sent only to a destination that holds its checkpoint, which then stores `upto`.

    The `upto` of each call is before every event that has no receipt yet or was rejected. So a destination that stores it never
    claims an event whose dead letter could still be lost. `upto` never moves backwards.
    """
    sending = _Sending(destination, batch, stop, on_trouble, backoff)
    try:
        return sending.run(others_passed)
    finally:
        sending.release()


@dataclass
class _Sending:
    destination: Destination
    batch: Batch
    stop: Callable[[], bool]
    on_trouble: Callable[[CdcTrackerError], None]
    backoff: Backoff

    def __post_init__(self) -> None:
        self._exponential = wait_random_exponential(multiplier=self.backoff.first, max=self.backoff.cap)
        self._receipts: list[Receipt | None] = [None] * len(self.batch.events)
        self._passed = False  # the destination has answered for some event
        self._suspects: dict[int, Fault] = {}  # events at which it failed when they were sent alone

    def run(self, others_passed: bool) -> list[Receipt]:
        parts = self._parts()
        while parts:
            part = parts.pop()
            try:
                self._until_final(part)
            except (TooLarge, BatchRejected, Fault) as error:
                left = [i for i in part if self._receipts[i] is None]
                if len(left) > 1:
                    parts.extend(reversed([[i] for i in left] if self._suspicious else self._halves(left)))
                else:
                    self._failed_alone(left, error)
        if self._suspects:
            self._retry_suspects(others_passed)
        return [receipt for receipt in self._receipts if receipt is not None]

    @property
    def _suspicious(self) -> bool:
        """Whether so many events failed alone, and none passed, that halving would only send each of them many times."""
        return len(self._suspects) >= _SUSPICIOUS and not self._passed

    def _parts(self) -> list[list[int]]:
        """The indexes of the events of each call; the first call is last."""
        sendable = self._sendable()
        events = self.batch.events
        if not sendable:
            alone = not events and isinstance(self.destination, HoldsCheckpoint)
            return [[]] if alone else []
        calls = split_by_limits([events[i] for i in sendable] if len(sendable) < len(events) else events, self.destination.limits)
        if len(calls) == 1:
            return [sendable]
        places = iter(sendable)
        return [list(islice(places, len(call))) for call in calls][::-1]

    def _failed_alone(self, left: list[int], error: TooLarge | BatchRejected | Fault) -> None:
        """Records that a call with one event, or with none, has failed."""
        if isinstance(error, Fault):
            if not left:
                raise NothingPasses(0, error)
            self._suspects[left[0]] = error
        else:
            code = "too_large" if isinstance(error, TooLarge) else "refused"
            self._receipts[left[0]] = Receipt(Outcome.REJECTED, code, detail=str(error))
            self._passed = True

    def _retry_suspects(self, others_passed: bool) -> None:
        """Rejects the events that fail alone once more, now that others have passed: a passing fault is over by then."""
        suspects, self._suspects = self._suspects, {}
        if not (self._passed or others_passed):
            raise NothingPasses(len(suspects), next(iter(suspects.values())))
        logged: set[str] = set()
        for i in sorted(suspects):
            try:
                self._until_final([i])
            except (TooLarge, BatchRejected) as error:
                self._failed_alone([i], error)
            except Fault as fault:
                detail = f"the destination failed at this event: {fault.place}"
                self._receipts[i] = Receipt(Outcome.REJECTED, "destination_error", detail=detail)
                if fault.place not in logged:
                    logged.add(fault.place)
                    event = self.batch.events[i]
                    log.error(
                        "the destination fails at an event; the event is parked",
                        mapping=event.mapping,
                        position=str(event.position),
                        error=fault.place,
                        traceback=fault.trace,
                    )

    def release(self) -> None:
        """Drops the events: tenacity's call state is a reference cycle that keeps this object until the next collection."""
        self.batch = Batch((), START)
        self._receipts = []

    def _sendable(self) -> list[int]:
        """The indexes of all events but those above the limit, which are rejected here."""
        limit = self.destination.limits.event_bytes
        sizes = [len(event.body) for event in self.batch.events]
        if sizes and max(sizes) > limit:
            for i, size in enumerate(sizes):
                if size > limit:
                    detail = f"the event has {format_size(size)}, and the destination takes {format_size(limit)} at most"
                    self._receipts[i] = Receipt(Outcome.REJECTED, "event_too_large", detail=detail)
        return [i for i, receipt in enumerate(self._receipts) if receipt is None]

    def _until_final(self, part: list[int]) -> None:
        """Sends a part until each of its events has a final receipt. Raises what splitting it may resolve."""
        retrying = Retrying(
            retry=retry_if_exception_type(DestinationUnavailable), wait=self._wait, sleep=self._sleep, reraise=True
        )
        retrying(self._attempt, part)

    def _attempt(self, part: list[int]) -> None:
        if self.stop():
            raise Interrupted(self._receipts)
        left = [i for i in part if self._receipts[i] is None]
        try:
            with sound():
                receipts = checked(self.destination.deliver(self._part(left)), len(left))
        except (DestinationUnavailable, TooLarge, BatchRejected) as error:
            self.on_trouble(error)
            raise
        except (Stop, CheckpointMoved):  # no event is at fault
            raise
        except BaseException as error:  # a library may raise anything: SystemExit, KeyboardInterrupt, a Rust panic
            raise Fault(error) from None
        self._passed = True
        if receipts and receipts[0] in (DELIVERED, ASSUMED) and receipts.count(receipts[0]) == len(self._receipts):
            self._receipts = list(receipts)  # fast path: the whole batch, with equal receipts
            return
        for i, receipt in zip(left, receipts, strict=True):
            if receipt.outcome is not Outcome.RETRY:
                self._receipts[i] = receipt
        if retry := [receipt for receipt in receipts if receipt.outcome is Outcome.RETRY]:
            text = f"{len(retry)} of {len(left)} events were not taken" + (f": {retry[0].reason}" if retry[0].reason else "")
            asked = [receipt.retry_after for receipt in retry if receipt.retry_after is not None]
            failure = DestinationUnavailable(text, retry_after=max(asked, default=None))
            self.on_trouble(failure)
            raise failure

    def _part(self, left: list[int]) -> Batch:
        """The batch of a call. Its `upto` is before every other event that is pending or rejected."""
        events = self.batch.events
        if len(left) == len(events):
            return self.batch
        sent = set(left)
        pending = (i for i, receipt in enumerate(self._receipts) if _holds_back(receipt) and i not in sent)
        barrier = next(pending, None)
        upto = self.batch.upto if barrier is None else before(events[barrier].position)
        if isinstance(self.destination, HoldsCheckpoint):
            upto = max(upto, self.destination.position() or START)
        out_of_band = f"{self.batch.out_of_band} {left[0]}-{left[-1]}" if self.batch.out_of_band else ""
        return Batch([events[i] for i in left], upto, out_of_band, self.batch.history)

    def _halves(self, part: list[int]) -> list[list[int]]:
        """Two parts, divided between two changes as near to the middle as possible."""
        events = self.batch.events
        borders = [k for k in range(1, len(part)) if events[part[k]].position != events[part[k - 1]].position]
        middle = len(part) // 2
        cut = min(borders, key=lambda k: abs(k - middle), default=middle)
        return [part[:cut], part[cut:]]

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        seconds = self.backoff.blocked if isinstance(error, DestinationBlocked) else self._exponential(state)
        asked = error.retry_after if isinstance(error, DestinationUnavailable) else None
        return max(seconds, min(asked or 0.0, self.backoff.longest))

    def _sleep(self, seconds: float) -> None:
        """Returns early when `stop()` is true; the next attempt then raises Interrupted."""
        wait(seconds, self.stop)


def _holds_back(receipt: Receipt | None) -> bool:
    """Whether no position may pass the event: it is pending, or its dead letter is not stored yet."""
    return receipt is None or receipt.outcome is Outcome.REJECTED


def before(position: Position) -> Position:
    """The position just before this one."""
    return Position(position.commit_lsn, position.ordinal - 1)
