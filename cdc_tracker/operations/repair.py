"""`repair`: diagnoses what stops a source, corrects it, and names what was never read."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from cdc_tracker.errors import CdcTrackerError, Problem, SlotBusy, Stop
from cdc_tracker.model import START, Lsn, format_lsn, parse_lsn
from cdc_tracker.operations import publications
from cdc_tracker.operations.backfill import Gap, gap_of
from cdc_tracker.operations.source import SourceSetup
from cdc_tracker.refusals import Mend, Refusal
from cdc_tracker.sources.postgres import publication, slot
from cdc_tracker.sources.postgres.drift import drift
from cdc_tracker.times import for_display


class Fault(NamedTuple):
    """What is wrong: a stable code, and a sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class Diagnosis:
    """What stops a source, or makes it miss changes, and what `apply` does about it."""

    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()  # for information; they need no action
    mend: Mend | Literal[""] = ""  # what is done about the slot
    passed_over: Lsn = 0  # the commit of the transaction that is passed over
    corrects_publications: bool = False
    person: CdcTrackerError | None = None  # needs the user's choice: nothing is done

    @property
    def repairable(self) -> bool:
        return bool(self.faults) and self.person is None

    @property
    def consequence(self) -> str:
        """What `apply` does, and what is given up by it."""
        steps = ["corrects the publications"] if self.corrects_publications else []
        if self.mend == "new slot":
            steps.append("creates a new slot at the server's present end")
        elif self.mend == "pass over":
            steps.append(f"passes over the transaction that commits at {format_lsn(self.passed_over)}")
        elif self.mend:
            steps.append("continues from the slot as it is")
        text = f"{' and '.join(steps)}."
        text = text[:1].upper() + text[1:]
        if self.mend:
            text += " What committed before the slot and was not read produces no events, unless a backfill makes them."
        return text


class Repaired(NamedTuple):
    """The result: what each destination lacks; and faults that are left, which show only once the publications exist."""

    gaps: tuple[Gap, ...] = ()
    left: Diagnosis | None = None


# What is wrong.


def diagnose(source: SourceSetup) -> Diagnosis:
    """Finds what would end `run`, and what would make it miss changes. Changes nothing."""
    if problem := source.plugin_problem():
        return Diagnosis(person=Refusal.PLUGIN_UNFIT.error(problem.message, hint=problem.hint))
    found = _slot(source)
    if found.person is None:
        found = _journal(source, found)
        found = _publications(source, found)
    return found


def _slot(source: SourceSetup) -> Diagnosis:
    try:
        source.verify()
    except SlotBusy as error:
        return Diagnosis(notes=(f"{error}: that is expected while a worker runs",))
    except Stop as error:
        return _refused(source, error)
    return Diagnosis()


def _refused(source: SourceSetup, error: Stop) -> Diagnosis:
    refusal = Refusal.of(error)
    mend = refusal.mend if refusal else "a person"
    if source.record() is None or refusal is None or mend in ("a person", "wait"):
        return Diagnosis(person=error)
    passed_over = 0
    if refusal is Refusal.SLOT_MOVED and (person := _not_adoptable(source, error)):
        return Diagnosis(person=person)
    if mend == "publications":  # _publications finds them
        return Diagnosis()
    if mend == "pass over":
        passed_over = parse_lsn(source.capture_report().undecodable or "0/0")
        mend = mend if passed_over else "new slot"  # the server did not get to name the transaction
    return Diagnosis((Fault(refusal.name.lower(), str(error)),), mend=mend, passed_over=passed_over)


def _not_adoptable(source: SourceSetup, error: Stop) -> Stop | None:
    """Why a slot that was moved cannot be taken as it is; None if it can."""
    found = source.slot()
    if found is None or found.two_phase or found.temporary or found.database != source.connection.info.dbname:
        return error
    if found.reader:
        hint = f"Stop that reader, or SELECT pg_terminate_backend({found.reader.pid}); then run `cdc-tracker repair` again."
        return Refusal.SLOT_BUSY.error(str(error), hint=hint)
    return None


def _journal(source: SourceSetup, found: Diagnosis) -> Diagnosis:
    record, horizon = source.record(), source.journal.horizon()
    end = horizon.last if horizon else START
    if found.mend == "new slot" and horizon:
        note = f"the journal reaches to {end} ({for_display(horizon.last_time)}); what is in it is delivered as usual"
        found = replace(found, notes=(*found.notes, note))
    if record is None or end.commit_lsn >= record.journaled_lsn or any(code == "checkpoint_gap" for code, _ in found.faults):
        return found
    ends = f"it contained changes up to {format_lsn(record.journaled_lsn)} and ends at {format_lsn(end.commit_lsn)} now"
    if found.mend:
        return replace(found, faults=(*found.faults, Fault("journal_missing", f"the journal was lost, too: {ends}")))
    note = (
        f"the journal was lost or replaced: {ends}. Nothing is missing: the worker reads what is not delivered yet from the slot "
        "again, under the same ids. Older changes cannot be rewound to any more"
    )
    return replace(found, notes=(*found.notes, note))


def _publications(source: SourceSetup, found: Diagnosis) -> Diagnosis:
    settings = source.config.source
    wanted = publications.desired(source.connection, settings, source.needs)
    present = publication.existing(source.connection, publication.names(settings))
    problems = [each for each in drift(wanted, present) if each.severity == "error"]
    if not_captured := [each for each in problems if each in wanted.problems]:
        return replace(found, person=publications.not_captured(not_captured))
    faults = (Fault("publication_drift", _drifted(source, problem)) for problem in problems)
    return replace(found, faults=(*found.faults, *faults), corrects_publications=bool(problems))


def _drifted(source: SourceSetup, problem: Problem) -> str:
    """The problem, and what can fill what changed meanwhile. The server does not record since when it exists."""
    text = str(Problem(problem.where, problem.key, problem.message))
    keys = [mapping.key for mapping in source.mappings.for_table(problem.key) if mapping.backfill]
    if not keys:
        return f"{text}. It is not known since when, and no mapping of it has a `backfill`: what changed meanwhile is missing"
    return f"{text}. It is not known since when: `backfill` can fill it for {', '.join(keys)}, from a time at which it was right"


# What is done.


def apply(source: SourceSetup, diagnosis: Diagnosis, *, backfill: bool = False) -> Repaired:
    """Does what a repairable diagnosis says. `backfill`: queues the jobs that fill the gaps.

    Raises AlreadyRunning, with nothing changed, if the slot is concerned and a worker runs; Stop, with nothing changed, if the
    source has changed since it was diagnosed.
    """
    with source.exclusive() if diagnosis.mend else nullcontext():
        if diagnosis.mend:
            _verify_unchanged(source, diagnosis)
        if diagnosis.corrects_publications:
            publications.publish(source)
        if diagnosis.mend:
            return Repaired(tuple(_repair_slot(source, diagnosis, backfill)))
    after = diagnose(source)  # the server says that it cannot decode what came without publications only once they exist
    return Repaired(left=after if after.mend else None)


def _verify_unchanged(source: SourceSetup, diagnosis: Diagnosis) -> None:
    """An earlier diagnosis may be out of date: a new slot in place of one that works would lose changes."""
    now = diagnose(source)
    if (now.mend, now.passed_over) != (diagnosis.mend, diagnosis.passed_over):
        raise Stop("The source has changed since it was diagnosed. Nothing was done.", hint="Run `cdc-tracker repair` again.")


def _repair_slot(source: SourceSetup, diagnosis: Diagnosis, backfill: bool) -> list[Gap]:
    """Stores the record last: until then `repair` can be run again, and finds the same gaps."""
    if diagnosis.mend == "pass over":
        slot.advance(source.connection, source.config.source.slot, diagnosis.passed_over)
    record, found = source.record(), source.slot()
    if diagnosis.mend == "new slot" or found is None:
        found = source.create_slot()
    gaps = [gap_of(source, each, create_jobs=backfill) for each in source.missing(found.confirmed_flush_lsn or 0)]
    source.adopt(record, found)
    return gaps
