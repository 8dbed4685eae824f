"""The supervisor's report: roles that end again and again, a reload that failed, mappings that do not fit their tables."""

from __future__ import annotations

import os
import threading
from contextlib import closing

import structlog
from msgspec.structs import replace

from cdc_tracker.config.config import Config
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.mapping import Mappings
from cdc_tracker.monitoring.fit import certain_and_other
from cdc_tracker.sources.postgres.connection import connect, translated
from cdc_tracker.state import SUPERVISOR, ReloadFailed, RoleEnds, RoleRecord, State, SupervisorReport, report_type
from cdc_tracker.times import now_micros

REPORT = 1.0  # seconds between two reports
FIT = 60.0  # seconds between two comparisons of mappings and tables
WINDOW = 600.0  # seconds for which the end of a role counts
QUERY = 20.0  # seconds that a comparison may take

log = structlog.get_logger("daemon")


class WorkerReporter:
    """Stores the report once a second from its own thread: an unavailable store must not delay the supervision of the roles.

    Another thread compares the mappings in force with their tables, after a reload and once a minute. The caller closes it.
    """

    def __init__(self, config: Config, state: State, mappings: Mappings) -> None:
        self._config, self._state, self._mappings = config, state, mappings
        self._roles = _recalled(state, config.source.name)
        self._unread: set[str] = set()  # roles that ended, and may have left a report of why: see failed()
        self._reload: ReloadFailed | None = None
        self._misfits: list[str] = []
        self._mistakes: list[str] = []
        self._stored = True  # the last report
        self._since = now_micros()
        self._ended, self._due, self._changed = threading.Event(), threading.Event(), threading.Event()
        self._due.set()
        self._reporter = threading.Thread(target=self._reporting, name="report", daemon=True)
        self._reporter.start()
        threading.Thread(target=self._fitting, name="fit", daemon=True).start()

    def started(self, role: str) -> None:
        """Note that the role runs."""
        self._roles.setdefault(role, RoleEnds()).running = True

    def ended(self, role: str, code: int) -> None:
        """`code`: 0 if it was asked to end."""
        found = self._roles.setdefault(role, RoleEnds())
        found.running = False
        if code:
            _count_end(found, now_micros(), code)
            self._unread.add(role)
            self._due.set()  # before it is started again and replaces the report that it left

    def reloaded(self, mappings: Mappings) -> None:
        """Note the mappings now in force."""
        self._reload, self._mappings = None, mappings
        self._changed.set()

    def reload_failed(self, error: CdcTrackerError) -> None:
        """Reports the error until a reload succeeds."""
        self._reload = ReloadFailed(now_micros(), str(error), error.hint)

    def close(self) -> None:
        """Stores the last report, unless the store hangs."""
        self._ended.set()
        self._changed.set()
        self._due.set()
        self._reporter.join(REPORT)
        if not self._reporter.is_alive():  # else the store hangs; do not wait for it
            self._store("stopped")

    def _reporting(self) -> None:
        while not self._ended.is_set():
            self._due.wait(REPORT)
            self._due.clear()
            self._store("running")

    def _read(self) -> None:
        """Takes in what roles that have just ended reported."""
        for record in self._state.reports.all(self._config.source.name):
            if record.role in self._unread:
                self._unread.discard(record.role)
                _explain(self._roles[record.role], record)

    def _store(self, state: str) -> None:
        try:
            if self._unread:
                self._read()
            self._state.reports.save(self._config.source.name, SUPERVISOR, os.getpid(), state, self._report())
        except CdcTrackerError as error:
            if self._stored:
                log.warning("no report: it is tried every second", error=str(error), hint=error.hint)
            self._stored = False
        else:
            self._stored = True

    def _report(self) -> SupervisorReport:
        roles = dict(self._roles)
        for role in roles.values():
            role.ends_at = [at for at in role.ends_at if at > now_micros() - WINDOW * 1e6]
            role.ends, role.ended_at = len(role.ends_at), max(role.ends_at, default=0)
        return SupervisorReport(
            since=self._since, roles=roles, reload=self._reload, misfits=self._misfits, mistakes=self._mistakes
        )

    def _fitting(self) -> None:
        while not self._ended.is_set():
            try:
                self._fit(self._mappings)
            except CdcTrackerError as error:
                log.debug("mappings and tables were not compared", error=str(error))  # capture reports why
            except Exception:
                log.exception("mappings and tables were not compared")
            self._changed.wait(FIT)
            self._changed.clear()

    def _fit(self, mappings: Mappings) -> None:
        with closing(connect(self._config.source.url.get_secret_value(), statement_timeout=QUERY)) as connection, translated():
            misfits, mistakes = certain_and_other(connection, mappings)
        for problem in misfits:
            if problem not in self._misfits:
                log.error("a mapping does not fit its table", problem=problem)
        for problem in mistakes:
            if problem not in self._mistakes:
                log.warning("a mapping does what cannot be meant", problem=problem)
        self._misfits, self._mistakes = misfits, mistakes


def _recalled(state: State, source: str) -> dict[str, RoleEnds]:
    """Returns the previous worker's reports of its roles; and of itself, if it ended without being asked to."""
    before = next((record for record in state.reports.all(source) if record.role == SUPERVISOR), None)
    if before is None or not isinstance(before.report, SupervisorReport):
        return {}
    roles = before.report.roles
    for role in roles.values():
        role.running = False
    if before.state != "stopped":
        itself = roles.setdefault(SUPERVISOR, RoleEnds())
        _count_end(itself, before.updated_at, 0)
        _explain(itself, before)
    return roles


def _count_end(role: RoleEnds, at: int, code: int) -> None:
    role.ends_at.append(at)
    role.ends_ever += 1
    role.code = code


def _explain(role: RoleEnds, record: RoleRecord) -> None:
    """Why it ended, if its last report says that it failed."""
    failed = record.state == "failed"
    role.trouble, role.hint = (record.report.trouble, record.report.hint) if failed else ("", "")


def failed(state: State, source: str, role: str | None, trouble: str, hint: str) -> None:
    """Reports what ended a role; None: the supervisor. `trouble` has no secret in it."""
    name = role or SUPERVISOR
    before = state.reports.last(source, name, report_type(name))
    report = replace(before, trouble=trouble, hint=hint, since=now_micros())
    state.reports.save(source, name, os.getpid(), "failed", report)
