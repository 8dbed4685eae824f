"""`status`: the worker as /readyz and /metrics report it, and the slot as the server has it."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cdc_tracker import operations
from cdc_tracker.cli import FOUND_PROBLEMS, Invocation, output
from cdc_tracker.cli.jobs import as_dict
from cdc_tracker.units import format_duration, format_size, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import RenderableType

    from cdc_tracker.monitoring import DestinationHealth, Finding, Health
    from cdc_tracker.operations.status import Slot, Status
    from cdc_tracker.state import RoleRecord

Snapshot = dict[str, Any]


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
        output.console().print(rendered(snapshot(seen)))
    if seen.problems:
        raise SystemExit(FOUND_PROBLEMS)


def _watch(look: Callable[[], Status], as_json: bool) -> None:
    from rich.live import Live  # noqa: PLC0415

    before = look()
    try:
        if as_json:
            while True:
                time.sleep(1.0)
                now = look()
                output.say(output.line(snapshot(now, now.rates(before))))
                before = now
        with Live(rendered(snapshot(before)), console=output.console(), auto_refresh=False) as live:
            while True:
                time.sleep(1.0)
                now = look()
                live.update(rendered(snapshot(now, now.rates(before))), refresh=True)
                before = now
    except KeyboardInterrupt:
        return


def snapshot(seen: Status, rates: Mapping[str, float] | None = None) -> Snapshot:
    """The values that --json prints."""
    health = seen.health
    destinations = [_destination(each, seen.last_hours.get(each.name, 0)) for each in health.destinations]
    for each in destinations:
        if rates and each["name"] in rates:
            each["rate"] = round(rates[each["name"]], 1)
    return {
        "time": seen.time,
        "source": seen.record.name,
        "database": seen.record.database,
        "slot": _slot(seen.slot),
        "capture": _capture(health),
        "journal": _journal(seen),
        "destinations": destinations,
        "roles": [_role(role, health.states[role.role]) for role in health.roles],
        "jobs": [as_dict(job) for job in health.jobs],
        "problems": seen.problems,
        "findings": [_finding(each) for each in seen.findings],
    }


def _capture(health: Health) -> dict[str, Any]:
    """What capture last reported; empty if it never has."""
    if not any(role.role == "capture" for role in health.roles):
        return {}
    shown: dict[str, Any] = msgspec.to_builtins(health.capture)
    del shown["version"]
    return shown


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
        "lost": {"at": output.moment(lost.at) if lost.at else None, "from": lost.before} if lost else None,
        "first": str(horizon.start) if horizon else None,
        "first_time": output.moment(horizon.first_time) if horizon else None,
        "last": str(horizon.last) if horizon else None,
        "last_time": output.moment(horizon.last_time) if horizon else None,
        "segments": horizon.segments if horizon else 0,
        "bytes": horizon.bytes if horizon else 0,
    }


def _destination(health: DestinationHealth, last_hours: int) -> dict[str, Any]:
    return {
        "name": health.name,
        "state": health.state,
        "since": output.moment(health.since) if health.since else None,
        "dry_run": health.dry_run,
        "checkpoint": str(health.position) if health.position else None,
        "rewind_to": str(health.rewind_to) if health.rewind_to else None,
        "backlog_bytes": health.backlog,
        "lag_seconds": round(health.lag, 3),
        "waiting_changes": health.waiting.changes,
        "settled": health.settled,
        "last_hours": last_hours,
        "totals": health.totals.now,
        "dead_letters": health.dead_letters,
        "trouble": health.trouble,
        "hint": health.hint,
    }


def _finding(found: Finding) -> dict[str, Any]:
    since = output.moment(found.since) if found.since else None
    return {"severity": found.severity, "who": found.who, "message": str(found), "hint": found.hint, "since": since}


def _role(role: RoleRecord, state: str) -> dict[str, Any]:
    return {
        "role": role.role,
        "pid": role.pid,
        "host": role.host,
        "state": state,
        "heard_seconds_ago": round(max(0.0, time.time() - role.updated_at / 1e6), 1),
    }


def rendered(seen: Snapshot) -> RenderableType:
    """The same as text and tables."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    parts: list[RenderableType] = [output.text(line) for line in _head(seen)]
    parts += [_destinations_table(seen), _roles_table(seen)]
    for each in seen["findings"]:
        since = f" (since {each['since']})" if each["since"] else ""
        parts.append(Text.assemble(output.mark(each["severity"]), " ", output.text(each["message"]), since))
        if each["hint"]:
            parts.append(output.text(f"  {each['hint']}", "dim"))
    if not seen["findings"]:
        parts.append(Text.assemble(output.mark("ok"), " all is well"))
    return Group(*parts)


def _head(seen: Snapshot) -> list[str]:
    slot, journal = seen["slot"], seen["journal"]
    reader = f"read by pid {slot['active_pid']}" if slot.get("active_pid") else "not being read"
    lines = [f"source   {seen['source']}: database {seen['database']}, slot {slot['name']} ({slot['plugin']}), {reader}"]
    if "wal_end" in slot:
        lines.append(
            f"wal      at {slot['wal_end']}, confirmed to {slot['confirmed']} ({format_size(slot['unconfirmed_bytes'])} behind), "
            f"{format_size(slot['retained_bytes'] or 0)} retained ({slot['wal_status']})"
        )
    return [*lines, *_journal_lines(journal), *map(_job_line, seen["jobs"])]


def _job_line(job: dict[str, Any]) -> str:
    trouble = f": {job['trouble']}" if job["trouble"] else ""
    return f"job {job['id']:<5}{job['kind']} of {job['what']} to {job['destination']}: {job['state']}, {job['done']}{trouble}"


def _journal_lines(journal: dict[str, Any]) -> list[str]:
    """How far back a rewind can go, and what keeps the journal from being trimmed."""
    if journal["first"] is None:
        lines = ["journal  empty: there is nothing to rewind to"]
    else:
        size = f"{plural(journal['segments'], 'segment')}, {format_size(journal['bytes'])}"
        reach = (
            f"reaches back to {journal['first']} ({journal['first_time']}), and on to {journal['last']} ({journal['last_time']})"
        )
        lines = [f"journal  {reach}, {size}"]
    if lost := journal["lost"]:
        when = f" (detected at {lost['at']})" if lost["at"] else ""
        lines.append(f"         it was lost{when}: what committed before {lost['from']} cannot be rewound to any more")
    return [*lines, *(f"         {each['who']} needs what lies after {each['after']}" for each in journal["held_by"])]


def _destinations_table(seen: Snapshot) -> RenderableType:
    columns = ["destination", "state", "checkpoint", "behind", "lag", "last 2 h", "dead letters", "last error"]
    watched = any("rate" in each for each in seen["destinations"])
    rows = []
    for each in seen["destinations"]:
        letters = ", ".join(f"{number:,} {reason}" for reason, number in sorted(each["dead_letters"].items()))
        checkpoint = f"{each['checkpoint'] or '–'}{' → ' + each['rewind_to'] if each['rewind_to'] else ''}"
        behind, lag = format_size(each["backlog_bytes"]), format_duration(each["lag_seconds"])
        speed = f"{each.get('rate', 0):,.0f}/s" if watched else f"{each['last_hours']:,}"
        state = f"{each['state']} (dry run)" if each["dry_run"] else each["state"]
        rows.append((each["name"], state, checkpoint, behind, lag, speed, letters or "–", each["trouble"] or "–"))
    if watched:
        columns[5] = "events"
    return output.table(columns, rows, right=("behind", "lag", columns[5]))


def _roles_table(seen: Snapshot) -> RenderableType:
    rows = [
        (each["role"], each["state"], each["pid"], each["host"], f"{format_duration(each['heard_seconds_ago'])} ago")
        for each in seen["roles"]
    ]
    return output.table(("role", "state", "pid", "host", "heard"), rows, right=("pid",))
