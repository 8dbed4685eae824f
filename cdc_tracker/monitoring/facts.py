"""Facts about a worker, read from the state store, the journal and the disk. findings.py says what follows from them."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from cdc_tracker.delivery.outcomes import added_up
from cdc_tracker.journal import Horizon, Journal, Waiting
from cdc_tracker.model import Position
from cdc_tracker.monitoring.findings import Finding, findings
from cdc_tracker.state import (
    CAPTURE,
    SUPERVISOR,
    CaptureReport,
    Checkpoint,
    DeliveryReport,
    Job,
    RoleRecord,
    RoleReport,
    State,
    SupervisorReport,
    Totals,
    process_identity,
)
from cdc_tracker.state.tables import OUTCOMES
from cdc_tracker.times import now_micros

SILENT = 15.0  # seconds after which a role's last report does not count as its present state

_NOTHING = Totals(dict.fromkeys(OUTCOMES, 0), dict.fromkeys(OUTCOMES, 0))

R = TypeVar("R", bound=RoleReport)


@dataclass(frozen=True)
class DestinationHealth:
    """`since`: when it entered its state, microseconds. `recent`: outcomes of the last minutes, and `rejected:REASON`."""

    name: str
    position: Position | None
    rewind_to: Position | None
    backlog: int  # bytes of WAL between the checkpoint and the journal's end
    waiting: Waiting  # what the journal has after the checkpoint
    lag: float  # seconds since the commit of the oldest change that it has not dealt with; 0 if there is none
    state: str
    since: int
    trouble: str
    hint: str
    recent: Mapping[str, int]
    dead_letters: dict[str, int]
    totals: Totals
    misfits: list[str] = field(default_factory=list)  # what of the mappings the tables that it met do not have
    dry_run: bool = False

    @property
    def settled(self) -> int:
        """How many events have a final outcome."""
        return sum(self.totals.now.get(name, 0) for name in ("delivered", "assumed", "rejected", "suppressed", "replayed"))


@dataclass(frozen=True)
class Health:
    """`now` in microseconds. `free`: bytes left on the disk of data_dir, and how many it has."""

    now: int
    source: str
    roles: list[RoleRecord]
    states: dict[str, str]  # by role, see condition()
    capture: CaptureReport
    supervisor: SupervisorReport
    destinations: list[DestinationHealth]
    horizon: Horizon | None
    journal_end: Position | None
    free: tuple[int, int] | None
    jobs: list[Job] = field(default_factory=list)  # that are not done or cancelled

    @property
    def findings(self) -> list[Finding]:
        """Errors and warnings, in reading order."""
        return list(findings(self))

    @property
    def problems(self) -> list[str]:
        """Why the worker is not ready; empty if it is."""
        return [str(finding) for finding in self.findings if finding.severity == "error"]

    @property
    def current_at(self) -> int | None:
        """The journal has everything that was committed until then, in microseconds. None if that is not known."""
        return max(self.capture.current_at, self.capture.journaled_until) or None


class Observer:
    """Reads one source's state and journal. `data`: the folder on whose disk they are."""

    def __init__(self, state: State, journal: Journal, source: str, destinations: Sequence[str], data: Path) -> None:
        self._state, self._journal = state, journal
        self._source, self._destinations, self._data = source, destinations, data

    def look(self, *, letters: bool = True) -> Health:
        """`letters`: count dead letters, which takes longer the more there are."""
        roles = {role.role: role for role in self._state.reports.all(self._source)}
        checkpoints, end = self._state.checkpoints.all(self._source), self._journal.end()
        totals = self._state.ledger.totals(self._source)
        counted = self._state.dead_letters.count(self._source) if letters else {}
        return Health(
            now=now_micros(),
            source=self._source,
            roles=list(roles.values()),
            states={name: condition(role) for name, role in roles.items()},
            capture=_report(roles.get(CAPTURE), CaptureReport),
            supervisor=_report(roles.get(SUPERVISOR), SupervisorReport),
            destinations=[
                self._destination(
                    name,
                    roles.get(f"deliver:{name}"),
                    checkpoints.get(name),
                    end,
                    {reason: number for (to, reason), number in counted.items() if to == name},
                    totals.get(name, _NOTHING),
                )
                for name in self._destinations
            ],
            horizon=self._journal.horizon(),
            journal_end=end,
            free=_free(self._data),
            jobs=self._state.jobs.all(self._source, unfinished=True),
        )

    def unmatched(self) -> dict[str, int]:
        """Returns, by destination, how many mappings in force no change has matched since they were loaded.

        A destination that has loaded no mapping yet is left out.
        """
        found: Counter[str] = Counter()
        for each in self._state.mappings.all(self._source):
            if each.destination in self._destinations:
                found[each.destination] += not each.matched
        return found

    def _destination(
        self,
        name: str,
        role: RoleRecord | None,
        checkpoint: Checkpoint | None,
        end: Position | None,
        letters: dict[str, int],
        totals: Totals,
    ) -> DestinationHealth:
        report, position = _report(role, DeliveryReport), checkpoint.position if checkpoint else None
        waiting = self._journal.waiting(position) if position and end and position < end else Waiting()
        return DestinationHealth(
            name=name,
            position=position,
            rewind_to=checkpoint.rewind_to if checkpoint else None,
            backlog=max(0, end.commit_lsn - position.commit_lsn) if end and position else 0,
            waiting=waiting,
            lag=max(0.0, time.time() - waiting.oldest / 1e6) if waiting.oldest else 0.0,
            state=condition(role),
            since=report.since,
            trouble=report.trouble,
            hint=report.hint,
            recent=added_up(report.recent),
            dead_letters=letters,
            totals=totals,
            misfits=report.problems,
            dry_run=report.dry_run,
        )


def condition(role: RoleRecord | None) -> str:
    """The state that a role is in: the reported one, if it can still be true.

    `gone`: its process has ended, or has not reported and cannot be seen from here. `silent`: its process runs and does not
    report.
    """
    if role is None:
        return "gone"
    if role.state in ("stopped", "failed"):
        return role.state
    running = process_identity.runs(role.pid, role.process)
    if running is False:
        return "gone"
    if abs(time.time() - role.updated_at / 1e6) > SILENT:  # or was reported before the clock was set back
        return "silent" if running else "gone"
    return role.state


def reports(roles: Sequence[RoleRecord], name: str) -> bool:
    """Whether the role of that name is at work, by its last report."""
    return any(role.role == name and condition(role) not in ("gone", "silent", "stopped", "failed") for role in roles)


def _report(role: RoleRecord | None, kind: type[R]) -> R:
    """The last report; only defaults if there is none. `since` of a role that does not work any more is when it last reported."""
    if role is None or not isinstance(role.report, kind):
        return kind()
    away = condition(role) in ("gone", "silent", "stopped")
    return replace(role.report, since=role.updated_at) if away else role.report


def _free(folder: Path) -> tuple[int, int] | None:
    try:
        found = shutil.disk_usage(folder)
    except OSError:
        return None
    return found.free, found.total
