"""What the supervisor tells of itself: which roles end again and again, a reload that failed, mappings that fit no table."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import structlog

from cdc_tracker.capture.monitor import now_us
from cdc_tracker.config.config import Config
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.logs import hide
from cdc_tracker.mapping import Mappings
from cdc_tracker.monitoring.facts import SUPERVISOR
from cdc_tracker.monitoring.fit import misfits
from cdc_tracker.sources.postgres.connection import connect, translated
from cdc_tracker.state import State

REPORT = 1.0  # seconds between two reports
FIT = 60.0  # seconds between two looks at the tables
WINDOW = 600.0  # seconds for which the end of a role is remembered
QUERY = 20.0  # seconds that a look at the tables may take

log = structlog.get_logger("daemon")


@dataclass
class _Role:
    """How often it ended unasked. `ends_at`: when, within the last WINDOW, in microseconds."""

    running: bool = False
    ends_at: list[int] = field(default_factory=list)
    ends_ever: int = 0
    code: int = 0  # that it ended with last; 0 where nobody knows
    trouble: str = ""
    hint: str = ""
    unread: bool = False  # what it left word of: see failed()

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> _Role:
        """As it was told by the worker before this one."""
        known = {each.name for each in fields(cls)} - {"running", "unread"}
        return cls(**{name: value for name, value in told.items() if name in known})

    def end(self, at: int, code: int) -> None:
        self.ends_at.append(at)
        self.ends_ever += 1
        self.code = code

    def told(self) -> dict[str, Any]:
        self.ends_at = [at for at in self.ends_at if at > now_us() - WINDOW * 1e6]
        told = asdict(self) | {"ends": len(self.ends_at), "ended_at": max(self.ends_at, default=0)}
        del told["unread"]
        return told


class WorkerReport:
    """Stored once a second from a thread of its own: a store that is away must not hold up the supervision of the roles.

    Another thread looks whether the mappings in force fit the tables: after a reload, and once a minute. To be closed.
    """

    def __init__(self, config: Config, state: State, mappings: Mappings) -> None:
        self._config, self._state, self._mappings = config, state, mappings
        self._roles = _recalled(state, config.source.name)
        self._reload: dict[str, Any] | None = None
        self._misfits: list[str] = []
        self._heard = True  # the last report was stored
        self._since = now_us()
        self._ended, self._due, self._changed = threading.Event(), threading.Event(), threading.Event()
        self._due.set()
        self._reporter = threading.Thread(target=self._reporting, name="report", daemon=True)
        self._reporter.start()
        threading.Thread(target=self._fitting, name="fit", daemon=True).start()

    def started(self, role: str) -> None:
        self._roles.setdefault(role, _Role()).running = True

    def ended(self, role: str, code: int) -> None:
        """With code 0 where it was told to."""
        found = self._roles.setdefault(role, _Role())
        found.running = False
        if code:
            found.end(now_us(), code)
            found.unread = True
            self._due.set()  # before it is started again, and its word is gone

    def reloaded(self, mappings: Mappings) -> None:
        self._reload, self._mappings = None, mappings
        self._changed.set()

    def reload_failed(self, error: CdcTrackerError) -> None:
        self._reload = {"at": now_us(), "error": str(error), "hint": error.hint}

    def close(self) -> None:
        self._ended.set()
        self._changed.set()
        self._due.set()
        self._reporter.join(REPORT)
        if not self._reporter.is_alive():  # else the store hangs, and is not waited for
            self._store("stopped")

    def _reporting(self) -> None:
        while not self._ended.is_set():
            self._due.wait(REPORT)
            self._due.clear()
            self._store("running")

    def _read(self) -> None:
        """What roles that have just ended left word of."""
        for said in self._state.reports.all(self._config.source.name):
            role = self._roles.get(said.role)
            if role is not None and role.unread:
                told = said.detail if said.state == "failed" else {}
                role.unread, role.trouble, role.hint = False, str(told.get("trouble", "")), str(told.get("hint", ""))

    def _store(self, state: str) -> None:
        try:
            if any(role.unread for role in list(self._roles.values())):
                self._read()
            self._state.reports.save(self._config.source.name, SUPERVISOR, os.getpid(), state, self._told())
        except CdcTrackerError as error:
            if self._heard:
                log.warning("no report: it is tried every second", error=str(error), hint=error.hint)
            self._heard = False
        else:
            self._heard = True

    def _told(self) -> dict[str, Any]:
        return {
            "since": self._since,
            "roles": {name: role.told() for name, role in list(self._roles.items())},
            "reload": self._reload,
            "misfits": self._misfits,
        }

    def _fitting(self) -> None:
        while not self._ended.is_set():
            try:
                self._fit(self._mappings)
            except CdcTrackerError as error:
                log.debug("the tables were not looked at", error=str(error))  # capture tells what is wrong with the server
            except Exception:
                log.exception("the tables were not looked at")
            self._changed.wait(FIT)
            self._changed.clear()

    def _fit(self, mappings: Mappings) -> None:
        with closing(connect(self._config.source.url.get_secret_value(), statement_timeout=QUERY)) as connection, translated():
            found = [str(problem) for problem in misfits(connection, mappings) if problem.severity == "error"]
        for problem in found:
            if problem not in self._misfits:
                log.error("a mapping does not fit its table", problem=problem)
        self._misfits = found


def _recalled(state: State, source: str) -> dict[str, _Role]:
    """What the worker before this one knew of its roles, and of itself: whether it stopped, or ended otherwise."""
    before = next((role for role in state.reports.all(source) if role.role == SUPERVISOR), None)
    if before is None:
        return {}
    roles = {name: _Role.of(told) for name, told in before.detail.get("roles", {}).items()}
    if before.state != "stopped":
        itself = roles.setdefault(SUPERVISOR, _Role())
        itself.end(before.updated_at, 0)
        told = before.detail if before.state == "failed" else {}
        itself.trouble, itself.hint = str(told.get("trouble", "")), str(told.get("hint", ""))
    return roles


def failed(config: Config, role: str | None, trouble: str, hint: str) -> None:
    """Leave word of what ended a role (None: the supervisor), where the state store can be written."""
    name = role or SUPERVISOR
    try:
        with State.open(config.state_url) as state:
            said = next((each.detail for each in state.reports.all(config.source.name) if each.role == name), {})
            told = {"trouble": hide(trouble, config.secrets()), "hint": hint, "since": now_us()}
            state.reports.save(config.source.name, name, os.getpid(), "failed", {**said, **told})
    except CdcTrackerError as error:
        log.warning("no report", error=str(error))
