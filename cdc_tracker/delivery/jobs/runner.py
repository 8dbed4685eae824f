"""Runs the jobs of one destination, one after another, in small steps between those of the live stream, which has priority."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import structlog
from msgspec.structs import asdict

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.delivery.accounting import Tally
from cdc_tracker.delivery.batcher import PendingBatch
from cdc_tracker.delivery.dispatcher import Dispatcher
from cdc_tracker.delivery.jobs.backfill import Backfill
from cdc_tracker.delivery.jobs.overlap import Overlap
from cdc_tracker.delivery.jobs.replay import Replay
from cdc_tracker.delivery.jobs.run import Run
from cdc_tracker.delivery.jobs.spec import reader_of, rows_at_once
from cdc_tracker.delivery.jobs.steps import BYTES, EVENTS, Pause, Work
from cdc_tracker.delivery.sender import NothingPasses
from cdc_tracker.delivery.sent_ledger import suppress_already_sent
from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, Retry, Stop
from cdc_tracker.journal import Journal
from cdc_tracker.mapping import Mappings, load_texts
from cdc_tracker.model import START, Event, Position, Receipt
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import (
    CAPTURE,
    BackfillProgress,
    BackfillSpec,
    CaptureReport,
    Job,
    Outcomes,
    ReplayProgress,
    ReplaySpec,
    Spec,
    State,
    Unreadable,
)

AGAIN = 30.0  # seconds after which a job is tried again that a transient error has postponed
LAG = 64 * 1000**2  # bytes that capture may be behind the server before a backfill waits

log = structlog.get_logger("jobs")


class Pipelines(Protocol):
    """Returns the destination's pipeline for some mappings. `only`: see Pipeline."""

    def __call__(self, mappings: Mappings, *, only: Collection[str] | None) -> Pipeline: ...


class Jobs:
    """The jobs of one destination. Used on the delivery loop's thread.

    The loop calls `look` once a second and `step` whenever the stream leaves time.
    """

    def __init__(
        self,
        *,
        settings: SourceSettings,
        name: str,
        destination: Destination,
        state: State,
        journal: Journal,
        pipelines: Pipelines,
        keep_ids: bool,
        abandon: Callable[[], bool],
    ) -> None:
        self._settings, self._source, self._name = settings, settings.name, name
        limits = destination.limits
        self._limits = replace(limits, events=min(limits.events, EVENTS), batch_bytes=min(limits.batch_bytes, BYTES))
        self._state, self._journal, self._pipelines = state, journal, pipelines
        self._keep_ids, self._abandon = keep_ids, abandon
        self._read = START  # how far the live stream has been read
        self._run: Run | None = None
        self._doubted_at: int | None = None  # the dispatcher's passes when the destination failed at every event of a batch
        self._again = 0.0
        self._doubtful = isinstance(destination, HoldsCheckpoint)  # the last run may have sent a batch that is not accounted for

    @property
    def active(self) -> bool:
        return self._run is not None

    @property
    def cut_short(self) -> bool:
        """The last run may have sent the next batch of a job. A destination knows only the last out-of-band batch again."""
        return self._doubtful or (self._run is not None and self._run.cut_short)

    def note(self, events: Sequence[Event]) -> None:
        """Notes events of the live stream that are about to be sent, for a backfill to compare its rows with."""
        if self._run is not None:
            self._run.work.note(events)

    def look(self, high: Position) -> None:
        """Begins the next job, and takes note if the running one was paused or cancelled. `high`: see Tally.

        Nothing may be in flight. A job that was cut short goes first, whatever was asked of it since: once another batch has
        gone, the destination would take its batch again. If it does not run any more, that batch is all that is sent of it.
        """
        run = self._run
        if run is not None:
            stored = self._state.jobs.get(run.job.id)
            if stored is None or stored.finished:
                self._leave("is gone" if stored is None else stored.state)
            elif (stored.state != "running") is not run.stays:
                self.settled()
                self._leave(stored.state)
            else:
                run.work.lagging = self._is_lagging()
                run.explain(run.work.trouble)
        if self._run is None and time.monotonic() >= self._again:
            job = self._cut_short() or self._state.jobs.next(self._source, self._name)
            if job is not None:
                self._begin(job, high)

    def _cut_short(self) -> Job | None:
        unfinished = self._state.jobs.all(self._source, destination=self._name, unfinished=True) if self._doubtful else []
        found = next((job for each in unfinished if (job := self._state.jobs.get(each.id)) and job.may_have_sent), None)
        self._doubtful = found is not None
        return found

    def settled(self) -> None:
        """Stores that nothing of the running job is in flight, so that it is not taken for cut short after a restart."""
        if self._run is not None:
            self._run.commit(sending=self._run.cut_short)

    def step(self, dispatcher: Dispatcher, read: Position) -> bool:
        """Does one small step; returns False if there is nothing to do now. `read`: how far the live stream has been read.

        Raises NothingPasses and AlreadyRunning, which concern the stream too; any other error postpones or fails the job.
        """
        run = self._run
        self._read = read
        if run is None or time.monotonic() < run.allowed:
            return False
        run.work.read = read
        try:
            given = next(run.steps, None)
            if isinstance(given, PendingBatch):
                self._submit(run, given, dispatcher)
                if run.stays:
                    dispatcher.settle(0)
                    self.settled()
                    self._leave("not to be continued")
            elif given is None:
                dispatcher.settle(0)
                self._end(run)
            return given is not Pause.WAITING
        except (NothingPasses, AlreadyRunning):
            raise
        except Retry as error:
            self._postpone(run, dispatcher, error)
        except Stop as error:
            self._fail(run, dispatcher, error)
        return True

    def rest(self, error: NothingPasses, dispatcher: Dispatcher) -> None:
        """Postpones the running job: the destination took nothing of what is in flight. It resumes from what is stored."""
        if self._run is not None:
            self._doubted_at = dispatcher.passes
            if error.out_of_band:  # a batch that the destination has would not have failed
                self._run.cut_short = self._doubtful = False
            self._postpone(self._run, dispatcher, error)

    def close(self) -> None:
        """Leaves the running job as it is stored."""
        self._leave("")

    # Beginning and ending.

    def _begin(self, job: Job, high: Position) -> None:
        try:
            spec, work = self._prepared(job)
        except Retry as error:
            self._again = time.monotonic() + AGAIN
            log.warning("job not started yet", job=job.id, error=str(error), hint=error.hint)
            return
        except Stop as error:
            failed = replace(job.marked(sending=False), state="failed", trouble=_message(error))
            self._state.jobs.commit(failed, Outcomes({}))
            log.error("job failed", job=job.id, error=str(error), hint=error.hint)
            return
        tally = Tally(self._state, self._source, self._name, high if job.kind == "replay" else START, keep_ids=self._keep_ids)
        stays = job.state not in ("queued", "running")
        self._run = run = Run(job, spec, tally, work, self._state, self._abandon, job.may_have_sent, stays)
        log.info("job resumed" if job.started_at else "job started", job=job.id, kind=job.kind, destination=self._name)
        run.commit()

    def _prepared(self, job: Job) -> tuple[Spec, Work]:
        match job.spec, job.progress:
            case ReplaySpec() as spec, ReplayProgress() as progress:
                return spec, self._replay(spec, progress)
            case BackfillSpec() as spec, BackfillProgress() as progress:
                return spec, self._backfill(job, spec, progress)
        reason = next(part.reason for part in (job.spec, job.progress) if isinstance(part, Unreadable))
        raise Stop(
            f"The stored job cannot be read: {reason}.",
            hint="Another version of cdc-tracker stored it: run that one, or cancel this job and start another one.",
        )

    def _replay(self, spec: ReplaySpec, progress: ReplayProgress) -> Work:
        pipeline = self._pipelines(load_texts(spec.mappings), only=spec.events)
        return Replay(self._journal, pipeline, progress.position or spec.after, spec.upto, self._limits)

    def _backfill(self, job: Job, spec: BackfillSpec, progress: BackfillProgress) -> Work:
        mappings = load_texts(spec.mappings)
        mapping = next(each for each in mappings.all if each.key == spec.event)
        reader = reader_of(self._settings, mapping, spec, job=job.id, key=progress.key)
        return Backfill(
            progress=progress,
            segment=job.segment,
            overlap=Overlap(mapping.key, mapping.type),
            read=self._read,
            reader=reader,
            pipeline=self._pipelines(mappings, only=[mapping.key]),
            live=self._pipelines(mappings, only=None),
            journal=self._journal,
            limits=self._limits,
            rows=rows_at_once(spec),
            between=(spec.from_us, spec.to_us),
            store=self._store,
        )

    def _store(self) -> None:
        if self._run is not None:
            self._run.commit()

    def _end(self, run: Run) -> None:
        self._doubtful = False
        run.commit("done", sending=False)
        log.info("job done", job=run.job.id, **{key: value for key, value in asdict(run.job.counts).items() if value})
        self._leave("")

    def _fail(self, run: Run, dispatcher: Dispatcher, error: Stop) -> None:
        dispatcher.settle(0)
        run.trouble = _message(error)
        log.error("job failed", job=run.job.id, error=str(error), hint=error.hint)
        self._doubtful = False
        run.commit("failed", sending=False)
        self._leave("")

    def _postpone(self, run: Run, dispatcher: Dispatcher, error: Retry) -> None:
        dispatcher.settle(0)
        run.trouble = _message(error)
        log.warning("job postponed", job=run.job.id, error=str(error), hint=error.hint, again_in=f"{AGAIN:.0f}s")
        run.commit(sending=run.cut_short)
        self._leave("")
        self._again = time.monotonic() + AGAIN

    def _leave(self, why: str) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.work.close()
            if why:
                log.info("job stopped", job=run.job.id, state=why)

    # From batches to progress.

    def _submit(self, run: Run, batch: PendingBatch, dispatcher: Dispatcher) -> None:
        if run.spec.only_missing:
            suppress_already_sent(batch, self._state, self._source, self._name)
        if run.spec.max_rate:
            run.allowed = max(run.allowed, time.monotonic()) + batch.matched / run.spec.max_rate
        out_of_band = f"job {run.job.id} at {batch.upto}"
        others_passed = self._doubted_at is not None and dispatcher.passes > self._doubted_at  # since then others have passed
        done = partial(self._take, run, batch)
        dispatcher.submit(batch.events, START, done, out_of_band=out_of_band, history=True, others_passed=others_passed)

    def _take(self, run: Run, batch: PendingBatch, receipts: list[Receipt]) -> None:
        if receipts:
            self._doubted_at = None
        self._doubtful = False
        run.take(batch, receipts)

    def _is_lagging(self) -> bool:
        """Whether capture is so far behind the server that a backfill must wait."""
        return (self._state.reports.last(self._source, CAPTURE, CaptureReport).lag_bytes or 0) > LAG


def _message(error: CdcTrackerError) -> str:
    return f"{error} {error.hint}".strip()
