"""Role reports: what each role last reported of itself. Typed values, stored as JSON.

Writer and reader may be of different versions, as during an upgrade. Unknown fields are ignored and missing ones have their
defaults; a report that does not fit is kept as unreadable, and monitoring says so.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Row, bindparam, select, text

from cdc_tracker.state.process_identity import identity
from cdc_tracker.state.tables import roles as t
from cdc_tracker.state.transactions import Aggregate
from cdc_tracker.times import now_micros

VERSION = 1
CAPTURE, SUPERVISOR = "capture", "supervisor"

_columns = [column.name for column in t.c]
_REPORT = text(
    f"INSERT INTO cdc_tracker_role ({', '.join(_columns)}) VALUES ({', '.join(f':{name}' for name in _columns)}) "
    "ON CONFLICT (source, role) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _columns if name not in ("source", "role"))
)
_ALL = select(t).where(t.c.source == bindparam("of_source")).order_by(t.c.role)


class RoleReport(msgspec.Struct, kw_only=True):
    """Times are microseconds since the Unix epoch, 0 if unknown. `since`: when the role entered its state.

    `version`: of the format, set when it is stored; 0 in stores from before it had one.
    """

    version: int = 0
    since: int = 0
    trouble: str = ""
    hint: str = ""


class Alarm(msgspec.Struct, frozen=True):
    """`what`: what is wrong and what that means. `hint`: what to do. `since`: when it began."""

    what: str
    hint: str = ""
    since: int = 0


class JournalLost(msgspec.Struct, frozen=True):
    """Changes committed before the LSN `before` can no longer be rewound to. `at`: when that was detected; 0: just now."""

    at: int
    before: str = msgspec.field(name="from")


class CaptureReport(RoleReport, kw_only=True):
    """Counts are since the role started; LSNs and positions are text."""

    asked_at: int = 0  # when the server last reported the slot's state
    current_at: int = 0  # capture has seen everything that was written until then
    moved_at: int = 0  # when the stream last moved, or had nothing to bring
    seen: str = ""
    confirmed: str = ""
    journal_end: str = ""
    journaled_until: int = 0  # commit time of the last change in the journal
    journal_lost: JournalLost | None = None
    undecodable: str | None = None  # commit LSN of the transaction that the server cannot decode
    server_end: str = ""
    retained_bytes: int | None = None
    lag_bytes: int | None = None
    frames: int = 0
    changes: int = 0
    segments: int = 0
    alarms: list[Alarm] = []
    refusal: str = ""  # the name of the Refusal that the role stopped with


class DeliveryReport(RoleReport, kw_only=True):
    """`totals`: by outcome, since the role started. `recent`: by clock minute, then by outcome and `rejected:REASON`."""

    position: str = ""
    delivered_until: int = 0  # commit time of the last change before `position`
    totals: dict[str, int] = {}
    recent: dict[str, dict[str, int]] = {}
    in_flight: int = 0
    dry_run: bool = False  # the last events were held back
    moved: bool = False  # the destination's own checkpoint was not where it had been left
    problems: list[str] = []  # what of the mappings the tables that it met do not have


class RoleEnds(msgspec.Struct, kw_only=True):
    """How often a role ended unasked. `ends`, `ends_at`: within the last minutes. `code`: the last exit code, 0 if unknown."""

    running: bool = False
    ends_at: list[int] = []
    ends_ever: int = 0
    code: int = 0
    trouble: str = ""
    hint: str = ""
    ends: int = 0
    ended_at: int = 0


class ReloadFailed(msgspec.Struct, frozen=True):
    """The last reload did not load; the mappings before it stay in force."""

    at: int
    error: str
    hint: str = ""


class SupervisorReport(RoleReport, kw_only=True):
    """`reload`: the last reload, if it failed. `misfits`: what of the mappings in force their tables do not have.

    `mistakes`: other errors in them, with which they run.
    """

    roles: dict[str, RoleEnds] = {}
    reload: ReloadFailed | None = None
    misfits: list[str] = []
    mistakes: list[str] = []


R = TypeVar("R", bound=RoleReport)


@dataclass(frozen=True, slots=True)
class RoleRecord:
    """A role's last report, and the process that stored it.

    `unreadable`: why the stored report cannot be read; `report` then has only defaults. `process`: see
    process_identity.identity(); empty if an older version stored it.
    """

    source: str
    role: str
    pid: int
    host: str
    state: str
    report: RoleReport
    updated_at: int
    process: str = ""
    unreadable: str = ""


class Reports(Aggregate):
    """The last report of each role."""

    def save(self, source: str, role: str, pid: int, state: str, report: RoleReport) -> None:
        """Replace the role's report. Does nothing once this process was fenced or has lost its lock."""
        if self._transactions.lost:
            return
        report.version = VERSION
        values = {"source": source, "role": role, "pid": pid, "host": socket.gethostname(), "state": state, "process": identity()}
        detail = msgspec.json.encode(report).decode()
        with self._transactions.writing() as connection:
            connection.execute(_REPORT, values | {"detail": detail, "updated_at": now_micros()})

    def all(self, source: str) -> list[RoleRecord]:
        """Returns the reports by role."""
        with self._transactions.reading() as connection:
            return [_record(row) for row in connection.execute(_ALL, {"of_source": source})]

    def last(self, source: str, role: str, kind: type[R]) -> R:
        """Returns the role's last report; only defaults if there is none, or if it is unreadable."""
        found = next((record.report for record in self.all(source) if record.role == role), None)
        return found if isinstance(found, kind) else kind()


def report_type(role: str) -> type[RoleReport]:
    """The type of the reports of the role with this name."""
    if role == CAPTURE:
        return CaptureReport
    return SupervisorReport if role == SUPERVISOR else DeliveryReport


def _record(row: Row[Any]) -> RoleRecord:
    kind = report_type(row.role)
    try:
        report, unreadable = msgspec.json.decode(row.detail, type=kind), ""
    except msgspec.DecodeError as error:
        report, unreadable = kind(), str(error)
    return RoleRecord(row.source, row.role, row.pid, row.host, row.state, report, row.updated_at, row.process, unreadable)
