"""`repair`: says what keeps a source from going on, mends it, and names what nobody has read meanwhile."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import click

from cdc_tracker.cli import FOUND_PROBLEMS, NEEDS_A_PERSON, Invocation, output, tell
from cdc_tracker.errors import CdcTrackerError, Problem, SlotBusy, SourceError, Stop
from cdc_tracker.model import START, Lsn, format_lsn, parse_lsn
from cdc_tracker.refusals import Mend, Refusal

if TYPE_CHECKING:
    from cdc_tracker.capture.gaps import Missing
    from cdc_tracker.cli.standing import Standing
    from cdc_tracker.sources.postgres.publication import Desired


@dataclass
class Diagnosis:
    """`person`: what is not ours to mend. `mend`: what is done about the slot; `drift`: what is wrong with the publications.

    `passed`: commits the transaction that is passed over.
    """

    problems: list[tuple[str, str]] = field(default_factory=list)  # (code, text)
    notes: list[str] = field(default_factory=list)
    mend: Mend | Literal[""] = ""
    passed: Lsn = 0
    drift: bool = False
    person: CdcTrackerError | None = None

    @property
    def sound(self) -> bool:
        return not self.problems and self.person is None


@click.command()
@click.option("--backfill", is_flag=True, help="Make the jobs that fill the gap from the tables, instead of naming the commands.")
@output.yes
@output.as_json
@click.pass_obj
def repair(invocation: Invocation, backfill: bool, yes: bool, as_json: bool) -> None:
    """Find out what keeps a source from going on, and mend it.

    A slot that is gone or lost is made anew on the same server, under the same event ids. What committed before it and was never
    read is named by position and time, and so are the tables that it can be read from again, with the commands that do it. It
    asks before it changes anything; with --json it only tells, unless --yes is given.
    """
    from cdc_tracker.cli import setup, standing, stores  # noqa: PLC0415
    from cdc_tracker.sources.postgres.connection import connect  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    config = stores.load_config(invocation)
    needs = assemble.table_needs(config, assemble.load_mappings(config))
    with ExitStack() as stack:
        url = config.source.url.get_secret_value()
        connection = stack.enter_context(closing(connect(url, statement_timeout=setup.SETUP_TIMEOUT)))
        state = stack.enter_context(stores.opened_state(config))
        journal = stack.enter_context(stores.opened_journal(config))
        place = standing.Standing(config, connection, state, journal)
        found = diagnose(place, setup.wanted(config, connection, needs))
        if not as_json:
            _say(found, place)
        if found.person is not None:
            _leave(found, as_json)
        if found.sound or (as_json and not yes):
            _finish(found, as_json)
            return
        output.ask(_question(found), yes=yes)
        if found.mend:
            stack.enter_context(place.alone())
        if found.drift:
            setup.publish(config, connection, needs, quiet=as_json)
        if not found.mend:  # only with the publications there the server tells that it cannot decode what came without them
            after = diagnose(place, setup.wanted(config, connection, needs))
            if after.mend:
                found = after
                if not as_json:
                    _say(found, place)
                output.ask(_question(found), yes=yes)
                stack.enter_context(place.alone())
        gaps = _mended(place, found, invocation, backfill=backfill, quiet=as_json) if found.mend else []
    if as_json:
        output.emit(_as_json(found) | {"mended": True, "gaps": gaps})
    else:
        output.say("Mended: `cdc-tracker run`.")


# What is wrong.


def diagnose(place: Standing, wanted: Desired) -> Diagnosis:
    """What `run` would stop with, and what would make it miss changes."""
    found = Diagnosis()
    if problem := place.of_plugin():
        found.person = Refusal.PLUGIN_UNFIT.error(problem.message, hint=problem.hint)
        return found
    try:
        place.verify()
    except SlotBusy as error:
        found.notes.append(f"{error}: that is as it should be while a worker runs")
    except Stop as error:
        _refused(place, error, found)
    if found.person is None:
        _of_journal(place, found)
        _of_publications(place, wanted, found)
    return found


def _refused(place: Standing, error: Stop, found: Diagnosis) -> None:
    refusal = Refusal.of(error)
    mend = refusal.mend if refusal else "a person"
    if place.record() is None or refusal is None or mend in ("a person", "wait"):
        found.person = error
        return
    if refusal is Refusal.SLOT_MOVED:
        found.person = _not_ours(place, error)
    elif mend == "pass over":
        found.passed = parse_lsn(place.said().get("undecodable") or "0/0")
        mend = mend if found.passed else "new slot"  # which transaction it is, the server did not come to tell
    if found.person is None and mend != "publications":  # these are looked at in any case
        found.problems.append((refusal.name.lower(), str(error)))
        found.mend = mend


def _not_ours(place: Standing, error: Stop) -> Stop | None:
    """Why a slot that was moved cannot be taken as it stands."""
    record, slot = place.record(), place.slot()
    if record is None or slot is None or slot.two_phase or slot.temporary or slot.database != place.connection.info.dbname:
        return error
    if slot.holder:
        hint = f"Stop that reader, or SELECT pg_terminate_backend({slot.holder.pid}); then run `cdc-tracker repair` again."
        return Refusal.SLOT_BUSY.error(str(error), hint=hint)
    return None


def _of_journal(place: Standing, found: Diagnosis) -> None:
    record, end = place.record(), place.journal.end() or START
    if record is None or end.commit_lsn >= record.journaled_lsn or any(code == "checkpoint_gap" for code, _ in found.problems):
        return
    held = f"it held changes up to {format_lsn(record.journaled_lsn)} and ends at {format_lsn(end.commit_lsn)} now"
    if found.mend:
        found.problems.append(("journal_missing", f"the journal was lost, too: {held}"))
    else:
        found.notes.append(
            f"the journal was lost or replaced: {held}. Nothing is missing: the worker reads from the slot again what is not "
            "delivered yet, under the same ids. What is older cannot be rewound to any more"
        )


def _of_publications(place: Standing, wanted: Desired, found: Diagnosis) -> None:
    from cdc_tracker.sources.postgres import publication  # noqa: PLC0415
    from cdc_tracker.sources.postgres.drift import drift  # noqa: PLC0415

    present = publication.existing(place.connection, publication.names(place.config.source))
    problems = [each for each in drift(wanted, present) if each.severity == "error"]
    beyond_us = [each for each in problems if each in wanted.problems]
    if beyond_us:
        listed = "\n".join(f"  {problem}" for problem in beyond_us)
        found.person = SourceError(
            f"not every mapped table can be captured:\n{listed}",
            hint="mend the tables or the mappings; `cdc-tracker check` tells more",
        )
        return
    found.drift = bool(problems)
    found.problems += [("publication_drift", _drifted(place, problem)) for problem in problems]


def _drifted(place: Standing, problem: Problem) -> str:
    """Since when nobody knows: the server does not keep it."""
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    text = str(Problem(problem.where, problem.key, problem.message))
    keys = [mapping.key for mapping in assemble.load_mappings(place.config).for_table(problem.key) if mapping.backfill]
    if not keys:
        return f"{text}. Since when is not known, and no mapping of it has a `backfill`: what changed meanwhile is missing"
    return (
        f"{text}. Since when is not known: `backfill` can fill it for {', '.join(keys)}, from a time that you know it was right"
    )


# What is done.


def _mended(place: Standing, found: Diagnosis, invocation: Invocation, *, backfill: bool, quiet: bool) -> list[dict[str, Any]]:
    """The slot goes on, what it misses is told. The record comes last: until then it can be done again, and tells the same."""
    from cdc_tracker.cli.gap_backfills import fillings  # noqa: PLC0415
    from cdc_tracker.cli.standing import told  # noqa: PLC0415
    from cdc_tracker.sources.postgres.slot import advance  # noqa: PLC0415

    if found.mend == "pass over":
        advance(place.connection, place.config.source.slot, found.passed)
    record, slot = place.record(), place.slot()
    if found.mend == "new slot" or slot is None:
        slot = place.make_slot()
    gaps = place.missing(slot.confirmed_flush_lsn or 0)
    filled = [fillings(place, gap, config=str(invocation.config_path or ""), make_jobs=backfill) for gap in gaps]
    place.save(record, slot, quiet=quiet)
    if not quiet:
        for gap, refills in zip(gaps, filled, strict=True):
            output.say(told(gap))
            _tell_refills(refills, backfill=backfill)
        if not gaps:
            output.say("Nothing is missing: everything before the slot is delivered, or in the journal.")
    return [_gap_as_json(gap, refills) for gap, refills in zip(gaps, filled, strict=True)]


# What is told.


def _say(found: Diagnosis, place: Standing) -> None:
    for _, text in found.problems:
        output.say(f"✗ {text}")
    for note in found.notes:
        output.say(f"  {note}")
    if found.mend == "new slot":
        end = place.journal.horizon()
        if end is not None:
            output.say(
                f"  the journal reaches to {end.last} ({output.moment(end.last_time)}); what is in it is delivered as usual"
            )


def _question(found: Diagnosis) -> str:
    steps = ["put the publications right"] if found.drift else []
    if found.mend == "new slot":
        steps.append("make a new slot, and go on from the server's present end")
    elif found.mend == "pass over":
        steps.append(f"pass over the transaction that commits at {format_lsn(found.passed)}")
    elif found.mend:
        steps.append("go on from the slot as it stands")
    given_up = (
        " What committed before the slot and was not read becomes no events, unless a backfill makes them." if found.mend else ""
    )
    return f"{' and '.join(steps).capitalize()}?{given_up} Go on?"


def _tell_refills(rows: list[dict[str, Any]], *, backfill: bool) -> None:
    for row in rows:
        mark = "can be filled" if row["possible"] else "cannot be filled"
        output.say(f"  {row['event']} ({row['table']}): {mark}{': ' if row['why'] else ''}{row['why']}")
        if "job" in row:
            output.say(f"    job {row['job']} fills it: `cdc-tracker jobs` shows how far it is")
        elif "command" in row:
            output.say(f"    {row['command']}")
    if backfill and not any(row["possible"] for row in rows):
        output.say("  No mapping has a backfill that could fill it.")


def _leave(found: Diagnosis, as_json: bool) -> None:
    """What needs a choice that is not ours."""
    if not as_json and found.person is not None:
        raise found.person
    output.emit(_as_json(found) | {"mended": False, "gaps": []})
    if found.person is not None:
        tell(found.person)
    raise SystemExit(NEEDS_A_PERSON)


def _finish(found: Diagnosis, as_json: bool) -> None:
    if as_json:
        output.emit(_as_json(found) | {"mended": False, "gaps": []})
    else:
        output.say("Nothing is to be mended.")
    if found.problems:
        raise SystemExit(FOUND_PROBLEMS)


def _as_json(found: Diagnosis) -> dict[str, Any]:
    person = {"error": str(found.person), "hint": found.person.hint} if found.person else None
    problems = [{"code": code, "message": text} for code, text in found.problems]
    return {
        "problems": problems,
        "notes": found.notes,
        "mend": found.mend or None,
        "publications": found.drift,
        "needs_person": person,
    }


def _gap_as_json(gap: Missing, refills: list[dict[str, Any]]) -> dict[str, Any]:
    from cdc_tracker.capture.gaps import iso  # noqa: PLC0415

    return {
        "destination": gap.destination,
        "from": str(gap.since),
        "from_time": iso(gap.since_time) if gap.since_time else None,
        "to": format_lsn(gap.upto),
        "to_time": iso(gap.upto_time),
        "refill": refills,
    }
