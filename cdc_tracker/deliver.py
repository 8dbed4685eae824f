"""The delivery loop of one destination: segments → events → receipts → checkpoint. The one place that advances a checkpoint."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from cdc_tracker.dead_letters import park, remake
from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
from cdc_tracker.destinations.batching import split_by_limits
from cdc_tracker.destinations.send import Interrupted, send
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable, StateUnavailable
from cdc_tracker.journal import Journal
from cdc_tracker.model import DELIVERED, START, Batch, Event, Outcome, Position, Receipt, Rejection, Segment
from cdc_tracker.state import DeadLetter, State
from cdc_tracker.translate import Translator

READ = 4  # segments read at once: some megabytes at most
KEEP = 16  # segments that one parcel may hold
COMMIT = 0.2  # seconds between commits of the state for a destination that holds its own checkpoint
HOUR = 3_600_000_000

T = TypeVar("T")
log = structlog.get_logger("deliver")


@dataclass
class Parcel:
    """What is sent, and then committed, together: all that the changes up to `upto` became."""

    upto: Position
    events: list[Event] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)  # those that the events and rejections came from
    size: int = 0  # bytes of the events' bodies
    time: int = 0  # commit time of the last change, microseconds since the Unix epoch


class Delivery:
    """`run` returns when `stop()` is true and what was in flight is settled, or `abandon()` is true."""

    def __init__(
        self,
        *,
        source: str,
        name: str,
        destination: Destination,
        translator: Callable[[], Translator],
        journal: Journal,
        state: State,
        stop: Callable[[], bool],
        abandon: Callable[[], bool],
        reload: Callable[[], bool],
    ) -> None:
        self._source, self._name = source, name
        self._destination = destination
        self._holds = destination if isinstance(destination, HoldsCheckpoint) else None
        self._make_translator = translator
        self._translator = translator()
        self._journal, self._state = journal, state
        self._stop, self._abandon, self._reload = stop, abandon, reload
        self._in_flight: deque[tuple[Parcel, Future[list[Receipt]]]] = deque()
        self._width = 1 if self._holds else destination.limits.in_flight
        self._pool = ThreadPoolExecutor(self._width, thread_name_prefix=name)
        self._counts: Counter[tuple[int, str, str]] = Counter()
        self._letters: list[DeadLetter] = []
        self._settled: list[int] = []
        self._totals: Counter[str] = Counter()
        self._trouble, self._state_name = "", "starting"
        self._time = 0
        self._committed = self._tended = 0.0

    def run(self) -> None:
        try:
            self._begin()
            with self._journal.waiter(self._name) as waiter:
                while not self._stop():
                    if not self._round():
                        self._tend()
                        waiter.wait(0.2 if self._position != self._stored else 1.0)
            self._settle(0)
            self._commit()
        except Interrupted:
            self._commit()
            log.warning("stopped with events in flight: they go again at the next start", destination=self._name)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._report("stopped")

    # Where to begin.

    def _begin(self) -> None:
        checkpoint = self._state.checkpoint(self._source, self._name)
        if checkpoint is None:
            self._state.create_checkpoint(self._source, self._name, self._journal.end() or START)
            log.info(
                "new destination: it starts at the journal's end; `rewind` sends it what came before", destination=self._name
            )
            checkpoint = self._state.checkpoint(self._source, self._name)
        if checkpoint is None:
            raise StateUnavailable("a checkpoint that was just written cannot be read")
        self._position = self._stored = self._read = checkpoint.position
        self._high = checkpoint.high
        self._held = START
        if checkpoint.rewind_to is not None:
            self._rewind(checkpoint.rewind_to)
        elif self._holds is not None:
            self._meet(self._patiently(self._holds.position))

    def _meet(self, held: Position | None) -> None:
        """The destination's own checkpoint says what it has. Past ours: we were killed in between, and do not send that again."""
        if held is None:
            if self._state.ledger(self._source, self._name):
                log.warning("the destination is empty although it was sent events before; `rewind` fills it", name=self._name)
        elif held < self._position and self._lacks(held):
            log.warning("the destination was taken back: it is sent again what it lacks", name=self._name, position=str(held))
            self._state.request_rewind(self._source, self._name, held)
            self._rewind(held)
        self._held = max(held or START, START)

    def _lacks(self, held: Position) -> bool:
        """There are events between what the destination holds and our checkpoint, and the journal still has them all."""
        horizon = self._journal.horizon()
        if horizon is None or held < horizon.start:
            return False
        read = held
        while read < self._position and (segments := self._journal.read(read, READ)):
            for segment in segments:
                if any(
                    isinstance(made, Event) and made.position <= self._position for made in self._translator.made(segment, read)
                ):
                    return True
                read = segment.last
        return False

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call until the destination answers: one that is away must not end the role."""
        retrying = Retrying(
            retry=retry_if_exception_type(DestinationUnavailable), wait=wait_random_exponential(max=30.0), sleep=self._pause
        )
        for attempt in retrying:
            with attempt:
                try:
                    return call()
                except DestinationUnavailable as error:
                    self._on_trouble(error)
                    self._report(self._state_name)
                    raise
        raise Interrupted([])

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._stop():
                raise Interrupted([])
            time.sleep(0.1)

    def _rewind(self, to: Position) -> None:
        self._settle(0)
        self._commit()
        if self._holds is not None:
            self._patiently(partial(self._holds.rewind, to))
        self._position = self._stored = self._read = self._state.apply_rewind(self._source, self._name)
        self._held = START
        log.info("rewound", destination=self._name, position=str(to))

    # From the journal to the destination.

    def _round(self) -> bool:
        """Read some segments and send what they became. False when there were none."""
        segments = self._journal.read(self._read, READ)
        for parcel in self._parcels(segments):
            if self._stop():
                return True
            self._submit(parcel)
        if len(segments) < READ:
            self._settle(0)
        if time.monotonic() > self._tended + 1.0:
            self._tend()
        return bool(segments)

    def _parcels(self, segments: Sequence[Segment]) -> Iterator[Parcel]:
        """Parcels within the destination's limits, each ending between two changes."""
        limits = self._destination.limits
        parcel = Parcel(self._read)
        for segment in segments:
            before, seen = self._read, len(parcel.events) + len(parcel.rejections)
            for made in self._translator.made(segment, self._read):
                if isinstance(made, Event):
                    size = len(made.body) + 1
                    full = len(parcel.events) >= limits.events or parcel.size + size > limits.batch_bytes
                    if full and parcel.events and made.position != parcel.events[-1].position:
                        parcel.upto = before
                        parcel.segments.append(segment)
                        yield parcel
                        parcel, seen = Parcel(before), 0
                    parcel.events.append(made)
                    parcel.size += size
                else:
                    parcel.rejections.append(made)
                before = made.position
            if len(parcel.events) + len(parcel.rejections) > seen:
                parcel.segments.append(segment)
            self._read = parcel.upto = segment.last
            parcel.time = segment.last_time
            if len(parcel.segments) >= KEEP:
                yield parcel
                parcel = Parcel(self._read)
        yield parcel

    def _submit(self, parcel: Parcel) -> None:
        self._settle(self._width - 1)
        self._in_flight.append((parcel, self._pool.submit(self._send, parcel)))

    def _send(self, parcel: Parcel) -> list[Receipt]:
        held = self._held
        have = (
            sum(event.position <= held for event in parcel.events) if parcel.events and parcel.events[0].position <= held else 0
        )
        receipts = [DELIVERED] * have
        parts = split_by_limits(parcel.events[have:] if have else parcel.events, self._destination.limits)
        for number, part in enumerate(parts, 1):
            upto = parcel.upto if number == len(parts) else Position(part[-1].position.commit_lsn, part[-1].position.ordinal - 1)
            batch = Batch(part, max(upto, held))
            receipts += send(self._destination, batch, stop=self._abandon, on_trouble=self._on_trouble)
        return receipts

    def _on_trouble(self, error: CdcTrackerError) -> None:
        self._state_name = "blocked" if isinstance(error, DestinationBlocked) else "retrying"
        self._trouble = str(error)
        log.warning("not delivered yet", destination=self._name, state=self._state_name, error=str(error), hint=error.hint)
        self._totals["troubles"] += 1

    # From receipts to the checkpoint.

    def _settle(self, leave: int) -> None:
        """Wait until at most `leave` parcels are in flight, and take in those that are done."""
        while self._in_flight and (len(self._in_flight) > leave or self._in_flight[0][1].done()):
            parcel, future = self._in_flight[0]
            while not wait([future], timeout=1.0).done:
                self._report(self._state_name)
            receipts = future.result()
            self._in_flight.popleft()
            self._take(parcel, receipts)

    def _take(self, parcel: Parcel, receipts: list[Receipt]) -> None:
        refused = [
            _refusal(event, receipt)
            for event, receipt in zip(parcel.events, receipts, strict=True)
            if receipt.outcome is Outcome.REJECTED
        ]
        self._tally(parcel.events, receipts)
        self._unpark(parcel.events, receipts)
        for rejection in parcel.rejections:
            self._count(rejection, "rejected")
        self._letters += park(self._source, self._name, parcel.segments, [*parcel.rejections, *refused], self._high)
        self._position = parcel.upto
        self._time = parcel.time or self._time
        if parcel.events:
            self._trouble, self._state_name = "", "delivering"
        if self._holds is None or self._letters or time.monotonic() > self._committed + COMMIT:
            self._commit()

    def _tally(self, events: Sequence[Event], receipts: Sequence[Receipt]) -> None:
        if events and receipts.count(receipts[0]) == len(receipts) and events[0].position > self._high:
            outcome = receipts[0].outcome.value
            for (hour, mapping), number in Counter([(event.committed_at // HOUR, event.mapping) for event in events]).items():
                self._counts[hour, mapping, "matched"] += number
                self._counts[hour, mapping, outcome] += number
            self._totals[outcome] += len(events)
            return
        for event, receipt in zip(events, receipts, strict=True):
            self._count(event, receipt.outcome.value)

    def _unpark(self, events: Sequence[Event], receipts: Sequence[Receipt]) -> None:
        """Events that were parked before, and went through now that history goes again: their dead letters are settled."""
        if not events or events[0].position > self._high:
            return
        done = {
            (event.mapping, event.position): receipt.outcome.value
            for event, receipt in zip(events, receipts, strict=True)
            if receipt.outcome is not Outcome.REJECTED
        }
        for letter in self._state.dead_letters_between(self._source, self._name, events[0].position, events[-1].position):
            outcome = done.get((letter.mapping, letter.position))
            if outcome is not None:
                self._settled.append(letter.id)
                if letter.counted:
                    self._counts[letter.hour, letter.mapping, "replayed"] -= 1
                    self._counts[letter.hour, letter.mapping, outcome] += 1

    def _count(self, made: Event | Rejection, outcome: str) -> None:
        hour = made.committed_at // HOUR
        self._totals[outcome] += 1
        if made.position <= self._high:  # history that goes again after a rewind
            self._counts[hour, made.mapping, "replayed"] += 1
        else:
            self._counts[hour, made.mapping, "matched"] += 1
            self._counts[hour, made.mapping, outcome] += 1

    def _commit(self) -> None:
        """Checkpoint, ledger and dead letters in one transaction. While the state store is away, nothing more is sent."""
        if self._position == self._stored and not self._counts and not self._letters:
            return
        while True:
            try:
                rewind = self._state.commit(self._source, self._name, self._position, self._counts, self._letters, self._settled)
                break
            except StateUnavailable as error:
                self._on_trouble(error)
                if self._abandon():
                    return
                time.sleep(0.5)
        self._stored = self._position
        self._high = max(self._high, self._position)
        self._counts.clear()
        self._letters.clear()
        self._settled.clear()
        self._committed = time.monotonic()
        if rewind is not None:
            self._tended = 0.0  # between two rounds: what this one has read and not sent yet must not move the checkpoint forward

    # Now and then.

    def _tend(self) -> None:
        """Once a second: reload, rewinds asked for, dead letters to send again, the report."""
        if time.monotonic() < self._tended + 1.0:
            if time.monotonic() > self._committed + COMMIT:
                self._commit()
            return
        self._tended = time.monotonic()
        if self._reload():
            self._translator = self._make_translator()
        self._settle(0)
        self._commit()
        checkpoint = self._state.checkpoint(self._source, self._name)
        if checkpoint is not None and checkpoint.rewind_to is not None:
            self._rewind(checkpoint.rewind_to)
        self._retry_letters()
        self._report("idle" if self._state_name in ("starting", "delivering") and not self._trouble else self._state_name)

    def _retry_letters(self) -> None:
        """Dead letters that a person has queued: made anew with the mappings as they are now, and sent."""
        for letter in self._state.queued(self._source, self._name, limit=100):
            if self._stop():
                return
            self._retry_letter(letter)

    def _retry_letter(self, letter: DeadLetter) -> None:
        made = remake(letter, self._translator)
        outcome = "suppressed"  # its mapping leaves it out by now
        if isinstance(made, Event):
            batch = Batch([made], self._position)
            receipt = send(self._destination, batch, stop=self._abandon, on_trouble=self._on_trouble)[0]
            made = _refusal(made, receipt) if receipt.outcome is Outcome.REJECTED else None
            outcome = receipt.outcome.value
        if isinstance(made, Rejection):
            self._state.repark(letter.id, made)
            return
        counts = {(letter.hour, letter.mapping, outcome): 1} if letter.counted else {}
        self._state.commit(self._source, self._name, self._position, counts, settled=[letter.id])
        log.info("dead letter settled", destination=self._name, id=letter.id, outcome=outcome)

    def _report(self, state: str) -> None:
        detail = {
            "position": str(self._position),
            "delivered_until": self._time,
            "totals": dict(self._totals),
            "in_flight": len(self._in_flight),
            "trouble": self._trouble,
            "problems": [str(problem) for problem in self._translator.problems[:20]],
        }
        try:
            self._state.report(self._source, f"deliver:{self._name}", os.getpid(), state, detail)
        except StateUnavailable as error:
            log.warning("no report", error=str(error))


def _refusal(event: Event, receipt: Receipt) -> Rejection:
    """The destination's refusal of an event, as a rejection."""
    return Rejection(
        reason=receipt.reason,
        mapping=event.mapping,
        position=event.position,
        committed_at=event.committed_at,
        field=receipt.field,
        detail=receipt.detail,
        event_id=event.message_id,
    )
