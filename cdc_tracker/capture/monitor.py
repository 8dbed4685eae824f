"""What capture sees beside the stream (the slot, the journal's size), the alarms that follow, and what it tells of itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog

from cdc_tracker.config.settings import Retention, SourceSettings
from cdc_tracker.errors import JournalUnavailable, StateUnavailable
from cdc_tracker.journal import Journal
from cdc_tracker.model import START, Lsn, Position, format_lsn
from cdc_tracker.sources.postgres.slot import Vitals
from cdc_tracker.state import Checkpoint, Job, State
from cdc_tracker.units import format_size

NEAR = 0.75  # of the WAL that a slot may hold, from which on it is told
REPORT = 1.0  # seconds between two reports

log = structlog.get_logger("capture")


class Holder(NamedTuple):
    """Somebody who still needs what the journal holds after a position."""

    position: Position
    who: str  # for a person: `the destination mixpanel`, `job 7 (replay to mixpanel, paused)`


def holders(checkpoints: Mapping[str, Checkpoint], jobs: Iterable[Job]) -> list[Holder]:
    """Who needs the most of it first. A rewind that was asked for needs what it will read; a dead letter has its own copy."""
    found = [
        Holder(min(each.position, each.rewind_to or each.position), f"the destination {name}")
        for name, each in checkpoints.items()
    ]
    for job in jobs:
        if job.needs is not None and not job.finished:
            found.append(Holder(job.needs, f"job {job.id} ({job.kind} to {job.destination}, {job.state})"))
    return sorted(found)


class Alarm(NamedTuple):
    """`what`: what is wrong, and what that means. `hint`: what to do."""

    what: str
    hint: str = ""


def now_us() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


@dataclass
class Progress:
    """`state` is streaming, reconnecting, `journal unavailable` or stopped; numbers count since the role started."""

    state: str = "starting"
    since: int = field(default_factory=now_us)  # when it entered that state
    trouble: str = ""
    hint: str = ""
    refusal: str = ""  # the name of the Refusal that the role stopped with
    frames: int = 0
    changes: int = 0
    segments: int = 0
    seen: Lsn = 0
    confirmed: Lsn = 0
    journal_end: str = ""
    journaled_until: int = 0  # commit time of the last change in the journal, microseconds since the Unix epoch

    def enter(self, state: str, trouble: str = "", hint: str = "") -> None:
        if state != self.state:
            self.since = now_us()
        self.state, self.trouble, self.hint = state, trouble, hint


@dataclass
class CaptureMonitor:
    """`journal_full`: it is over its size, and somebody still needs all of it.

    `journal_lost`: when and from which LSN on the journal had to begin anew. Told until retention would have cut that far itself.
    """

    settings: SourceSettings
    retention: Retention
    state: State
    journal: Journal
    progress: Progress = field(default_factory=Progress)
    journal_full: bool = False
    journal_lost: dict[str, Any] | None = None
    undecodable: Lsn = 0  # commits the transaction that the server could not decode, 0 where it can or that is not known
    _holder: str = ""
    _recalled: bool = False
    _server_end: Lsn = 0
    _retained: int | None = None  # bytes of WAL that the slot holds
    _alarms: dict[Alarm, int] = field(default_factory=dict)  # since when
    _reported: float = 0.0
    _asked_at: int = 0  # when the server last told how the slot stands
    _goal: tuple[Lsn, int] = (0, 0)  # how far the WAL went at that time, until capture has seen it all
    _current_at: int = 0  # capture has seen everything that was written until then
    _moved: tuple[Lsn, int] = (0, 0)
    _moved_at: int = 0

    def look(self, vitals: Vitals) -> None:
        """Take in how the slot stands on the server."""
        self._server_end, self._retained, self._asked_at = vitals.wal_end, vitals.retained_bytes, now_us()
        if self._current_at >= self._goal[1]:
            self._goal = (vitals.wal_end, self._asked_at)
        alarms = list(self._found(vitals))
        for alarm in alarms:
            if alarm not in self._alarms:
                log.error(alarm.what, hint=alarm.hint)
        self._alarms = {alarm: self._alarms.get(alarm, self._asked_at) for alarm in alarms}

    def over_max_wal(self, wal_end: Lsn) -> bool:
        """Whether what is journaled is to be confirmed, delivered or not. Holds while the server cannot be asked, too."""
        behind = wal_end - self.progress.confirmed if self.progress.confirmed else 0
        return self.settings.ack == "delivered" and max(self._retained or 0, behind) > self.settings.max_wal

    def _found(self, vitals: Vitals) -> Iterator[Alarm]:
        for fault in vitals.faults:
            yield Alarm(f"{fault.key} {fault.message}", fault.hint)
        retained, left = vitals.retained_bytes or 0, vitals.safe_wal_size
        if vitals.wal_status in ("unreserved", "lost") or not vitals.exists:
            text = f"the slot is {vitals.wal_status or 'gone'}: the server removes WAL that was not read yet"
            yield Alarm(text, "find out what keeps capture from reading; `cdc-tracker repair` mends a slot that is lost")
        elif left is not None and retained > NEAR * (retained + left):
            hint = "mend what holds it back, or raise max_slot_wal_keep_size"
            yield Alarm("the server gives the slot up soon: see max_slot_wal_keep_size", hint)
        if retained > self.settings.max_wal:
            yield self._over(vitals)
        if self.journal_full:
            size = format_size(self.retention.size)
            yield Alarm(
                f"the journal is over its size ({size}), and {self._holder} still needs all of it: it grows on its own disk",
                "mend that destination, or take it out of the configuration; go on with that job, or cancel it",
            )

    def _over(self, vitals: Vitals) -> Alarm:
        """What is confirmed moves a slot; but an open transaction keeps all WAL since it began, whatever is confirmed."""
        size = format_size(self.settings.max_wal)
        if vitals.wal_end - (vitals.confirmed_flush_lsn or 0) < self.settings.max_wal // 2:
            return Alarm(
                f"the slot holds more WAL than max_wal ({size}) for a transaction that is open, or large and being read: nothing "
                "that is confirmed frees it",
                "SELECT pid, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; and see "
                "pg_prepared_xacts: end the oldest",
            )
        if self.settings.ack == "journaled":
            return Alarm(f"the slot holds more WAL than max_wal ({size}): capture is behind", "see what keeps it, in its log")
        text = f"the slot holds more WAL than max_wal ({size}): what is journaled is confirmed, delivered or not"
        return Alarm(text, "mend the destination that is behind; mind the journal's disk")

    def recall(self) -> None:
        """What the role said before it was started again, and still holds."""
        if self._recalled:
            return
        self._recalled = True
        for role in self.state.reports.all(self.settings.name):
            if role.role == "capture":
                self.progress.journaled_until = int(role.detail.get("journaled_until", 0))
                self._current_at = int(role.detail.get("current_at", 0))
                self.journal_lost = role.detail.get("journal_lost")

    def lose_journal(self, begins: Lsn, held: Lsn) -> None:
        """The journal lacks what it held, and nothing of it is missing at a destination."""
        since = format_lsn(begins)
        self.journal_lost = {"at": time.time_ns() // 1000, "from": since}
        log.warning(
            f"the journal was lost or replaced: it held changes up to {format_lsn(held)}. Every destination has them, or the "
            f"slot gives them again under the same ids; what committed before {since} cannot be rewound to any more"
        )

    def trim(self, held: list[Holder]) -> None:
        """Drop what the journal need not keep: what the first of `held` has no use for."""
        keep_after, self._holder = held[0] if held else (START, "")
        try:
            trimmed = self.journal.trim(age_s=self.retention.age, size=self.retention.size, keep_after=keep_after)
        except JournalUnavailable as error:
            log.warning("journal not trimmed", error=str(error))
            return
        self.journal_full = trimmed.blocked

    def report(self, *, force: bool = False) -> None:
        """Once a second into the state store, where health and `status` read it."""
        now = time.monotonic()
        if now < self._reported + REPORT and not force:
            return
        self._reported = now
        progress = self.progress
        if self.journal_lost and self.journal_lost["at"] < (time.time() - self.retention.age) * 1e6:
            self.journal_lost = None
        moved = (progress.seen, progress.frames)
        if moved != self._moved or progress.seen >= self._server_end:
            self._moved, self._moved_at = moved, now_us()
        if progress.seen >= self._goal[0]:
            self._current_at = max(self._current_at, self._goal[1])
        detail = {
            "since": progress.since,
            "asked_at": self._asked_at,
            "current_at": self._current_at,
            "moved_at": self._moved_at,
            "seen": format_lsn(progress.seen),
            "confirmed": format_lsn(progress.confirmed),
            "journal_end": progress.journal_end,
            "journaled_until": progress.journaled_until,
            "journal_lost": self.journal_lost,
            "undecodable": format_lsn(self.undecodable) if self.undecodable else None,
            "server_end": format_lsn(self._server_end),
            "retained_bytes": self._retained,
            "lag_bytes": max(0, self._server_end - progress.seen),
            "frames": progress.frames,
            "changes": progress.changes,
            "segments": progress.segments,
            "alarms": [{"what": alarm.what, "hint": alarm.hint, "since": since} for alarm, since in self._alarms.items()],
            "trouble": progress.trouble,
            "hint": progress.hint,
            "refusal": progress.refusal,
        }
        try:
            self.state.reports.save(self.settings.name, "capture", os.getpid(), progress.state, detail)
        except StateUnavailable as error:
            log.warning("no report", error=str(error))
