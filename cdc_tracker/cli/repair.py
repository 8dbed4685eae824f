"""`repair`: says what stops a source, corrects it, and names what was never read."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker import operations
from cdc_tracker.cli import FOUND_PROBLEMS, Invocation, output
from cdc_tracker.model import format_lsn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cdc_tracker.capture.gaps import Missing
    from cdc_tracker.operations.backfill import Gap
    from cdc_tracker.operations.repair import Diagnosis, Repaired


@click.command()
@click.option("--backfill", is_flag=True, help="Queue the jobs that fill the gap from the tables, instead of printing commands.")
@output.yes
@output.as_json
@click.pass_obj
def repair(invocation: Invocation, backfill: bool, yes: bool, as_json: bool) -> None:
    """Find out what stops a source, and correct it.

    A slot that is gone or lost is recreated on the same server, under the same event ids. What committed before it and was never
    read is named by position and time, and so are the tables that it can be read from again, with the commands that do it. It
    asks before it changes anything; with --json it only reports, unless --yes is given.
    """
    named = str(invocation.config_path or "")
    done: list[Repaired] = []
    with operations.source.opened(invocation.config, None if as_json else output.step) as source:
        left: Diagnosis | None = operations.repair.diagnose(source)
        while left is not None:
            found = left
            if not as_json:
                _show(found)
            if not found.repairable or (as_json and not yes):
                break
            output.ask(f"{found.consequence} Continue?", yes=yes)
            done.append(operations.repair.apply(source, found, backfill=backfill))
            left = done[-1].left
    gaps = [gap for repaired in done for gap in repaired.gaps]
    if as_json:
        output.emit(_as_json(found) | {"mended": bool(done), "gaps": [_gap_as_json(gap, named) for gap in gaps]})
    elif done and found.mend:
        _show_gaps(gaps, named, backfill=backfill)
    if found.person is not None:
        raise found.person
    if not as_json:
        output.say("Repaired: `cdc-tracker run`." if done else "Nothing to repair.")
    if found.faults and not done:
        raise SystemExit(FOUND_PROBLEMS)


def _show(found: Diagnosis) -> None:
    for fault in found.faults:
        output.say(f"✗ {fault.message}")
    for note in found.notes:
        output.say(f"  {note}")


def _show_gaps(gaps: Sequence[Gap], config: str, *, backfill: bool) -> None:
    if not gaps:
        output.say("Nothing is missing: everything before the slot is delivered, or in the journal.")
    for gap in gaps:
        output.say(str(gap.missing))
        for row in _refills(gap, config):
            mark = "can be filled" if row["possible"] else "cannot be filled"
            output.say(f"  {row['event']} ({row['table']}): {mark}: {row['why']}")
            if "job" in row:
                output.say(f"    job {row['job']} fills it: `cdc-tracker jobs` shows its progress")
            elif "command" in row:
                output.say(f"    {row['command']}")
        if backfill and not any(refill.possible for refill in gap.refills):
            output.say("  No mapping has a backfill that could fill it.")


def _refills(gap: Gap, config: str) -> Iterator[dict[str, Any]]:
    for each in gap.refills:
        row = {"event": each.event, "table": each.table, "possible": each.possible, "why": each.why}
        if each.possible:
            row["command"] = command(each.event, gap.missing, config)
        if each.job is not None:
            row["job"] = each.job
        yield row


def command(event: str, gap: Missing, config: str) -> str:
    """The command that fills the gap, as a shell takes it. `config`: the argument of --config, empty if none was given."""
    from cdc_tracker.capture.gaps import iso, window  # noqa: PLC0415

    since, upto = window(gap)
    name = f'"{event}"' if re.fullmatch(r"[\w .,:/+-]+", event) else shlex.quote(event)
    begin = f" --from {iso(since)}" if since else ""
    chosen = f"--config {shlex.quote(config)} " if config else ""
    return f"cdc-tracker {chosen}backfill {name} --destination {gap.destination}{begin} --to {iso(upto)}"


def _as_json(found: Diagnosis) -> dict[str, Any]:
    return {
        "problems": [fault._asdict() for fault in found.faults],
        "notes": list(found.notes),
        "mend": found.mend or None,
        "publications": found.corrects_publications,
        "needs_person": {"error": str(found.person), "hint": found.person.hint} if found.person else None,
    }


def _gap_as_json(gap: Gap, config: str) -> dict[str, Any]:
    from cdc_tracker.capture.gaps import iso  # noqa: PLC0415

    missing = gap.missing
    return {
        "destination": missing.destination,
        "from": str(missing.since),
        "from_time": iso(missing.since_time) if missing.since_time else None,
        "to": format_lsn(missing.upto),
        "to_time": iso(missing.upto_time),
        "refill": list(_refills(gap, config)),
    }
