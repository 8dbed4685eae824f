"""`status`: the worker as /readyz and /metrics report it, and the slot as the server has it."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker import operations
from cdc_tracker.cli import FOUND_PROBLEMS, Invocation, output
from cdc_tracker.cli.jobs import as_dict, share, what
from cdc_tracker.cli.ledger import never_matched
from cdc_tracker.times import for_display
from cdc_tracker.units import format_duration, format_size, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import RenderableType

    from cdc_tracker.monitoring import DestinationHealth, Finding, Health
    from cdc_tracker.operations.status import Slot, Status
    from cdc_tracker.state import Job, RoleRecord

_LISTED = 10  # mappings that have never matched


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@output.as_json
@click.pass_obj
def status(invocation: Invocation, watch: bool, as_json: bool) -> None:
    """Show the slot, lag, checkpoints, dead letters and roles. Exit code 1 when something is wrong."""
    with invocation.state(to_read=True) as state, invocation.journal(to_read=True) as journal:
        look = partial(operations.status.look, invocation.config, state, journal)
        if watch:
            _watch(look, as_json)
            return
        seen = look()
    if as_json:
        output.emit(snapshot(seen))
    else:
        output.console().print(rendered(seen))
    if seen.problems:
        raise SystemExit(FOUND_PROBLEMS)


def _watch(look: Callable[[], Status], as_json: bool) -> None:
    from rich.live import Live  # noqa: PLC0415

    before = look()
    table = None if as_json else Live(rendered(before), console=output.console(), auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), table or contextlib.nullcontext():
        while True:
            time.sleep(1.0)
            now = look()
            if table is None:
                output.say(output.line(snapshot(now, now.rates(before))))
            else:
                table.update(rendered(now, now.rates(before)), refresh=True)
            before = now


def snapshot(seen: Status, rates: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The values that --json prints."""
    health = seen.health
    return {
        "time": seen.time,
        "source": seen.record.name,
        "database": seen.record.database,
        "slot": _slot(seen.slot),
        "capture": _capture(health),
        "journal": _journal(seen),
        "destinations": [_destination(each, seen.last_hours, rates or {}) for each in health.destinations],
        "roles": [_role(role, health.states[role.role]) for role in health.roles],
        "jobs": [as_dict(job) for job in health.jobs],
        "never_matched": {mapping: for_display(since) for mapping, since in seen.never_matched.items()},
        "problems": seen.problems,
        "findings": [_finding(each) for each in seen.findings],
    }


def _capture(health: Health) -> dict[str, Any]:
    """Capture's last report; empty if there is none."""
    import msgspec  # noqa: PLC0415

    shown = msgspec.to_builtins(health.capture) if any(role.role == "capture" for role in health.roles) else {}
    return {name: value for name, value in shown.items() if name != "version"}


def _slot(slot: Slot) -> dict[str, Any]:
    named, found = {"name": slot.name, "plugin": slot.plugin}, slot.state
    if found is None:
        return named
    return named | {
        "wal_status": found.wal_status,
        "active_pid": found.active_pid,
        "confirmed": slot.confirmed,
        "wal_end": slot.wal_end,
        "unconfirmed_bytes": slot.unconfirmed,
        "retained_bytes": found.retained_bytes,
        "safe_wal_size": found.safe_wal_size,
    }


def _journal(seen: Status) -> dict[str, Any]:
    """`first` is how far back a rewind can go."""
    lost, horizon = seen.journal_lost, seen.health.horizon
    return {
        "held_by": [{"who": each.who, "after": str(each.position)} for each in seen.held_by],
        "lost": {"at": for_display(lost.at) if lost.at else None, "from": lost.before} if lost else None,
        "first": str(horizon.start) if horizon else None,
        "first_time": for_display(horizon.first_time) if horizon else None,
        "last": str(horizon.last) if horizon else None,
        "last_time": for_display(horizon.last_time) if horizon else None,
        "segments": horizon.segments if horizon else 0,
        "bytes": horizon.bytes if horizon else 0,
    }


def _destination(health: DestinationHealth, last_hours: Mapping[str, int], rates: Mapping[str, float]) -> dict[str, Any]:
    return {
        "name": health.name,
        "state": health.state,
        "since": for_display(health.since) if health.since else None,
        "dry_run": health.dry_run,
        "checkpoint": str(health.position) if health.position else None,
        "rewind_to": str(health.rewind_to) if health.rewind_to else None,
        "backlog_bytes": health.backlog,
        "lag_seconds": round(health.lag, 3),
        "waiting_changes": health.waiting.changes,
        "settled": health.settled,
        "last_hours": last_hours.get(health.name, 0),
        "totals": health.totals.now,
        **output.fields(health, "dead_letters", "trouble", "hint"),
        **({"rate": round(rates[health.name], 1)} if health.name in rates else {}),
    }


def _finding(found: Finding) -> dict[str, Any]:
    since = for_display(found.since) if found.since else None
    return {"severity": found.severity, "who": found.who, "message": str(found), "hint": found.hint, "since": since}


def _role(role: RoleRecord, state: str) -> dict[str, Any]:
    return output.fields(role, "role", "pid", "host") | {"state": state, "heard_seconds_ago": _heard(role)}


def rendered(seen: Status, rates: Mapping[str, float] | None = None) -> RenderableType:
    """Yields the status as text and tables. With `rates`, they are shown in place of the events of the last hours."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    parts: list[RenderableType] = [output.text(line) for line in (*_slot_lines(seen), *_journal_lines(seen))]
    parts += [output.text(_job_line(job)) for job in seen.health.jobs]
    parts += [_destinations_table(seen, rates), _roles_table(seen.health)]
    parts += [output.text(line) for line in _never_matched(seen)]
    for each in seen.findings:
        since = f" (since {for_display(each.since)})" if each.since else ""
        parts.append(Text.assemble(output.mark(each.severity), " ", output.text(str(each)), since))
        if each.hint:
            parts.append(output.text(f"  {each.hint}", "dim"))
    if not seen.findings:
        parts.append(Text.assemble(output.mark("ok"), " all is well"))
    return Group(*parts)


def _slot_lines(seen: Status) -> Iterator[str]:
    slot, found = seen.slot, seen.slot.state
    reader = f"read by pid {found.active_pid}" if found and found.active_pid else "not being read"
    yield f"source   {seen.record.name}: database {seen.record.database}, slot {slot.name} ({slot.plugin}), {reader}"
    if found is not None:
        behind, retained = format_size(slot.unconfirmed), format_size(found.retained_bytes or 0)
        confirmed = f"confirmed to {slot.confirmed} ({behind} behind)"
        yield f"wal      at {slot.wal_end}, {confirmed}, {retained} retained ({found.wal_status})"


def _journal_lines(seen: Status) -> Iterator[str]:
    """How far back a rewind can go, and what keeps the journal from being trimmed."""
    if (horizon := seen.health.horizon) is None:
        yield "journal  empty: there is nothing to rewind to"
    else:
        first, last = for_display(horizon.first_time), for_display(horizon.last_time)
        size = f"{plural(horizon.segments, 'segment')}, {format_size(horizon.bytes)}"
        yield f"journal  reaches back to {horizon.start} ({first}), and on to {horizon.last} ({last}), {size}"
    if lost := seen.journal_lost:
        when = f" (detected at {for_display(lost.at)})" if lost.at else ""
        yield f"         it was lost{when}: what committed before {lost.before} cannot be rewound to any more"
    for each in seen.held_by:
        yield f"         {each.who} needs what lies after {each.position}"


def _never_matched(seen: Status) -> Iterator[str]:
    listed = list(seen.never_matched.items())
    yield from (never_matched(mapping, since) for mapping, since in listed[:_LISTED])
    if len(listed) > _LISTED:
        yield f"… and {plural(len(listed) - _LISTED, 'mapping')} more: `cdc-tracker ledger` lists them"
    if listed:
        yield "  `cdc-tracker explain EVENT` says what became of each change of its table"


def _job_line(job: Job) -> str:
    trouble = f": {job.trouble}" if job.trouble else ""
    done = share(operations.jobs.progress(job))
    return f"job {job.id:<5}{job.kind} of {what(job)} to {job.destination}: {job.state}, {done}{trouble}"


def _destinations_table(seen: Status, rates: Mapping[str, float] | None) -> RenderableType:
    speed = "last 2 h" if rates is None else "events"
    rows = []
    for each in seen.health.destinations:
        letters = ", ".join(f"{number:,} {reason}" for reason, number in sorted(each.dead_letters.items()))
        checkpoint = f"{each.position or '–'}{f' → {each.rewind_to}' if each.rewind_to else ''}"
        state = f"{each.state} (dry run)" if each.dry_run else each.state
        sent = f"{seen.last_hours.get(each.name, 0):,}" if rates is None else f"{rates.get(each.name, 0):,.0f}/s"
        lag = format_duration(each.lag)
        rows.append((each.name, state, checkpoint, format_size(each.backlog), lag, sent, letters or "–", each.trouble or "–"))
    columns = ("destination", "state", "checkpoint", "behind", "lag", speed, "dead letters", "last error")
    return output.table(columns, rows, right=("behind", "lag", speed))


def _roles_table(health: Health) -> RenderableType:
    heard = {each.role: f"{format_duration(_heard(each))} ago" for each in health.roles}
    rows = [(each.role, health.states[each.role], each.pid, each.host, heard[each.role]) for each in health.roles]
    return output.table(("role", "state", "pid", "host", "heard"), rows, right=("pid",))


def _heard(role: RoleRecord) -> float:
    """Seconds since its last report."""
    return round(max(0.0, time.time() - role.updated_at / 1e6), 1)
