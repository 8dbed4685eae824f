"""The delivery loop of one destination: segments → events → receipts → checkpoint. The one place that advances a checkpoint."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from cdc_tracker.dead_letters import remake
from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
from cdc_tracker.destinations.batching import split_by_limits
from cdc_tracker.destinations.send import Interrupted, send
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable, StateUnavailable
from cdc_tracker.journal import Journal
from cdc_tracker.model import DELIVERED, START, Batch, Event, Outcome, Position, Receipt, Rejection
from cdc_tracker.parcels import Parcel, pack
from cdc_tracker.settlement import Settlement, refusal
from cdc_tracker.state import Checkpoint, DeadLetter, State
from cdc_tracker.translate import Translator

READ = 4  # segments read at once: some megabytes at most
COMMIT = 0.2  # seconds between commits of the state for a destination that holds its own checkpoint

T = TypeVar("T")
log = structlog.get_logger("deliver")


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
        self._settlement = Settlement(state, source, name, self._checkpoint())
        self._read = self._settlement.position
        self._held = START
        self._trouble, self._state_name = "", "starting"
        self._committed = self._tended = 0.0

    def run(self) -> None:
        try:
            self._begin()
            with self._journal.waiter(self._name) as waiter:
                while not self._stop():
                    if not self._round():
                        self._tend()
                        waiter.wait(COMMIT if self._settlement.pending else 1.0)
            self._settle(0)
            self._commit()
        except Interrupted:
            self._commit()
            log.warning("stopped with events in flight: they go again at the next start", destination=self._name)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._report("stopped")

    # Where to begin.

    def _checkpoint(self) -> Checkpoint:
        """The destination's checkpoint; a new one begins at the journal's end."""
        found = self._state.checkpoint(self._source, self._name)
        if found is None:
            self._state.create_checkpoint(self._source, self._name, self._journal.end() or START)
            log.info("new destination: it begins at the journal's end; `rewind` sends it what came before", name=self._name)
            found = self._state.checkpoint(self._source, self._name)
        if found is None:
            raise StateUnavailable("a checkpoint that was just written cannot be read")
        return found

    def _begin(self) -> None:
        rewind_to = self._checkpoint().rewind_to
        if rewind_to is not None:
            self._rewind(rewind_to)
        elif self._holds is not None:
            self._meet(self._patiently(self._holds.position))

    def _meet(self, held: Position | None) -> None:
        """The destination's own checkpoint says what it has. Past ours: we were killed in between, and do not send that again."""
        if held is None:
            if any(row.delivered for row in self._state.ledger(self._source, self._name)):
                log.warning("the destination is empty although it was sent events before; `rewind` fills it", name=self._name)
        elif held < self._settlement.position and self._lacks(held):
            log.warning("the destination was taken back: it is sent again what it lacks", name=self._name, position=str(held))
            self._state.request_rewind(self._source, self._name, held)
            self._rewind(held)
        self._held = max(held or START, START)

    def _lacks(self, held: Position) -> bool:
        """There are events between what the destination holds and our checkpoint, and the journal still has them all."""
        horizon = self._journal.horizon()
        if horizon is None or held < horizon.start:
            return False
        read, upto = held, self._settlement.position
        while read < upto and (segments := self._journal.read(read, READ)):
            for segment in segments:
                if any(isinstance(made, Event) and made.position <= upto for made in self._translator.made(segment, read)):
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
        self._state.apply_rewind(self._source, self._name)
        self._settlement.begin(self._checkpoint())
        self._read, self._held = self._settlement.position, START
        log.info("rewound", destination=self._name, position=str(to))

    # From the journal to the destination.

    def _round(self) -> bool:
        """Read some segments and send what they became. False when there were none."""
        segments = self._journal.read(self._read, READ)
        for parcel in pack(segments, self._read, self._translator, self._destination.limits):
            if self._stop():
                return True
            self._submit(parcel)
        if segments:
            self._read = segments[-1].last
        if len(segments) < READ:
            self._settle(0)
        if time.monotonic() > self._tended + 1.0:
            self._tend()
        return bool(segments)

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
        self._settlement.totals["troubles"] += 1

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
        self._settlement.take(parcel, receipts)
        if parcel.events:
            self._trouble, self._state_name = "", "delivering"
        at_once = self._settlement.parked or (parcel.events and self._holds is None)
        if at_once or time.monotonic() > self._committed + COMMIT:
            self._commit()

    def _commit(self) -> None:
        """Checkpoint, ledger and dead letters in one transaction. While the state store is away, nothing more is sent."""
        rewind = None
        while self._settlement.pending:
            try:
                rewind = self._settlement.commit()
            except StateUnavailable as error:
                self._on_trouble(error)
                if self._abandon():
                    return
                time.sleep(0.5)
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
            batch = Batch([made], self._settlement.position, aside=f"dead letter {letter.id}")
            receipt = send(self._destination, batch, stop=self._abandon, on_trouble=self._on_trouble)[0]
            made = refusal(made, receipt) if receipt.outcome is Outcome.REJECTED else None
            outcome = receipt.outcome.value
        if isinstance(made, Rejection):
            self._state.repark(letter.id, made)
            return
        counts = {(letter.hour, letter.mapping, outcome): 1} if letter.counted else {}
        self._state.commit(self._source, self._name, self._settlement.position, counts, settled=[letter.id])
        log.info("dead letter settled", destination=self._name, id=letter.id, outcome=outcome)

    def _report(self, state: str) -> None:
        detail = {
            "position": str(self._settlement.position),
            "delivered_until": self._settlement.time,
            "totals": dict(self._settlement.totals),
            "in_flight": len(self._in_flight),
            "trouble": self._trouble,
            "problems": [str(problem) for problem in self._translator.problems[:20]],
        }
        try:
            self._state.report(self._source, f"deliver:{self._name}", os.getpid(), state, detail)
        except StateUnavailable as error:
            log.warning("no report", error=str(error))
