"""What capture observes beside the stream (the slot, the journal's size), the alarms that follow, and capture's report.

The capture loop calls all of it, from its own thread. Nothing here waits for anything but the stores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from cdc_tracker.config.settings import Retention, SourceSettings
from cdc_tracker.errors import JournalUnavailable, StateUnavailable
from cdc_tracker.journal import Journal
from cdc_tracker.model import START, Lsn, Position, format_lsn
from cdc_tracker.sources.postgres.slot import Vitals
from cdc_tracker.state import CAPTURE, Alarm, CaptureReport, Checkpoint, Job, JournalLost, State
from cdc_tracker.times import now_micros
from cdc_tracker.units import format_size

NEAR = 0.75  # of the WAL that a slot may retain, above which an alarm is raised
REPORT = 1.0  # seconds between two reports

log = structlog.get_logger("capture")


class RetentionHolder(NamedTuple):
    """What still needs the journal's segments after a position."""

    position: Position
    who: str  # for display: `the destination mixpanel`, `job 7 (replay to mixpanel, paused)`


def retention_holders(checkpoints: Mapping[str, Checkpoint], jobs: Iterable[Job]) -> list[RetentionHolder]:
    """Lowest position first. A dead letter has its own copy of its segment and needs nothing."""
    found = [RetentionHolder(each.needs, f"the destination {name}") for name, each in checkpoints.items()]
    for job in jobs:
        if job.needs is not None and not job.finished:
            found.append(RetentionHolder(job.needs, f"job {job.id} ({job.kind} to {job.destination}, {job.state})"))
    return sorted(found)


@dataclass
class CaptureMonitor:
    """`state` is starting, streaming, reconnecting, `journal unavailable` or stopped. `report` is stored once a second.

    `retention_blocked`: the journal is over its size, and all of it is still needed. `report.journal_lost` stays until retention
    would have removed that much anyway.
    """

    settings: SourceSettings
    retention: Retention
    stores: State
    journal: Journal
    destinations: Collection[str] = ()  # configured
    state: str = "starting"
    seen: Lsn = 0
    confirmed: Lsn = 0
    undecodable: Lsn = 0  # commit of the transaction that the server cannot decode; 0 if there is none, or it is not known
    retention_blocked: bool = False
    report: CaptureReport = field(default_factory=lambda: CaptureReport(since=now_micros()))
    _left_out: frozenset[str] | None = None  # had a checkpoint at the start, and are not configured
    _holder: str = ""
    _recalled: bool = False
    _server_end: Lsn = 0
    _reported: float = 0.0
    _goal: tuple[Lsn, int] = (0, 0)  # the WAL's end at a time, kept until capture has seen all of it
    _moved: tuple[Lsn, int] = (0, 0)

    def enter(self, state: str, trouble: str = "", hint: str = "") -> None:
        """Changes the state; the report keeps the time of the change."""
        if state != self.state:
            self.report.since = now_micros()
        self.state, self.report.trouble, self.report.hint = state, trouble, hint

    def look(self, vitals: Vitals) -> None:
        """Takes in the slot's state on the server."""
        report = self.report
        self._server_end, report.asked_at = vitals.wal_end, now_micros()
        report.retained_bytes = vitals.slot.retained_bytes if vitals.slot else None
        if report.current_at >= self._goal[1]:
            self._goal = (vitals.wal_end, report.asked_at)
        since = {(alarm.what, alarm.hint): alarm.since for alarm in report.alarms}
        report.alarms = [Alarm(what, hint, since.get((what, hint), report.asked_at)) for what, hint in self._conditions(vitals)]
        for alarm in report.alarms:
            if (alarm.what, alarm.hint) not in since:
                log.error(alarm.what, hint=alarm.hint)

    def exceeds_max_wal(self, wal_end: Lsn) -> bool:
        """Whether to acknowledge journaled WAL before it is delivered. Works while the server cannot be asked, too."""
        behind = wal_end - self.confirmed if self.confirmed else 0
        return self.settings.ack == "delivered" and max(self.report.retained_bytes or 0, behind) > self.settings.max_wal

    def _conditions(self, vitals: Vitals) -> Iterator[tuple[str, str]]:
        """Yields each alarm's text and hint."""
        for fault in vitals.faults:
            yield f"{fault.key} {fault.message}", fault.hint
        slot, retained = vitals.slot, self.report.retained_bytes or 0
        if slot is None or slot.wal_status in ("unreserved", "lost"):
            text = f"the slot is {slot.wal_status if slot else 'gone'}: the server removes WAL that has not been read yet"
            yield text, "find out what keeps capture from reading; `cdc-tracker repair` recovers from a lost slot"
        elif slot.safe_wal_size is not None and retained > NEAR * (retained + slot.safe_wal_size):
            text = "the slot is close to max_slot_wal_keep_size, above which the server invalidates it"
            yield text, "repair what holds it back, or raise max_slot_wal_keep_size"
        if slot is not None and retained > self.settings.max_wal:
            yield self._over(vitals.wal_end - (slot.confirmed_flush_lsn or 0))
        if self.retention_blocked:
            size = format_size(self.retention.size)
            text = f"the journal exceeds its size ({size}) because {self._holder} still needs all of it: it grows on its own disk"
            yield text, "repair that destination, or remove it from the configuration; resume or cancel that job"

    def _over(self, unconfirmed: int) -> tuple[str, str]:
        """Acknowledging moves a slot; but an open transaction retains all WAL since it began, whatever is acknowledged."""
        size = format_size(self.settings.max_wal)
        if unconfirmed < self.settings.max_wal // 2:
            return (
                f"slot exceeds max_wal ({size}) for a transaction that is open, or large and being read: acknowledging frees "
                "nothing",
                "SELECT pid, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; and see "
                "pg_prepared_xacts: end the oldest",
            )
        if self.settings.ack == "journaled":
            return f"slot exceeds max_wal ({size}): capture is behind", "capture's log says what delays it"
        text = f"slot exceeds max_wal ({size}): acknowledging journaled WAL before it is delivered"
        return text, "repair the destination that is behind; watch the journal's disk"

    def recall(self) -> None:
        """Continues, once, from the report before the restart."""
        if self._recalled:
            return
        self._recalled = True
        before = self.stores.reports.last(self.settings.name, CAPTURE, CaptureReport)
        self.report.journaled_until, self.report.current_at = before.journaled_until, before.current_at
        self.report.journal_lost = before.journal_lost

    def lose_journal(self, begins: Lsn, held: Lsn) -> None:
        """Reports a lost journal of which no destination lacks anything that the slot does not send again."""
        since = format_lsn(begins)
        self.report.journal_lost = JournalLost(now_micros(), since)
        log.warning(
            f"the journal was lost or replaced: it had changes up to {format_lsn(held)}. Every destination has them, or the slot "
            f"sends them again under the same ids; what committed before {since} cannot be rewound to any more"
        )

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Returns the checkpoints of configured destinations, and of one that `setup` has added since this process started."""
        found = self.stores.checkpoints.all(self.settings.name)
        if self._left_out is None:
            self._left_out = frozenset(found).difference(self.destinations)
        return {name: checkpoint for name, checkpoint in found.items() if name not in self._left_out}

    def trim(self) -> None:
        """Removes the segments that neither retention nor any checkpoint or unfinished job needs."""
        try:
            found = self.checkpoints()
            held = retention_holders(found, self.stores.jobs.all(self.settings.name, unfinished=True)) if found else []
            keep_after, self._holder = held[0] if held else (START, "")
            trimmed = self.journal.trim(age_s=self.retention.age, size=self.retention.size, keep_after=keep_after)
        except (StateUnavailable, JournalUnavailable) as error:
            log.warning("journal not trimmed", error=str(error))
            return
        self.retention_blocked = trimmed.blocked

    def write(self, *, force: bool = False) -> None:
        """Stores the report: once a second, or now if forced."""
        now, report = time.monotonic(), self.report
        if now < self._reported + REPORT and not force:
            return
        self._reported = now
        if report.journal_lost and report.journal_lost.at < (time.time() - self.retention.age) * 1e6:
            report.journal_lost = None
        moved = (self.seen, report.frames)
        if moved != self._moved or self.seen >= self._server_end:
            self._moved, report.moved_at = moved, now_micros()
        if self.seen >= self._goal[0]:
            report.current_at = max(report.current_at, self._goal[1])
        report.seen, report.confirmed = format_lsn(self.seen), format_lsn(self.confirmed)
        report.undecodable = format_lsn(self.undecodable) if self.undecodable else None
        report.server_end, report.lag_bytes = format_lsn(self._server_end), max(0, self._server_end - self.seen)
        try:
            self.stores.reports.save(self.settings.name, CAPTURE, os.getpid(), self.state, report)
        except StateUnavailable as error:
            log.warning("no report", error=str(error))
