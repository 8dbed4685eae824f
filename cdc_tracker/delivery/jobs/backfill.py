"""Backfill: reads a table's current rows in chunks, and sends the events that a mapping with `backfill` makes of them.

A chunk is read between two watermarks in the WAL, and sent once the live stream has been read past the second: the stream's
events of that time are known then, and take precedence over the rows (see overlap.py). The chunk is stored in the job before any
of it is sent: after a crash the same rows are sent in the same batches, whatever the table contains by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import structlog

from cdc_tracker.delivery.batcher import Batcher, PendingBatch
from cdc_tracker.delivery.jobs.overlap import MARGIN, Overlap, Reading
from cdc_tracker.delivery.jobs.spec import event_time
from cdc_tracker.delivery.jobs.steps import PORTION, Pause, Steps, Work
from cdc_tracker.destinations.base import Limits
from cdc_tracker.errors import SourceUnavailable
from cdc_tracker.journal import Journal, decode, encode, segments_between
from cdc_tracker.model import START, Event, Position, Rejection, Result
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.sources.postgres.snapshot import Chunk, TableReader
from cdc_tracker.state import BackfillProgress, Job
from cdc_tracker.times import now_micros

AGAIN = 5.0  # seconds between two attempts to read while the database is unavailable or slow
UNKNOWN = float("-inf")

log = structlog.get_logger("jobs")


class _Read(NamedTuple):
    chunk: Chunk
    encoded: bytes  # its segment, empty if the chunk has none
    began: float  # time.monotonic


class Backfill(Work):
    """Sends the events of a table's rows."""

    def __init__(
        self,
        *,
        progress: BackfillProgress,
        segment: bytes,
        overlap: Overlap,
        read: Position,
        reader: TableReader,
        pipeline: Pipeline,
        live: Pipeline,
        journal: Journal,
        limits: Limits,
        rows: int,
        between: tuple[int | None, int | None],
        store: Callable[[], None],
    ) -> None:
        """`pipeline` has only the job's mapping, `live` all mappings, as the live stream. `rows`: of a chunk at most.

        `read`: how far the live stream has been read. `between`: only events whose time is at or after the first and before the
        second, in microseconds since the Unix epoch. `segment`: the chunk being sent. `store` makes what `updated` gives durable.
        """
        self._progress, self._segment, self.read, self.rows = progress, segment, read, progress.rows
        self._overlap = overlap
        self._outstanding = 0  # batches yielded and not dealt with yet
        self._reader, self._pipeline, self._live = reader, pipeline, live
        self._journal, self._limits = journal, limits
        self._rows, self._between, self._store = rows, between, store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="backfill")
        self._ahead: Future[_Read] | None = None
        self._reading = Reading(UNKNOWN, progress.running)  # when a stored chunk was read is not known
        self._last = START  # position of the chunk's last row

    def steps(self) -> Steps:
        """See Work."""
        yield from self._look_back()
        while self._segment or not self._progress.end:
            if not self._segment:
                yield from self._let_capture_catch_up()
                yield from self._next_chunk()
            if not self._segment:
                continue
            if not self._progress.end and not self.lagging:
                self._ahead = self._ahead or self._thread.submit(self._read_chunk, self._progress.last_key)
            yield from self._awaited()
            yield from self._sent()
            while self._outstanding:
                yield Pause.WAITING

    def done(self, upto: Position) -> None:
        """See Work."""
        self._outstanding -= 1
        progress = self._progress
        progress.at = upto.ordinal
        if upto >= self._last:
            progress.after, progress.at, self._segment = progress.last_key, -1, b""

    def updated(self, job: Job) -> Job:
        """See Work."""
        needs = Position(self._progress.low, -1) if self._segment else None
        return replace(job, progress=copy(self._progress), segment=self._segment, needs=needs)

    def note(self, events: Iterable[Event]) -> None:
        """See Work."""
        self._overlap.note(events)

    def close(self) -> None:
        """Cancels a read that is under way, and waits for its end."""
        self._reader.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    # Reading, in a separate thread and one chunk ahead, because it waits for the database.

    def _read_chunk(self, after: tuple[str, ...] | None) -> _Read:
        began = time.monotonic()
        chunk = self._reader.read(after, self._rows)
        return _Read(chunk, encode(chunk.segment) if chunk.segment is not None else b"", began)

    def _next_chunk(self) -> Iterator[Pause]:
        while True:
            reading = self._ahead or self._thread.submit(self._read_chunk, self._progress.after)
            while not reading.done():
                yield Pause.WAITING
            self._ahead = None
            try:
                read = reading.result()
            except SourceUnavailable as error:
                log.warning("backfill postponed", error=str(error), hint=error.hint)
                yield from self._rest(f"{error} {error.hint}")
                continue
            self._take(read)
            return

    def _let_capture_catch_up(self) -> Iterator[Pause]:
        """Waits while capture lags. No chunk has been read meanwhile, so that the stream's events can be forgotten."""
        while self.lagging and self._ahead is None:
            self.trouble = "waiting until capture has caught up with the server"
            self._overlap.forget(time.monotonic())
            yield Pause.WAITING
        self.trouble = ""

    def _rest(self, why: str) -> Iterator[Pause]:
        until, self.trouble = time.monotonic() + AGAIN, why
        while time.monotonic() < until:
            yield Pause.WAITING
        self.trouble = ""

    def _take(self, read: _Read) -> None:
        """Stores a chunk before any of it is sent."""
        chunk = read.chunk
        self._overlap.forget(read.began)
        self._reading = Reading(read.began, chunk.running)
        progress = self._progress
        progress.low, progress.high, progress.last_key, progress.end = chunk.low, chunk.high, chunk.last_key, chunk.end
        progress.running, progress.key = tuple(chunk.running), chunk.key
        progress.rows = self.rows = progress.rows + chunk.rows
        self._segment = read.encoded
        if not read.encoded:
            progress.after = chunk.last_key
        self._store()

    # From the chunk to batches.

    def _awaited(self) -> Iterator[Pause]:
        """Waits until the live stream has been read past the chunk's second watermark."""
        since = time.monotonic()
        while self.read.commit_lsn < self._progress.high:
            if time.monotonic() > since + AGAIN:
                self.trouble = "waiting until the live stream has passed the rows that were read"
            yield Pause.WAITING
        self.trouble = ""

    def _sent(self) -> Steps:
        segment = decode(self._segment, "a job's chunk")
        self._last = segment.last
        after = Position(self._progress.low, self._progress.at)
        batcher = Batcher(after, self._limits)
        for results, reached in self._pipeline.portions(segment, after, size=PORTION):
            yield from self._checked(batcher.add(segment, list(filter(self._inside, results)), reached))
            yield Pause.WORKED
        yield from self._checked([batcher.close()])

    def _checked(self, batches: Iterable[PendingBatch]) -> Iterator[PendingBatch]:
        """Suppresses overtaken events, at the last moment: until then the stream may send an event that overtakes one."""
        for batch in batches:
            batch.suppress(self._overlap.overtaken(batch.events, self._reading), "overtaken")
            self._outstanding += 1
            yield batch

    def _inside(self, result: Result) -> bool:
        """Whether the event's time lies in the job's range. A rejection always does: its event has no time."""
        since, until = self._between
        if (since is None and until is None) or isinstance(result, Rejection):
            return True
        moment = event_time(result if isinstance(result, Event) else result.event)
        return (since is None or moment >= since) and (until is None or moment < until)

    def _look_back(self) -> Iterator[Pause]:
        """Notes the stream's recent events from the journal: those since shortly before the current chunk was read."""
        horizon = self._journal.horizon()
        if horizon is None:
            return
        upto = self.read
        moment = decode(self._segment).first_time if self._segment else now_micros()
        after = max(self._journal.locate(moment - int(MARGIN * 1e6)), horizon.start)
        for segment, begin in segments_between(self._journal, after, upto, at_once=1):
            for results, _ in self._live.portions(segment, begin, upto, size=PORTION):
                self._overlap.note(result for result in results if isinstance(result, Event))
                yield Pause.WORKED
