"""The delivery loop of one destination: segments of the journal → events → receipts → checkpoint.

The process of the role `deliver:NAME` calls `Delivery.run` once, from its main thread. Only this loop moves the checkpoint.
Each turn of the loop, in order of priority:

1. the stream: read some segments, batch their events, and submit the batches. Waits while as many calls as the destination allows
   are in flight;
2. dead letters that were queued to be sent again, then the job at work: one small step. While the stream has events, they rest
   twice as long as they worked; a job also waits while the journal holds more than was read;
3. upkeep, once a second: commit, reload, a requested rewind, the next job, the report;
4. without work, wait for the journal to grow, for at most a second.

Calls are accounted for in the order in which they were submitted, and then committed. While the state store is unavailable,
nothing more is sent; while the destination is unavailable, its call is retried. Memory is bounded by the destination's limits for
a batch, times the calls in flight, and by READ and KEEP segments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog

from cdc_tracker.delivery.batcher import KEEP, PendingBatch, pack
from cdc_tracker.delivery.circuit_breaker import LOOKAHEAD, CircuitBreaker
from cdc_tracker.delivery.dispatcher import Dispatcher
from cdc_tracker.delivery.jobs.retries import QueuedLetters
from cdc_tracker.delivery.jobs.runner import Jobs
from cdc_tracker.delivery.mapping_versions import MappingVersions
from cdc_tracker.delivery.progress import Progress
from cdc_tracker.delivery.report import DeliveryReporter
from cdc_tracker.delivery.sender import Interrupted, NothingPasses
from cdc_tracker.delivery.sent_ledger import SentLedger, suppress_already_sent
from cdc_tracker.destinations.base import Cursor, Destination
from cdc_tracker.errors import CdcTrackerError, CheckpointMoved, DestinationUnavailable, Retry
from cdc_tracker.journal import Journal
from cdc_tracker.model import DELIVERED, Outcome, Receipt
from cdc_tracker.state import State

READ = 4  # segments read at once: some megabytes at most
LARGE = 20_000  # events of a call; for a destination that takes as many, KEEP segments are read at once
COMMIT = 0.2  # seconds between commits of the state for a destination that holds its own checkpoint
LOOK = 0.005  # seconds between two looks at a job that waits for something
LIVELY = 1.0  # seconds after its last event for which the stream counts as busy

log = structlog.get_logger("deliver")


class Delivery:
    """The loop, with what it keeps between two turns."""

    def __init__(
        self,
        *,
        cursor: Cursor,
        destination: Destination,
        dry_run: bool,
        mappings: MappingVersions,
        journal: Journal,
        state: State,
        jobs: Jobs,
        sent_ledger: float | None,
        stop: Callable[[], bool],
        abandon: Callable[[], bool],
        reload: Callable[[], bool],
    ) -> None:
        """The state store has a checkpoint of the destination. Raises StateUnavailable if it cannot be read.

        `dry_run`: the pipeline suppresses every event, and `destination` is a stand-in for the real one.
        `sent_ledger`: seconds to keep the ids of sent events; None: they are not kept.
        """
        source, name, keep_ids = cursor.source, cursor.name, sent_ledger is not None
        self._source, self._name = source, name
        self._destination, self._dry_run, self._mappings = destination, dry_run, mappings
        self._journal, self._state, self._jobs = journal, state, jobs
        self._stop, self._abandon, self._reload = stop, abandon, reload
        self._report = DeliveryReporter(state, source, name)
        self._progress = Progress(
            state=state,
            journal=journal,
            cursor=cursor,
            destination=destination,
            mappings=mappings,
            report=self._report,
            keep_ids=keep_ids,
            stop=stop,
            abandon=abandon,
            on_trouble=self._on_trouble,
            waiting=self._write_report,
        )
        self._accounting = self._progress.accounting
        self._sent_ledger = SentLedger(state, source, name, sent_ledger)
        self._dispatcher = Dispatcher(name, destination, abandon=abandon, on_trouble=self._on_trouble, waiting=self._wait)
        persist = self._progress.persist
        self._letters = QueuedLetters(
            state, source, name, destination.limits, self._dispatcher, keep_ids=keep_ids, persist=persist
        )
        self._breaker = CircuitBreaker()
        self._at_once = KEEP if destination.limits.events >= LARGE else READ
        self._behind = False  # the journal holds more than was read in the last turn
        self._passes = 0  # calls that had passed at the last trouble
        self._committed = self._kept_up = 0.0  # when (time.monotonic)
        self._lively = self._rested = 0.0  # when the stream last had events; until when dead letters and jobs rest

    def run(self) -> None:
        """Returns when `stop()` is true and the calls in flight are accounted for and committed, or `abandon()` is true.

        Raises CheckpointMoved, Retry, and any error that needs a restart or a user.
        """
        try:
            self._start()
            with self._journal.waiter(self._name) as waiter:
                grown = True  # the journal may hold more than was read
                while not self._stop():
                    try:
                        busy = grown and self._stream()
                        worked = self._step_beside()
                        if not busy:
                            self._keep_up()
                        if not busy and not worked:
                            waiter.wait(self._pause())
                        self._dispatcher.settle(len(self._dispatcher))
                        grown = not worked or waiter.wait(0)
                    except NothingPasses as error:
                        self._go_back(error)
                        grown = True
            self._dispatcher.settle(0)
            self._jobs.settled()
            self._commit()
        except (Interrupted, NothingPasses):
            self._commit()
            log.warning("stopped with events in flight: they will be redelivered on restart", destination=self._name)
        except CheckpointMoved:
            self._report.moved = True
            raise
        except Retry:  # a store is unavailable: what was sent is waited for and stored, or it would be sent again
            with suppress(Interrupted, NothingPasses):
                self._dispatcher.settle(0)
            self._commit()
            raise
        finally:
            self._jobs.close()
            self._dispatcher.close()
            self._report.enter("stopped", self._report.trouble, self._report.hint)
            self._write_report()

    def _start(self) -> None:
        self._sent_ledger.begin()
        self._progress.start()
        self._report.ran_dry, self._report.moved = self._dry_run, False
        if not self._dry_run:
            self._letters.finish(self._mappings.of_last_run)
        self._progress.record_mappings()

    # The stream: from the journal to the destination.

    def _stream(self) -> bool:
        """Reads some segments and submits their events. False: there are none, or the destination is left alone for now."""
        progress = self._progress
        if self._breaker.is_open():
            return False
        if progress.unrecorded:
            self._dispatcher.settle(0)
            self._commit()
            progress.record_mappings()
        if self._breaker.failures:
            segments, keep = self._breaker.segments(self._journal, progress.read), LOOKAHEAD
        else:
            segments, keep = self._journal.read(progress.read, self._at_once), KEEP
        if segments:
            limits = self._breaker.limits(self._destination.limits)
            for batch in pack(segments, progress.read, progress.results, limits, keep):
                if self._stop():
                    return True
                self._submit(batch)
            progress.read = segments[-1].last
        self._behind = len(segments) == self._at_once
        if not (self._behind or self._jobs.active or self._letters.active):
            self._dispatcher.settle(0)
        if time.monotonic() > self._kept_up + 1.0:
            self._keep_up()
        return bool(segments)

    def _submit(self, batch: PendingBatch) -> None:
        """Submits the events that the destination does not have yet."""
        self._jobs.note(batch.events)
        self._lively = time.monotonic() if batch.events else self._lively
        history = bool(batch.events) and batch.events[0].position <= self._accounting.high
        if history and self._progress.only_missing:
            suppress_already_sent(batch, self._state, self._source, self._name)
        events, held = batch.events, self._progress.held
        have = sum(event.position <= held for event in events) if events and events[0].position <= held else 0
        left = events[have:] if have else events
        others_passed = self._breaker.others_passed(len(left), self._dispatcher.passes)
        done = partial(self._account, batch, have)
        self._dispatcher.submit(left, batch.upto, done, least=held, history=history, others_passed=others_passed)

    def _account(self, batch: PendingBatch, have: int, receipts: list[Receipt]) -> None:
        """Takes the receipts of a batch; the destination had the first `have` events before."""
        self._accounting.take(batch, [DELIVERED] * have + receipts)
        if batch.events:
            self._report.enter("delivering")
        if receipts:
            self._breaker.reset()
        at_once = self._accounting.parked or (batch.events and self._progress.holder is None)
        if at_once or time.monotonic() > self._committed + COMMIT:
            self._commit()
        all_delivered = receipts.count(DELIVERED) == len(receipts)  # fast path: compares whole lists instead of single receipts
        if self._progress.holder is not None and not all_delivered and any(each.outcome is Outcome.REJECTED for each in receipts):
            # The destination stored a position before the first rejected event, whose dead letter is committed only now.
            self._dispatcher.submit((), batch.upto, lambda _: None, store=True)

    def _go_back(self, error: NothingPasses) -> None:
        """No event that was in flight was taken: the stream and the job continue from what is accounted for."""
        self._progress.read = self._accounting.position
        self._letters.rest()
        self._jobs.rest(error, self._dispatcher)
        serious = error.out_of_band or self._breaker.trip(error, self._dispatcher.passes)
        if serious:
            log.error("the destination fails", destination=self._name, error=error.fault.place, traceback=error.fault.trace)
        if serious and not error.out_of_band:
            self._on_trouble(error)
        if self._breaker.needs_reopening:
            raise DestinationUnavailable(
                "the destination has failed at every event for minutes: the role restarts and opens it again", hint=error.hint
            )

    def _commit(self) -> None:
        """Checkpoint, ledger and dead letters in one transaction. While the state store is unavailable, nothing more is sent."""
        requested = self._progress.commit()
        self._committed = time.monotonic()
        if requested:
            self._kept_up = 0.0  # rewind between two turns: what is read and not sent yet must not move the checkpoint

    # Beside the stream.

    def _step_beside(self) -> bool:
        """Does one step of the dead letters and of the running job. Returns False if there is nothing to do now."""
        began = time.monotonic()
        if began < self._rested and began < self._lively + LIVELY:
            return False
        letters_wait = self._dry_run or not self._mappings.recorded or self._jobs.cut_short
        worked = not letters_wait and self._letters.step(self._mappings.current.pipeline)
        if not self._behind:
            worked = self._jobs.step(self._dispatcher, self._progress.read) or worked
        self._rested = time.monotonic() + 2 * (time.monotonic() - began)
        return worked

    def _pause(self) -> float:
        """Seconds after which there may be work although the journal does not grow."""
        if self._jobs.active or self._letters.active:
            return LOOK
        if self._breaker.failures:
            return min(max(self._breaker.until - time.monotonic(), LOOK), 1.0)
        return COMMIT if self._accounting.pending else 1.0

    def _keep_up(self) -> None:
        """Once a second: reload, a requested rewind, queued dead letters, the next job, old ids, the report."""
        if time.monotonic() < self._kept_up + 1.0:
            if time.monotonic() > self._committed + COMMIT:
                self._commit()
            return
        self._kept_up = time.monotonic()
        self._dispatcher.settle(0)
        self._commit()
        if self._report.trouble and self._dispatcher.passes > self._passes:  # perhaps of a job or a retry
            self._report.enter("delivering")
        if self._reload():
            self._mappings.reload()
            self._progress.record_mappings()
        self._progress.rewind_if_requested()
        if not self._dry_run:
            self._letters.look()
        self._jobs.look(self._accounting.high)
        self._sent_ledger.trim()
        if self._report.state in ("starting", "delivering") and not self._report.trouble:
            self._report.enter("idle")
        self._write_report()

    # The report.

    def _on_trouble(self, error: CdcTrackerError) -> None:
        self._passes = self._dispatcher.passes
        self._report.meet(error)
        self._accounting.tally.totals["troubles"] += 1

    def _wait(self) -> None:
        """Once a second while a call takes long."""
        self._report.waits_for_answer(self._dispatcher.waited)
        self._write_report()

    def _write_report(self) -> None:
        problems = self._mappings.current.pipeline.problems
        self._report.write(self._accounting, in_flight=len(self._dispatcher), dry_run=self._dry_run, problems=problems)
