"""`status`: how the worker stands, as /readyz and /metrics say it, and the slot as the server sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker import operations
from cdc_tracker.capture.monitor import holders
from cdc_tracker.cli import FOUND_PROBLEMS, Invocation, output
from cdc_tracker.cli.jobs import as_dict
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import format_lsn
from cdc_tracker.monitoring import Finding
from cdc_tracker.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cdc_tracker.config.config import Config
    from cdc_tracker.monitoring import DestinationHealth, Health, Observer
    from cdc_tracker.sources.postgres.slot import SlotState
    from cdc_tracker.state import RoleRecord, SourceRecord, State

Snapshot = dict[str, Any]


@click.command()
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@output.as_json
@click.pass_obj
def status(invocation: Invocation, watch: bool, as_json: bool) -> None:
    """Show the slot, lag, checkpoints, dead letters and roles. Exit code 1 when something is wrong."""
    from cdc_tracker.cli.stores import load_config, opened_journal, opened_state  # noqa: PLC0415
    from cdc_tracker.monitoring import Observer  # noqa: PLC0415

    config = load_config(invocation)
    with ExitStack() as stack:
        state = stack.enter_context(opened_state(config, to_read=True))
        record = operations.named.source(config, state)
        journal = stack.enter_context(opened_journal(config, to_read=True))
        observer = Observer(state, journal, record.name, list(config.destinations), config.data)
        look = partial(snapshot, config, record, state, observer)
        if watch:
            _watch(look, as_json)
            return
        seen = look()
    if as_json:
        output.emit(seen)
    else:
        output.console().print(rendered(seen))
    if seen["problems"]:
        raise SystemExit(FOUND_PROBLEMS)


def _watch(look: Callable[[], Snapshot], as_json: bool) -> None:
    from rich.live import Live  # noqa: PLC0415

    before = look()
    try:
        if as_json:
            while True:
                time.sleep(1.0)
                before = _with_rates(look(), before)
                output.emit_line(before)
        with Live(rendered(before), console=output.console(), auto_refresh=False) as live:
            while True:
                time.sleep(1.0)
                before = _with_rates(look(), before)
                live.update(rendered(before), refresh=True)
    except KeyboardInterrupt:
        return


def _with_rates(now: Snapshot, before: Snapshot) -> Snapshot:
    """Events a second between two looks."""
    earlier = {each["name"]: each for each in before["destinations"]}
    seconds = max(0.001, now["time"] - before["time"])
    for each in now["destinations"]:
        if each["name"] in earlier:
            each["rate"] = round((each["settled"] - earlier[each["name"]]["settled"]) / seconds, 1)
    return now


def snapshot(config: Config, record: SourceRecord, state: State, observer: Observer) -> Snapshot:
    """Everything as plain values: what --json prints."""
    health = observer.look()
    slot, found = slot_snapshot(config, record)
    if slot.get("active_pid", 0) is None and health.states.get("capture") == "streaming":
        text = "nobody reads from the slot, although capture said a moment ago that it does: it was stopped or is connecting"
        found.append(Finding("error", "capture", text, "is the worker running? Ask again in some seconds"))
    found += health.findings
    hour = int(datetime.now(UTC).timestamp()) // 3600 - 1
    last_hours = state.delivered_since(record.name, hour)  # of changes committed in this clock hour and the one before it
    return {
        "time": time.time(),
        "source": record.name,
        "database": record.database,
        "slot": slot,
        "capture": health.capture,
        "journal": _journal(health, record, state),
        "destinations": [_destination(each, last_hours.get(each.name, 0)) for each in health.destinations],
        "roles": [_role(role, health.states[role.role]) for role in health.roles],
        "jobs": [as_dict(job) for job in health.jobs],
        "problems": [str(each) for each in found if each.severity == "error"],
        "findings": [_finding(each) for each in found],
    }


def slot_snapshot(config: Config, record: SourceRecord) -> tuple[dict[str, Any], list[Finding]]:
    """The slot as the server has it now, and what is wrong with it. An unreachable server is a problem like others."""
    from cdc_tracker.sources.postgres import catalog, slot  # noqa: PLC0415

    told: dict[str, Any] = {"name": config.source.slot, "plugin": record.plugin}
    try:
        with closing(catalog.connect(config.source.url.get_secret_value())) as connection:
            found = slot.inspect(connection, config.source.slot)
            identity = catalog.identify(connection)
    except CdcTrackerError as error:
        return told, [Finding("error", "", f"the source cannot be asked: {error}", error.hint)]
    if identity.system_id != record.system_id:
        text = f"this is another server (system identifier {identity.system_id}) than the one that was set up"
        return told, [Finding("error", "", text, "look at source.url; `cdc-tracker setup --new-epoch` begins anew with this one")]
    if found is None:
        text = f"the slot {config.source.slot} does not exist on the server: `cdc-tracker repair` makes a new one"
        return told, [Finding("error", "", text)]
    behind = identity.wal_lsn - (found.confirmed_flush_lsn or 0)
    told |= {
        "wal_status": found.wal_status,
        "active_pid": found.active_pid,
        "confirmed": format_lsn(found.confirmed_flush_lsn or 0),
        "wal_end": format_lsn(identity.wal_lsn),
        "unconfirmed_bytes": max(0, behind),
        "retained_bytes": found.retained_bytes,
        "safe_wal_size": found.safe_wal_size,
    }
    return told, list(_slot_findings(config, found))


def _slot_findings(config: Config, found: SlotState) -> Iterator[Finding]:
    if found.lost:
        why = found.invalidation_reason or found.wal_status
        yield Finding("error", "", f"the server has invalidated the slot ({why}): `cdc-tracker repair`")
    elif found.wal_status == "unreserved":
        text = "the slot is about to be invalidated: it holds more WAL than max_slot_wal_keep_size"
        yield Finding("error", "", text, "start or mend the worker now, or raise max_slot_wal_keep_size")
    if (found.retained_bytes or 0) > config.source.max_wal:
        text = f"the slot holds {format_size(found.retained_bytes or 0)} of WAL, more than max_wal"
        yield Finding("error", "", text, "mend the destination that is behind; mind the journal's disk")


def _journal(health: Health, record: SourceRecord, state: State) -> dict[str, Any]:
    """`first` is how far a rewind reaches back. `held_by`: unfinished jobs that need what lies after a position, lowest first."""
    jobs = holders({}, state.jobs(record.name, unfinished=True))
    told: dict[str, Any] = {"held_by": [{"who": each.who, "after": str(each.position)} for each in jobs], "lost": None}
    if lost := health.capture.get("journal_lost"):
        told["lost"] = {"at": output.moment(lost["at"]), "from": lost["from"]}
    horizon = health.horizon
    if horizon is None:
        if record.journaled_lsn and not told["lost"]:
            told["lost"] = {"at": None, "from": format_lsn(record.confirmed_lsn)}
        return told | {"first": None, "first_time": None, "last": None, "last_time": None, "segments": 0, "bytes": 0}
    return told | {
        "first": str(horizon.start),
        "first_time": output.moment(horizon.first_time),
        "last": str(horizon.last),
        "last_time": output.moment(horizon.last_time),
        "segments": horizon.segments,
        "bytes": horizon.bytes,
    }


def _destination(health: DestinationHealth, last_hours: int) -> dict[str, Any]:
    totals = health.totals.now
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
        "settled": sum(totals.get(outcome, 0) for outcome in ("delivered", "assumed", "rejected", "suppressed", "replayed")),
        "last_hours": last_hours,
        "totals": totals,
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
        "heard_seconds_ago": round(output.age(role.updated_at), 1),
    }


def rendered(seen: Snapshot) -> RenderableType:
    """For a person."""
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
    """What a rewind can reach, and why the journal is as long as it is."""
    if journal["first"] is None:
        lines = ["journal  empty: there is nothing to rewind to"]
    else:
        size = f"{output.plural(journal['segments'], 'segment')}, {format_size(journal['bytes'])}"
        reach = (
            f"reaches back to {journal['first']} ({journal['first_time']}), and on to {journal['last']} ({journal['last_time']})"
        )
        lines = [f"journal  {reach}, {size}"]
    if lost := journal["lost"]:
        when = f" (found out at {lost['at']})" if lost["at"] else ""
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
