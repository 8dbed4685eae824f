"""The table's depth of history: current rows, read in chunks, as the events that a mapping with `backfill` makes of them.

A chunk is read between two marks in the WAL, and sent once the live stream has been read past the second: what the stream made
meanwhile is known then, and goes before what was read (see overlap.py). The chunk is stored in the job before anything of it is
sent, so that after a crash the same rows go again in the same parcels, whatever the table holds by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from cdc_tracker.delivery.batcher import Batcher, PendingBatch
from cdc_tracker.delivery.jobs.forecast import own_time
from cdc_tracker.delivery.jobs.overlap import MARGIN, Overlap, Reading
from cdc_tracker.delivery.jobs.steps import PORTION, Pause, Steps
from cdc_tracker.destinations.base import Limits
from cdc_tracker.errors import SourceUnavailable
from cdc_tracker.journal import Journal, decode, encode
from cdc_tracker.model import START, Event, Lsn, Position
from cdc_tracker.pipeline.pipeline import Made, Pipeline
from cdc_tracker.pipeline.shaping import Shaping
from cdc_tracker.sources.postgres.snapshot import Chunk, TableReader

AGAIN = 5.0  # seconds between two tries to read while the database is away or slow
UNKNOWN = float("-inf")

log = structlog.get_logger("jobs")


@dataclass
class Stored:
    """How far a backfill is: what goes into the job. `segment` is the chunk being sent, `at` its last row that was dealt with."""

    after: tuple[str, ...] | None = None  # the key that the chunk at hand, or the next one, begins after
    segment: bytes = b""
    low: Lsn = 0
    high: Lsn = 0
    last_key: tuple[str, ...] | None = None
    end: bool = False  # nothing comes after the chunk
    at: int = -1
    rows: int = 0  # read so far
    running: tuple[int, ...] = ()
    key: tuple[str, ...] = ()  # columns that `after` is of

    def as_json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in _STORED}

    @classmethod
    def of(cls, progress: dict[str, Any], segment: bytes) -> Stored:
        listed: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in progress.items()}
        return cls(segment=segment, **listed)


_STORED = ("after", "low", "high", "last_key", "end", "at", "rows", "running", "key")


class _Read(NamedTuple):
    chunk: Chunk
    encoded: bytes  # its segment, nothing where it has none
    began: float  # time.monotonic


@dataclass
class Stream:
    """What a backfill knows of the live stream of its destination."""

    overlap: Overlap
    read: Position = START  # how far it has been read
    lagging: bool = False  # capture is behind the server: no more is to be read of the table


class Backfill:
    """One job's steps. `outstanding` parcels were given and are not dealt with; `trouble` says why nothing happens."""

    def __init__(
        self,
        *,
        stored: Stored,
        stream: Stream,
        reader: TableReader,
        translator: Pipeline,
        everything: Pipeline,
        journal: Journal,
        limits: Limits,
        shaping: Shaping | None,
        rows: int,
        between: tuple[int | None, int | None],
        store: Callable[[], None],
    ) -> None:
        """`translator` knows the job's mapping only, `everything` all that the live stream makes. `rows` of a chunk at most.

        `between`: only events of that time, from the first to before the second, in microseconds. `store` makes `stored` durable.
        """
        self.stored, self.stream = stored, stream
        self.outstanding = 0
        self.trouble = ""
        self._reader, self._translator, self._everything = reader, translator, everything
        self._journal, self._limits, self._shaping = journal, limits, shaping
        self._rows, self._between, self._store = rows, between, store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="backfill")
        self._ahead: Future[_Read] | None = None
        self._reading = Reading(UNKNOWN, stored.running)  # of a chunk that was stored, nobody knows when it was read
        self._last = START  # position of the chunk's last row

    def steps(self) -> Steps:
        yield from self._look_back()
        while self.stored.segment or not self.stored.end:
            if not self.stored.segment:
                yield from self._let_capture_catch_up()
                yield from self._next_chunk()
            if not self.stored.segment:
                continue
            if not self.stored.end and not self.stream.lagging:
                self._ahead = self._ahead or self._thread.submit(self._read, self.stored.last_key)
            yield from self._awaited()
            yield from self._sent()
            while self.outstanding:
                yield Pause.WAITING

    def done(self, upto: Position) -> None:
        """A parcel was dealt with; its progress is to be stored by the caller."""
        self.outstanding -= 1
        stored = self.stored
        stored.at = upto.ordinal
        if upto >= self._last:
            stored.after, stored.segment, stored.at = stored.last_key, b"", -1

    def close(self) -> None:
        self._reader.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    # Reading, in a thread of its own and one chunk ahead: it waits for the database.

    def _read(self, after: tuple[str, ...] | None) -> _Read:
        began = time.monotonic()
        chunk = self._reader.read(after, self._rows)
        return _Read(chunk, encode(chunk.segment) if chunk.segment is not None else b"", began)

    def _next_chunk(self) -> Iterator[Pause]:
        while True:
            reading = self._ahead or self._thread.submit(self._read, self.stored.after)
            while not reading.done():
                yield Pause.WAITING
            self._ahead = None
            try:
                read = reading.result()
            except SourceUnavailable as error:
                log.warning("backfill waits", error=str(error), hint=error.hint)
                yield from self._rest(f"{error} {error.hint}")
                continue
            self._take(read)
            return

    def _let_capture_catch_up(self) -> Iterator[Pause]:
        """Nothing that was read waits meanwhile, so that nothing need be remembered of the stream."""
        while self.stream.lagging and self._ahead is None:
            self.trouble = "waits until capture has caught up with the server"
            self.stream.overlap.forget(time.monotonic())
            yield Pause.WAITING
        self.trouble = ""

    def _rest(self, why: str) -> Iterator[Pause]:
        until, self.trouble = time.monotonic() + AGAIN, why
        while time.monotonic() < until:
            yield Pause.WAITING
        self.trouble = ""

    def _take(self, read: _Read) -> None:
        """Store a chunk before anything of it is sent."""
        chunk = read.chunk
        self.stream.overlap.forget(read.began)
        self._reading = Reading(read.began, chunk.running)
        stored = self.stored
        stored.low, stored.high, stored.last_key, stored.end = chunk.low, chunk.high, chunk.last_key, chunk.end
        stored.running, stored.key = tuple(chunk.running), chunk.key
        stored.rows += chunk.rows
        stored.segment = read.encoded
        if not read.encoded:
            stored.after = chunk.last_key
        self._store()

    # From the chunk to parcels.

    def _awaited(self) -> Iterator[Pause]:
        """Until the live stream has been read past the chunk's second mark."""
        since = time.monotonic()
        while self.stream.read.commit_lsn < self.stored.high:
            if time.monotonic() > since + AGAIN:
                self.trouble = "waits for the live stream to come past what was read"
            yield Pause.WAITING
        self.trouble = ""

    def _sent(self) -> Steps:
        segment = decode(self.stored.segment, "a job's chunk")
        self._last = segment.last
        after = Position(self.stored.low, self.stored.at)
        packing = Batcher(after, self._limits, self._shaping)
        for found, reached in self._translator.portions(segment, after, PORTION):
            yield from self._given(packing.add(segment, list(self._wanted(found)), reached))
            yield Pause.WORKED
        yield from self._given([packing.close()])

    def _given(self, parcels: Iterable[PendingBatch]) -> Iterator[PendingBatch]:
        """What gives way is taken out at the last moment: until then the stream may make what overtakes it."""
        for parcel in parcels:
            parcel.withhold(self.stream.overlap.withheld(parcel.events, self._reading))
            self.outstanding += 1
            yield parcel

    def _wanted(self, found: Iterable[Made]) -> Iterator[Made]:
        since, until = self._between
        for made in found:
            if isinstance(made, Event) and self._between != (None, None):
                moment = own_time(made)
                if (since is not None and moment < since) or (until is not None and moment >= until):
                    continue
            yield made

    def _look_back(self) -> Iterator[Pause]:
        """What the stream made lately, before there was anybody to note it: since a little before the chunk at hand was read."""
        horizon = self._journal.horizon()
        if horizon is None:
            return
        upto = self.stream.read
        moment = decode(self.stored.segment).first_time if self.stored.segment else time.time_ns() // 1000
        after = max(self._journal.locate(moment - int(MARGIN * 1e6)), horizon.start)
        while after < upto and (segments := self._journal.read(after, 1)):
            for found, _ in self._everything.portions(segments[0], after, PORTION):
                self.stream.overlap.note(made for made in found if isinstance(made, Event) and made.position <= upto)
                yield Pause.WORKED
            after = segments[0].last
