"""The delivery loop of one destination: segments → events → receipts → checkpoint. The one place that advances a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeAlias, TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from cdc_tracker.delivery.accounting import Accounting
from cdc_tracker.delivery.batcher import KEEP, PendingBatch, pack
from cdc_tracker.delivery.circuit_breaker import LOOKAHEAD, CircuitBreaker
from cdc_tracker.delivery.dispatcher import Dispatcher
from cdc_tracker.delivery.jobs.retries import QueuedLetters
from cdc_tracker.delivery.jobs.runner import Jobs, suppress_already_sent
from cdc_tracker.delivery.reconciliation import READ, HeldCheckpoint
from cdc_tracker.delivery.report import DeliveryReport
from cdc_tracker.delivery.sender import Interrupted, NothingPasses, send
from cdc_tracker.destinations.base import Cursor, Destination, HoldsCheckpoint, KeyedCheckpoint
from cdc_tracker.destinations.support.faults import Fault, held_position, sound
from cdc_tracker.errors import (
    CdcTrackerError,
    CheckpointMoved,
    DestinationBlocked,
    DestinationUnavailable,
    Retry,
    StateUnavailable,
)
from cdc_tracker.journal import Journal
from cdc_tracker.model import DELIVERED, START, Batch, Outcome, Position, Receipt, Result, Segment
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import Checkpoint, State

LARGE = 20_000  # events of a call from which on a destination is read KEEP segments for
COMMIT = 0.2  # seconds between commits of the state for a destination that holds its own checkpoint
LOOK = 0.005  # seconds between two looks at a job that waits for something
LIVELY = 1.0  # seconds after its last event for which the stream counts as busy
PATIENCE = 30.0  # seconds for a call, after which a person is told that it is not answered
FORGET = 3600.0  # seconds between two cuttings of the sent-ledger
YEAR = 365 * 86_400.0

UNANSWERED = (
    "nothing is lost: the call is waited for. If it stays so, the destination or a proxy hangs: look there, and at the `timeout` "
    "of its settings; a restart of the worker sends the events again"
)

T = TypeVar("T")
Translation: TypeAlias = tuple[Pipeline, Mapping[str, str]]
"""What the mappings on disk make now, and their texts: file name → text."""

log = structlog.get_logger("deliver")


class Delivery:
    """`run` returns when `stop()` is true and what was in flight is settled, or `abandon()` is true."""

    def __init__(
        self,
        *,
        source: str,
        name: str,
        destination: Destination,
        dry_run: bool,
        translator: Callable[[], Translation],
        made_by: Callable[[Mapping[str, str]], Pipeline],
        journal: Journal,
        state: State,
        jobs: Jobs,
        sent_ledger: float | None,
        stop: Callable[[], bool],
        abandon: Callable[[], bool],
        reload: Callable[[], bool],
        origin: str = "",
    ) -> None:
        """The destination has a checkpoint. `made_by`: what mappings were made by that the state store has the texts of.

        `sent_ledger`: seconds that delivered ids are remembered for, None: not at all.

        `origin`: the namespace of the source's event ids, by which a destination tells sources of the same name apart.

        `dry_run`: the pipeline suppresses every event, and `destination` is a stand-in for the real one.
        """
        self._source, self._name = source, name
        self._destination = destination
        self._holds = destination if isinstance(destination, HoldsCheckpoint) else None
        if isinstance(destination, KeyedCheckpoint):
            destination.bind(
                Cursor(source, name, origin=origin), lambda held: self._held_checkpoint.owns(held, self._settlement.position)
            )
        self._dry_run = dry_run
        self._translate, self._made_by = translator, made_by
        self._translator, self._texts = translator()
        self._then: Pipeline | None = None  # of the mappings by which the destination got what we do not know of
        self._noted: Mapping[str, str] | None = None  # the mappings' texts that the state store has
        self._journal, self._state = journal, state
        self._jobs, self._sent_ledger = jobs, sent_ledger
        self._stop, self._abandon, self._reload = stop, abandon, reload
        self._passes = 0  # calls that had passed when the last trouble came
        self._report = DeliveryReport(state, source, name)
        self._held_checkpoint = HeldCheckpoint(state, journal, source, name, lambda: self._then or self._translator)
        self._dispatcher = Dispatcher(name, destination, abandon=abandon, on_trouble=self._on_trouble, waiting=self._wait)
        checkpoint = self._checkpoint()
        self._settlement = Accounting(state, source, name, checkpoint, keep_ids=sent_ledger is not None)
        self._letters = QueuedLetters(
            state,
            source,
            name,
            destination.limits,
            self._dispatcher,
            keep_ids=sent_ledger is not None,
            persist=self._persist,
        )
        self._only_missing = checkpoint.only_missing
        self._read = self._settlement.position
        self._reads = KEEP if destination.limits.events >= LARGE else READ
        self._doubt = CircuitBreaker()
        self._behind = False  # the journal holds more than was read in the last round
        self._held = START
        self._settlement.time = self._report.delivered_until(checkpoint.position) or self._settlement.time
        self._committed = self._tended = self._forgot = 0.0
        self._lively = self._rested = 0.0  # when the stream last had events; until when a job rests

    def run(self) -> None:
        try:
            self._begin()
            with self._journal.waiter(self._name) as waiter:
                heard = True  # the journal may hold more than was read
                while not self._stop():
                    try:
                        busy = heard and self._round()
                        worked = self._job()
                        if not busy:
                            self._tend()
                        if not busy and not worked:
                            waiter.wait(self._pause())
                        self._dispatcher.settle(len(self._dispatcher))
                        heard = not worked or waiter.wait(0)
                    except NothingPasses as error:
                        self._begin_again(error)
                        heard = True
            self._dispatcher.settle(0)
            self._commit()
        except (Interrupted, NothingPasses):
            self._commit()
            log.warning("stopped with events in flight: they go again at the next start", destination=self._name)
        except CheckpointMoved:
            self._report.moved = True
            raise
        except Retry:  # a store is away: what is in flight is waited for and stored, lest it go again
            with suppress(Interrupted, NothingPasses):
                self._dispatcher.settle(0)
            self._commit()
            raise
        finally:
            self._jobs.close()
            self._dispatcher.close()
            self._report.enter("stopped", self._report.trouble, self._report.hint)
            self._write_report()

    def _job(self) -> bool:
        """A step of what goes beside the stream. While that is busy, it rests twice as long as it works: it must not take the
        stream's core. Dead letters take turns with a stream that is behind, jobs wait until it is not.
        """
        began = time.monotonic()
        if began < self._rested and began < self._lively + LIVELY:
            return False
        worked = self._noted is self._texts and not self._dry_run and self._letters.step(self._translator)
        if not self._behind:
            worked = self._jobs.step(self._dispatcher, self._read) or worked
        self._rested = time.monotonic() + 2 * (time.monotonic() - began)
        return worked

    def _begin_again(self, error: NothingPasses) -> None:
        """Nothing that was in flight has been taken: the stream and the job go on from where everything is dealt with."""
        self._read = self._settlement.position
        self._letters.rest()
        self._jobs.rest(error, self._dispatcher)
        told = error.out_of_band or self._doubt.met(error, self._dispatcher.passes)
        if told:
            log.error("the destination fails", destination=self._name, error=error.fault.place, traceback=error.fault.trace)
        if told and not error.out_of_band:
            self._on_trouble(error)
        if self._doubt.lasting:
            raise DestinationUnavailable(
                "the destination has failed at every event for minutes: the role starts anew, and opens it again", hint=error.hint
            )

    def _pause(self) -> float:
        """Seconds until there may be something to do although the journal does not grow."""
        if self._jobs.active or self._letters.active:
            return LOOK
        if self._doubt.failures:
            return min(max(self._doubt.until - time.monotonic(), LOOK), 1.0)
        return COMMIT if self._settlement.pending else 1.0

    # Where to begin.

    def _checkpoint(self) -> Checkpoint:
        found = self._state.checkpoints.get(self._source, self._name)
        if found is None:
            raise StateUnavailable(f"the checkpoint of {self._name} cannot be read")
        return found

    def _begin(self) -> None:
        if self._sent_ledger is None and self._state.sent_ids.since(self._source, self._name) is not None:
            # turned off: it must not speak for a time in which it was not kept
            self._state.sent_ids.trim(self._source, self._name, int((time.time() + YEAR) * 1_000_000))
        self._remember()
        rewind_to = self._checkpoint().rewind_to
        if rewind_to is not None:
            self._rewind(rewind_to)
        elif self._holds is not None:
            self._reconcile(self._patiently(partial(held_position, self._holds)))
        self._report.ran_dry, self._report.moved = self._dry_run, False
        if not self._dry_run:
            self._letters.finish(self._then or self._translator)
        self._note_mappings()

    def _remember(self) -> None:
        """What was under way when the last run was killed is finished with the mappings that it was made with.

        The destination may have it, and others might make a rejection of an event that has arrived.
        """
        texts = self._state.in_hand.get(self._source, self._name).mappings
        if texts and texts != self._texts:
            try:
                self._then = self._made_by(texts)
            except CdcTrackerError as error:
                log.warning("the mappings of the last run do not load any more", destination=self._name, error=str(error))

    def _note_mappings(self) -> None:
        """Before anything is sent that the present ones made; nothing is in flight, and what went before is committed."""
        if self._noted is not self._texts and self._read >= self._held:
            self._then = None
            self._store_what_is_passed()
            self._persist(partial(self._state.in_hand.take_mappings, self._source, self._name, self._texts))
            self._noted = self._texts

    def _store_what_is_passed(self) -> None:
        """What was not for the destination by these mappings must not look lost by others, nor once dead letters went again."""
        if self._holds is not None and self._noted is not None:
            held = self._patiently(partial(held_position, self._holds))
            if held is not None and held < self._settlement.position:
                self._store(self._settlement.position)

    def _results(self, segment: Segment, after: Position) -> list[Result]:
        """Results of the changes after `after`; by the mappings of the last run for those that the destination has."""
        if self._then is None or after >= self._held:
            return self._translator.results(segment, after)
        return self._then.results(segment, after, self._held) + self._translator.results(segment, max(after, self._held))

    def _reconcile(self, held: Position | None) -> None:
        """Bring together what the destination says that it has and what we know."""
        ours, report = self._settlement.position, self._report
        found = self._held_checkpoint.reconcile(held, ours, dry=report.ran_dry, moved=report.moved)
        if found.notice:
            report.tell(found.notice, held=str(held), ours=str(ours), hint=found.hint)
        if found.held is not None and found.store:
            self._store(found.held)
        if found.held is not None and found.rewind:
            self._state.checkpoints.request_rewind(self._source, self._name, found.held)
            self._rewind(found.held)
        self._held = max(found.held or START, START)

    def _store(self, position: Position) -> None:
        batch = Batch((), position)
        self._patiently(partial(send, self._destination, batch, stop=self._stop, on_trouble=self._on_trouble))

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call until the destination answers: one that is away must not end the role."""
        retrying = Retrying(
            retry=retry_if_exception_type(DestinationUnavailable), wait=wait_random_exponential(max=30.0), sleep=self._sleep
        )
        for attempt in retrying:
            with attempt:
                try:
                    with sound():
                        found = call()
                    self._report.enter("starting")
                    return found
                except DestinationUnavailable as error:
                    self._on_trouble(error)
                    self._write_report()
                    raise
                except CdcTrackerError:
                    raise
                except Exception as error:
                    fault = Fault(error)
                    log.error("the destination fails", destination=self._name, error=fault.place, traceback=fault.trace)
                    trouble = DestinationBlocked(f"the destination cannot tell its position: {fault.place}")
                    self._on_trouble(trouble)
                    self._write_report()
                    raise trouble from None
        raise Interrupted([])

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._stop():
                raise Interrupted([])
            time.sleep(0.1)
            if self._report.due:
                self._write_report()

    def _rewind(self, to: Position) -> None:
        self._dispatcher.settle(0)
        self._commit()
        if self._holds is not None:
            self._patiently(partial(self._holds.rewind, to))
        self._state.checkpoints.apply_rewind(self._source, self._name)
        checkpoint = self._checkpoint()
        self._settlement.begin(checkpoint)
        self._only_missing = checkpoint.only_missing
        self._read, self._held = self._settlement.position, START
        log.info("rewound", destination=self._name, position=str(to))

    # From the journal to the destination.

    def _round(self) -> bool:
        """Read some segments and send what they became. False when there were none."""
        if self._doubt.holds():
            return False
        if self._noted is not self._texts and self._read >= self._held:
            self._dispatcher.settle(0)
            self._commit()
            self._note_mappings()
        if self._doubt.failures:
            segments, keep = self._doubt.segments(self._journal, self._read), LOOKAHEAD
        else:
            segments, keep = self._journal.read(self._read, self._reads), KEEP
        if segments:
            limits = self._doubt.limits(self._destination.limits)
            for parcel in pack(segments, self._read, self._results, limits, keep):
                if self._stop():
                    return True
                self._submit(parcel)
            self._read = segments[-1].last
        self._behind = len(segments) == self._reads
        if not (self._behind or self._jobs.active or self._letters.active):
            self._dispatcher.settle(0)
        if time.monotonic() > self._tended + 1.0:
            self._tend()
        return bool(segments)

    def _submit(self, parcel: PendingBatch) -> None:
        """Send what the destination does not have yet."""
        self._jobs.note(parcel.events)
        self._lively = time.monotonic() if parcel.events else self._lively
        events, held = parcel.events, self._held
        again = bool(events) and events[0].position <= self._settlement.high
        if again and self._only_missing:
            suppress_already_sent(parcel, self._state, self._source, self._name)
            events = parcel.events
        have = sum(event.position <= held for event in events) if events and events[0].position <= held else 0
        done = partial(self._take, parcel, have)
        left = events[have:] if have else events
        vouched = self._doubt.vouched(len(left), self._dispatcher.passes)
        self._dispatcher.submit(left, parcel.upto, done, least=held, history=again, vouched=vouched)

    def _on_trouble(self, error: CdcTrackerError) -> None:
        self._passes = self._dispatcher.passes
        self._report.meet(error)
        self._settlement.tally.totals["troubles"] += 1

    def _wait(self) -> None:
        """Once a second while a call is waited for. One that neither passes nor fails would else be told of by nothing."""
        if self._dispatcher.waited > PATIENCE and not self._report.trouble:
            self._report.enter("delivering", "it has been given events, and does not answer", UNANSWERED)
            log.warning("not answered yet", destination=self._name, hint=UNANSWERED)
        self._write_report()

    # From receipts to the checkpoint.

    def _take(self, parcel: PendingBatch, have: int, receipts: list[Receipt]) -> None:
        self._settlement.take(parcel, [DELIVERED] * have + receipts)
        if parcel.events:
            self._report.enter("delivering")
        if receipts:
            self._doubt.over()
        at_once = self._settlement.parked or (parcel.events and self._holds is None)
        if at_once or time.monotonic() > self._committed + COMMIT:
            self._commit()
        if self._holds is not None and any(receipt.outcome is Outcome.REJECTED for receipt in receipts):
            # Its position lies before the first that was rejected, until the dead letter is stored: now it is.
            self._dispatcher.submit((), parcel.upto, lambda _: None, store=True)

    def _commit(self) -> None:
        """Checkpoint, ledger and dead letters in one transaction. While the state store is away, nothing more is sent."""
        rewind = None
        while self._settlement.pending:
            rewind = self._persist(self._settlement.commit)
            if self._settlement.pending and self._abandon():
                return
        self._committed = time.monotonic()
        if rewind is not None:
            self._tended = 0.0  # between two rounds: what this one has read and not sent yet must not move the checkpoint forward

    def _persist(self, commit: Callable[[], T]) -> T | None:
        """Call until the state store takes it, or what is in flight is to be abandoned."""
        failed = False
        while True:
            try:
                done = commit()
            except StateUnavailable as error:
                failed = True
                self._on_trouble(error)
                if self._abandon():
                    return None
                time.sleep(0.5)
            else:
                if failed:  # that trouble is over, also where no event follows
                    self._report.enter("delivering")
                return done

    # Now and then.

    def _tend(self) -> None:
        """Once a second: reload, rewinds asked for, dead letters to send again, the report."""
        if time.monotonic() < self._tended + 1.0:
            if time.monotonic() > self._committed + COMMIT:
                self._commit()
            return
        self._tended = time.monotonic()
        self._dispatcher.settle(0)
        self._commit()
        if (
            self._report.trouble and self._dispatcher.passes > self._passes
        ):  # it is over, also where a job or a retry has found that out
            self._report.enter("delivering")
        if self._reload():
            self._translator, self._texts = self._translate()
            self._note_mappings()
        checkpoint = self._state.checkpoints.get(self._source, self._name)
        if checkpoint is not None and checkpoint.rewind_to is not None:
            self._rewind(checkpoint.rewind_to)
        if not self._dry_run:
            self._letters.look()
        self._jobs.look(self._settlement.high)
        self._forget()
        if self._report.state in ("starting", "delivering") and not self._report.trouble:
            self._report.enter("idle")
        self._write_report()

    def _forget(self) -> None:
        """Once an hour: ids that the sent-ledger need not keep."""
        if self._sent_ledger is not None and time.monotonic() > self._forgot + FORGET:
            self._forgot = time.monotonic()
            self._state.sent_ids.trim(self._source, self._name, int((time.time() - self._sent_ledger) * 1_000_000))

    def _write_report(self) -> None:
        self._report.write(
            self._settlement, in_flight=len(self._dispatcher), dry_run=self._dry_run, problems=self._translator.problems
        )
