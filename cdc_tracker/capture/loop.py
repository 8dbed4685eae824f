"""The capture loop: frames from the server into the journal, feedback back to the server.

The role `capture` calls it, in its main thread. It waits for the server's socket and for the commits of journal and state, never
for a destination. A segment is bounded by MAX_FRAMES and MAX_BYTES (sources/postgres/segments.py); while the journal cannot be
written nothing is read, so that the server stops sending and keeps the WAL. Priorities of a turn of the loop:

1. A full segment is made durable at once, one that is not full when the socket is drained.
2. Feedback goes out when the server asks for it, or once a second. It acknowledges only what is durable.
3. The slot is looked at, a heartbeat is sent, the journal is trimmed: each when it is due.
4. The report is stored once a second, and an idle socket is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from cdc_tracker.capture.gaps import times_of
from cdc_tracker.capture.monitor import CaptureMonitor
from cdc_tracker.config.settings import Retention, SourceSettings
from cdc_tracker.errors import (
    JournalUnavailable,
    Retry,
    SlotBusy,
    SourceRefused,
    SourceUnavailable,
    StateUnavailable,
    Stop,
    Undecodable,
)
from cdc_tracker.journal import Journal
from cdc_tracker.model import START, Lsn, Position, format_lsn
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.replication import ReplicationStream
from cdc_tracker.sources.postgres.segments import SegmentBuilder
from cdc_tracker.sources.postgres.session import Session
from cdc_tracker.state import Checkpoint, State
from cdc_tracker.times import wait

GROUP = 0.004  # seconds since the last commit of the journal after which a drained socket closes the segment
FEEDBACK = 1.0  # seconds between two feedbacks; the server's wal_sender_timeout is 60 s by default
VITALS = 5.0  # seconds between two looks at the slot
TRIM = 30.0  # seconds between two trims of the journal
BUSY = 75.0  # seconds that a walsender whose client is gone may hold a slot: longer than the usual wal_sender_timeout
HEALTHY = 10.0  # seconds of streaming after which the backoff is reset
TRIES = 5  # times that the server may fail to decode the next transaction before the role stops

log = structlog.get_logger("capture")


class Capture:
    """The capture of one source."""

    def __init__(
        self,
        *,
        settings: SourceSettings,
        needs: Mapping[str, Need],
        journal: Journal,
        state: State,
        destinations: Sequence[str],
        retention: Retention,
        stop: Callable[[], bool],
        verify: Callable[[], None],
        standby: bool = False,
        to_its_end: bool = False,
    ) -> None:
        """`verify` is called before the journal is written, and raises Fenced if another process captures by now.

        `to_its_end`: read although the slot's plugin no longer fits, up to the position from which it gets another one.
        """
        self._settings = settings
        self._needs = needs
        self._name = settings.name
        self._journal = journal
        self._state = state
        self._stop, self._verify = stop, verify
        self._standby = standby
        self._to_its_end = to_its_end
        self._monitor = CaptureMonitor(settings, retention, state, journal, destinations)
        self._journal_end = START
        self._appended: Position | None = None  # the journal's last change, as this process left it
        self._confirmed: Lsn = 0
        self._failures = 0
        self._busy_since: float | None = None
        self._streamed = False  # in this run: the configured URL and password were right
        self._stuck = (START, 0)  # the position after which the server could not decode, and how many times
        self._due = dict.fromkeys(("store", "feedback", "vitals", "trim", "heartbeat"), 0.0)

    def run(self) -> None:
        """Returns when `stop()` is true. Raises Stop for what retrying cannot resolve."""
        retrying = Retrying(retry=retry_if_exception(self._may_pass), wait=self._backoff, sleep=self._sleep, reraise=True)
        try:
            while not self._stop():
                retrying(self._session)
        except Stop as error:
            self._monitor.enter("stopped", str(error), error.hint)
            self._monitor.report.refusal = error.refusal
            raise
        else:
            self._monitor.enter("stopped")
        finally:
            self._monitor.write(force=True)

    # One connection, from verifying the slot to its end.

    def _session(self) -> None:
        if self._stop():
            return
        with Session(self._settings, self._needs) as session:
            end, lowest = self._journal.end(), self._lowest_checkpoint()
            record = self._state.sources.get(self._name)
            self._monitor.recall()
            times = partial(times_of, self._state, self._name)
            self._confirmed, timeline = session.verify(record, end, lowest, times)
            if not self._to_its_end:
                session.check_plugin()
            if record is not None and timeline != record.timeline:
                log.info("the server is on a new timeline", timeline=timeline)
                self._state.sources.save(replace(record, timeline=timeline))
            if record is not None and (end or START).commit_lsn < record.journaled_lsn:
                self._monitor.lose_journal(self._confirmed, record.journaled_lsn)
            self._appended, self._journal_end = end, end or lowest or START
            self._monitor.report.journal_end = str(self._journal_end)
            self._monitor.confirmed = self._confirmed
            builder = session.builder(self._journal_end, self._journal.newest())
            stream = session.start(max(self._journal_end.commit_lsn, self._confirmed))
            log.info("streaming", slot=self._settings.slot, plugin=session.plugin, after=str(self._journal_end))
            self._monitor.enter("streaming")
            self._busy_since = None
            self._streamed = True
            try:
                self._stream(session, stream, builder)
            except (SourceUnavailable, Undecodable) as error:
                self._store(stream, builder)  # what came before the error is complete
                if isinstance(error, Undecodable):
                    raise self._located(error, builder) from error
                raise
            self._store(stream, builder)
            self._acknowledge(stream, builder)
            stream.finish()

    def _stream(self, session: Session, stream: ReplicationStream, builder: SegmentBuilder) -> None:
        receive, add = stream.receive, builder.add
        began, count = time.monotonic(), 0
        while not self._stop():
            frame = receive()
            if frame is not None:
                add(frame)
                count += 1
                if not builder.full and count & 4095:
                    continue
            now = time.monotonic()
            if builder.full or (frame is None and builder.count and not builder.in_transaction and now >= self._due["store"]):
                self._store(stream, builder)
            if frame is None:
                builder.idle_until(stream.wal_end)
            if stream.reply_due or now >= self._due["feedback"]:
                self._acknowledge(stream, builder)
                self._failures = 0 if now > began + HEALTHY else self._failures
            self._monitor.report.frames += count
            count = 0
            self._housekeep(session, builder, now)
            if frame is None:
                stream.wait(self._pause(builder))

    def _pause(self, builder: SegmentBuilder) -> float:
        """Seconds until something is due even if no frame comes."""
        now = time.monotonic()
        if builder.count and not builder.in_transaction:
            return self._due["store"] - now
        return min(0.5, self._due["feedback"] - now)

    def _store(self, stream: ReplicationStream, builder: SegmentBuilder) -> None:
        """Makes the gathered frames durable. While the journal is unavailable nothing is confirmed, but feedback continues."""
        segment = builder.close()
        if segment is None:
            return
        while True:
            self._verify()
            try:
                self._journal.append([segment], after=self._appended)
                break
            except JournalUnavailable as error:
                log.error("journal unavailable: nothing is confirmed to the server meanwhile", error=str(error), hint=error.hint)
                self._monitor.enter("journal unavailable", str(error), error.hint)
                if self._stop():
                    raise
                self._monitor.write(force=True)
                stream.feedback(stream.wal_end, self._confirmed)
                self._sleep(1.0)
        self._monitor.enter("streaming")
        self._monitor.report.segments += 1
        self._monitor.report.changes += segment.changes
        self._journal_end = segment.last
        self._appended = max(self._appended or START, segment.last)
        self._monitor.report.journaled_until = segment.last_time or self._monitor.report.journaled_until
        self._monitor.report.journal_end = str(segment.last)
        self._due["store"] = time.monotonic() + GROUP

    # Feedback: the only place that confirms an LSN to the server.

    def _acknowledge(self, stream: ReplicationStream, builder: SegmentBuilder) -> None:
        durable = self._journal_end if builder.count else builder.seen
        over = self._monitor.exceeds_max_wal(stream.wal_end)
        try:
            # The slot is not moved until the server has proved to be the one that was left.
            confirm = self._confirmable(durable, over) if builder.expected is None else self._confirmed
            if confirm > self._confirmed:
                # Stored before it is sent: a slot past the stored LSN was moved by others.
                self._state.sources.confirm(self._name, confirm, (self._appended or START).commit_lsn)
                self._confirmed = self._monitor.confirmed = confirm
        except StateUnavailable as error:
            if over:  # the next start takes the journal's end as the proof that this worker moved the slot
                self._confirmed = self._monitor.confirmed = max(self._confirmed, min(durable, self._journal_end).commit_lsn)
            what = "acknowledging journaled WAL all the same" if over else "nothing new is confirmed to the server"
            log.warning(f"state store unavailable: {what}", error=str(error))
        stream.feedback(max(stream.wal_end, durable.commit_lsn), self._confirmed, ask=stream.asking)
        self._due["feedback"] = time.monotonic() + FEEDBACK

    def _confirmable(self, durable: Position, exceeds_max_wal: bool) -> Lsn:
        """The LSN to confirm. The database comes first: above max_wal the journal grows instead, even past its own size."""
        if self._settings.ack == "journaled" or exceeds_max_wal:
            return durable.commit_lsn
        lowest = self._lowest_checkpoint(lambda checkpoint: checkpoint.high)  # a rewind needs the journal, not the slot
        if lowest is None or lowest >= self._journal_end:  # nothing in flight: the rest of the WAL is not captured
            return durable.commit_lsn
        return lowest.commit_lsn

    def _lowest_checkpoint(self, of: Callable[[Checkpoint], Position] | None = None) -> Position | None:
        return min(map(of or attrgetter("needs"), self._monitor.checkpoints().values()), default=None)

    # What is due from time to time.

    def _housekeep(self, session: Session, builder: SegmentBuilder, now: float) -> None:
        if now >= self._due["vitals"]:
            self._due["vitals"] = now + VITALS
            vitals = session.vitals()
            if vitals is not None:
                self._monitor.look(vitals)
                session.refresh(builder)
        if self._settings.heartbeat and now >= self._due["heartbeat"]:
            self._due["heartbeat"] = now + self._settings.heartbeat
            session.heartbeat()
        if now >= self._due["trim"]:
            self._due["trim"] = now + TRIM
            self._monitor.trim()
        self._monitor.seen = builder.seen.commit_lsn
        self._monitor.write()

    # Retries.

    def _may_pass(self, error: BaseException) -> bool:
        """Whether to retry. A server that refused the login after this run has streamed may have changed a password.

        Stopping would not help its disk, which keeps the WAL either way; retrying continues as soon as the login works again.
        """
        if isinstance(error, Undecodable):
            return self._stuck[1] < TRIES
        return isinstance(error, (Retry, SlotBusy)) or (isinstance(error, SourceRefused) and self._streamed)

    def _located(self, error: Undecodable, builder: SegmentBuilder) -> Undecodable:
        """The error, with its transaction if that is known. Counts how often nothing got past it."""
        place, times = self._stuck
        self._stuck = max(builder.seen, place), times + 1 if builder.seen <= place else 1
        self._monitor.undecodable = builder.commit_lsn
        if not builder.commit_lsn:
            return error
        text = f"the server cannot decode the transaction that commits at {format_lsn(builder.commit_lsn)}: {error}"
        located = type(error)(text, hint=error.hint)
        located.refusal = error.refusal
        return located

    def _backoff(self, call: RetryCallState) -> float:
        error = call.outcome.exception() if call.outcome else None
        self._failures += 1
        now = time.monotonic()
        self._busy_since = (self._busy_since or now) if isinstance(error, SlotBusy) else None
        if isinstance(error, SlotBusy) and not self._standby and now > (self._busy_since or now) + BUSY:
            raise error
        call.attempt_number = self._failures
        seconds = float(wait_random_exponential(multiplier=0.2, max=15.0)(call))
        hint = getattr(error, "hint", "")
        say = log.warning if isinstance(error, (Retry, SlotBusy)) else log.error
        say("stream interrupted", error=str(error), hint=hint, again_in=f"{seconds:.1f}s")
        self._monitor.enter("reconnecting", str(error), hint)
        self._monitor.write(force=True)
        return seconds

    def _sleep(self, seconds: float) -> None:
        """Waits, until `stop()` at most, and stores the report meanwhile."""
        wait(seconds, self._stop, self._monitor.write)
