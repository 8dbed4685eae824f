"""From facts to findings: the one place that decides whether the worker is well, for `status`, /readyz and /metrics."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cdc_tracker.delivery.outcomes import MINUTES
from cdc_tracker.errors import NEEDS_A_PERSON
from cdc_tracker.units import format_duration, format_size

if TYPE_CHECKING:
    from cdc_tracker.monitoring.facts import DestinationHealth, Health
    from cdc_tracker.state import CaptureReport, RoleEnds

STALLED = 60.0  # seconds that a stream may not move although the server has written WAL
BEHIND = 300.0  # seconds that capture or a destination may be behind before the worker is not ready
RETRYING = 60.0  # seconds that a destination may fail before the worker is not ready
REJECTED = 0.1  # of the last minutes' events, from which on the worker is not ready
ENDS = 3  # unwanted ends of a role within ten minutes from which on the worker is not ready
FULL = 0.01  # of the disk that is left, or

_SPARE = 1_000_000_000  # bytes: a disk that has so many left is not full
_LEAST = 1_000_000  # and one that has not even these is


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. An `error` makes the worker unready, a `warning` does not.

    `who`: `capture`, `worker`, `data_dir` or a destination's name. `since`: microseconds, 0 if unknown.
    """

    severity: Literal["error", "warning"]
    who: str
    what: str
    hint: str = ""
    since: int = 0

    def __str__(self) -> str:
        """One sentence: `capture is gone`, `events: 3 dead letters wait`."""
        sentence = self.what.startswith(("is ", "was ", "has ", "ended "))
        return f"{self.who}{' ' if sentence else ': ' if self.who else ''}{self.what}"


def findings(health: Health) -> Iterator[Finding]:
    """Errors and warnings, in reading order."""
    yield from _worker(health)
    yield from _unreadable(health)
    yield from _disk(health)
    yield from _capture(health)
    yield from _mappings(health)
    for destination in health.destinations:
        yield from _destination(health, destination)
    for job in health.jobs:
        if job.state == "failed":
            yield Finding(
                "warning",
                job.destination,
                f"job {job.id} ({job.kind}) has failed: {job.trouble}",
                f"`cdc-tracker jobs resume {job.id}` tries again, `cdc-tracker jobs cancel {job.id}` gives it up",
                job.updated_at,
            )


# The worker as a whole.


def _worker(health: Health) -> Iterator[Finding]:
    report, state = health.supervisor, health.states.get("supervisor", "")
    if state == "failed":
        yield Finding("error", "worker", f"has stopped: {report.trouble}", report.hint, report.since)
    elif state == "silent":
        text = "its supervisor runs but does not report: it hangs, or the state store refuses it"
        yield Finding("error", "worker", text, _START["silent"])
    elif state == "gone" and not all(_at_work(health, role) for role in _roles(health)):  # else each was started on its own
        yield Finding("error", "worker", "was killed: its process is gone", _START["gone"])
    if state not in ("gone", "stopped", "failed"):  # else what it reported of its roles is outdated
        for name, role in report.roles.items():
            yield from _ends(name, role)


def _unreadable(health: Health) -> Iterator[Finding]:
    """A report that cannot be read must not pass for one in which all is well."""
    named = {"supervisor": "worker", "capture": "capture"} | {f"deliver:{each.name}": each.name for each in health.destinations}
    for role in health.roles:
        if role.unreadable and role.role in named:
            text = f"its last report cannot be read: {role.unreadable}. What it does is unknown"
            hint = "another version of cdc-tracker wrote it: use one version for the worker and its commands"
            yield Finding("error", named[role.role], text, hint, role.updated_at)


def _roles(health: Health) -> list[str]:
    return ["capture", *(f"deliver:{destination.name}" for destination in health.destinations)]


def _at_work(health: Health, role: str) -> bool:
    return health.states.get(role, "gone") not in ("gone", "silent", "stopped", "failed")


def _ends(name: str, role: RoleEnds) -> Iterator[Finding]:
    """A role that ends again and again is at work in between."""
    if not role.ends:
        return
    severe = role.ends >= ENDS or (role.code == NEEDS_A_PERSON and not role.running)
    times = "once" if role.ends == 1 else f"{role.ends} times"
    trouble = f": {role.trouble.rstrip('.')}" if role.trouble else ""
    how = f", last with {_code(role.code)}" if role.code else ""
    text = f"ended {times} within ten minutes{how}{trouble}. It is started again, from its checkpoint"
    hint = role.hint or "the log says why; one that ends by SIGKILL may have exceeded a memory limit"
    who = "worker" if name == "supervisor" else name
    yield Finding("error" if severe else "warning", who, text, hint, role.ended_at)


def _code(code: int) -> str:
    try:
        return f"code {code}" if code >= 0 else signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _disk(health: Health) -> Iterator[Finding]:
    if health.free is None:
        return
    left, size = health.free
    if left < _LEAST or (left < FULL * size and left < _SPARE):
        yield Finding(
            "error",
            "data_dir",
            f"its disk is full ({format_size(left)} of {format_size(size)} left): what cannot be stored waits on the server",
            "free some space: it then continues without a restart, and nothing that was confirmed is lost",
        )


# Capture.


def _capture(health: Health) -> Iterator[Finding]:
    report, state = health.capture, health.states.get("capture", "gone")
    if state == "streaming":
        yield from _stream(health, report)
    else:
        hint = _what_to_do(health, state) or report.hint
        yield Finding("error", "capture", f"is {state}{_why(health, 'capture', state)}", hint, report.since)
    if state not in ("gone", "stopped"):
        for alarm in report.alarms:
            yield Finding("error", "", alarm.what, alarm.hint, alarm.since)


def _stream(health: Health, report: CaptureReport) -> Iterator[Finding]:
    moved, asked, behind = (_seconds(health, each) for each in (report.moved_at, report.asked_at, health.current_at))
    if moved > STALLED:
        text = f"the stream has not moved for {moved:.0f} s although the server has written WAL"
        yield Finding("error", "", text, "look at pg_stat_replication; restart the worker", report.moved_at)
    elif behind > BEHIND:
        text = f"is {format_duration(behind)} behind the server: what was committed since is not in the journal yet"
        yield Finding("error", "capture", text, "it catches up, if the journal's disk is fast enough", report.current_at)
    if asked > STALLED:
        text = f"has not learned the slot's state for {asked:.0f} s: lag and retained WAL are unknown"
        yield Finding("error", "capture", text, "the log says why; can the server take another connection?", report.asked_at)


_START = {
    "gone": "start the worker: `cdc-tracker run`. WAL waits on the server meanwhile",
    "stopped": "start the worker: `cdc-tracker run`. WAL waits on the server meanwhile",
    "silent": "is the state store unavailable, or its disk full? Otherwise the process hangs: kill it, and it is started again",
}


def _what_to_do(health: Health, state: str) -> str:
    """The hint for a role that is not at work."""
    if state in ("gone", "stopped") and health.states.get("supervisor") == "running":
        return "the supervisor starts it again: the log says why it ended"
    return _START.get(state, "")


def _why(health: Health, name: str, state: str) -> str:
    """Describes a role that is not at work, as text that follows its state."""
    role = next((role for role in health.roles if role.role == name), None)
    if role is None:
        return ": it has never run"
    ago = format_duration(max(0.0, (health.now - role.updated_at) / 1e6))
    if state == "silent":
        return f": its process {role.pid} runs but has not reported for {ago}"
    if state in ("gone", "stopped"):
        return f" (process {role.pid} on {role.host}, last report {ago} ago)"
    return f": {role.report.trouble}" if role.report.trouble else ""


# Mappings.


def _mappings(health: Health) -> Iterator[Finding]:
    if reload := health.supervisor.reload:
        text = f"the last reload failed, and the old ones stay in force: {reload.error}"
        yield Finding("error", "mappings", text, reload.hint or "fix them and reload again (SIGHUP)", reload.at)
    misfits = list(health.supervisor.misfits)
    for destination in health.destinations:
        if destination.state not in ("gone", "stopped", "failed"):
            misfits += [each for each in destination.misfits if each not in misfits]
    for each in misfits:
        text, _, hint = each.partition("\n")
        yield Finding("error", "mappings", f"do not fit the tables: {text}", hint.strip())
    for each in health.supervisor.mistakes:
        text, _, hint = each.partition("\n")
        yield Finding("warning", "mappings", text, hint.strip() or "correct the mapping and reload (SIGHUP)")


# Destinations.


_BEHIND = {
    "failing": "nothing is lost: sending is retried until the destination accepts the events",
    "slow": "it accepts fewer events than there are to deliver, or a `rewind` sends it history again",
}


def _destination(health: Health, each: DestinationHealth) -> Iterator[Finding]:
    if each.state in ("gone", "silent", "stopped", "failed"):
        role = f"deliver:{each.name}"
        text = f"nothing delivers to it: its role is {each.state}{_why(health, role, each.state)}, {_waits(each)}"
        yield Finding("error", each.name, text, _what_to_do(health, each.state) or each.hint, each.since)
    elif each.state in ("retrying", "blocked") or each.lag > BEHIND:
        failing = _seconds(health, each.since)
        severe = each.state == "blocked" or each.lag > BEHIND or failing > RETRYING
        lasts = f" for {format_duration(failing)}" if each.trouble else ""
        text = f"is {each.state}{lasts}, {_waits(each)}{': ' if each.trouble else ''}{each.trouble}"
        hint = each.hint or _BEHIND["failing" if each.trouble else "slow"]
        yield Finding("error" if severe else "warning", each.name, text, hint, each.since)
    elif each.trouble and each.state != "waiting":  # for the time at which it is configured to begin
        waits = f", {_waits(each)}" if each.state == "delivering" and each.waiting.changes else ""
        yield Finding("warning", each.name, each.trouble + waits, each.hint, each.since if waits else 0)
    yield from _rejections(each)


def _waits(each: DestinationHealth) -> str:
    if not each.waiting.changes:
        return "and nothing waits for it"
    more = "more than " if each.waiting.more else "up to "
    return f"{more}{each.waiting.changes:,} changes wait, the oldest for {format_duration(each.lag)}"


def _rejections(each: DestinationHealth) -> Iterator[Finding]:
    parked, recent = sum(each.dead_letters.values()), each.recent
    rejected = recent.get("rejected", 0)
    if rejected and each.state not in ("gone", "stopped"):
        events = rejected + sum(recent.get(outcome, 0) for outcome in ("delivered", "assumed", "suppressed"))
        reasons = ", ".join(sorted(key.partition(":")[2] for key in recent if key.startswith("rejected:")))
        share = f"{rejected:,} of {events:,} events of the last {MINUTES} minutes ({100 * rejected / events:.0f} %)"
        yield Finding(
            "error" if rejected >= REJECTED * events else "warning",
            each.name,
            f"{share} were rejected and parked as dead letters: {reasons}",
            "`cdc-tracker dead-letters list` shows them: fix the mapping, reload, and retry them",
        )
    elif parked:
        number = "1 dead letter waits" if parked == 1 else f"{parked:,} dead letters wait"
        yield Finding("warning", each.name, f"{number} to be retried or discarded", "`cdc-tracker dead-letters list` says why")


def _seconds(health: Health, moment: int | None) -> float:
    return max(0.0, (health.now - moment) / 1e6) if moment else 0.0
