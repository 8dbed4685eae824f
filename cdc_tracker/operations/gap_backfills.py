"""Which tables can fill a gap by a backfill, and the jobs that do it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdc_tracker.capture.gaps import Missing, window
from cdc_tracker.delivery.jobs.spec import backfill_spec, conditions_of, unfit
from cdc_tracker.errors import Stop
from cdc_tracker.mapping import Mapping, texts
from cdc_tracker.operations.source import SourceSetup
from cdc_tracker.sources.postgres.snapshot import extent, usable_key

_STILL_THERE = "rows that are still there; those deleted since cannot be had"
_AS_NOW = "rows as they are now; what a later update has overwritten, and rows deleted since, cannot be had"
_OUTBOX = "what was written to the outbox in between cannot be read again"


@dataclass(frozen=True)
class Refill:
    """Whether a backfill of one event fills a gap. `why`: what it cannot bring back, or what is against it."""

    event: str
    table: str
    possible: bool
    why: str
    job: int | None = None  # the backfill that was queued


@dataclass(frozen=True)
class Gap:
    """What one destination lacks, and what can be done for each of its events."""

    missing: Missing
    refills: tuple[Refill, ...]


def gap_of(source: SourceSetup, missing: Missing, *, create_jobs: bool) -> Gap:
    """What fills the gap: by each mapping of the destination, and the outbox. `create_jobs`: queues the possible backfills."""
    return Gap(missing, tuple(_refills(source, missing, create_jobs)))


def _refills(source: SourceSetup, missing: Missing, create_jobs: bool) -> Iterator[Refill]:
    for mapping in source.mappings.all:
        if mapping.goes_to(missing.destination):
            against = _against(source, mapping, missing)
            why = against or (_AS_NOW if "update" in mapping.on else _STILL_THERE)
            job = _create_job(source, mapping, missing) if create_jobs and not against else None
            yield Refill(mapping.key, mapping.table, not against, why, job)
    if outbox := source.config.source.outbox:
        yield Refill("outbox", outbox.table, False, _OUTBOX)


def _against(source: SourceSetup, mapping: Mapping, missing: Missing) -> str:
    """Why the table cannot fill the gap; empty if it can."""
    if not {"insert", "update"} & set(mapping.on):
        return f"{' and '.join(mapping.on)}: deleted rows cannot be read from their table"
    if (stop := unfit(mapping, missing.destination)) is not None:
        return str(stop)
    try:
        usable_key(source.connection, mapping.table)
        _rows(source, mapping, missing)
    except Stop as error:
        return str(error)
    return ""


def _create_job(source: SourceSetup, mapping: Mapping, missing: Missing) -> int:
    since, upto = window(missing)
    spec = backfill_spec(
        mapping,
        texts=texts(source.config.mapping_paths),
        where=None,
        order="asc",
        from_us=since,
        to_us=upto,
        only_missing=source.config.destinations[missing.destination].sent_ledger is not None,
        max_rate=None,
    )
    total = _rows(source, mapping, missing)
    job = source.state.jobs.create(source.name, missing.destination, "backfill", spec, total=total)
    source.journal.wake(missing.destination)
    return job.id


def _rows(source: SourceSetup, mapping: Mapping, missing: Missing) -> int:
    """Rows to read, by the planner's estimate. Raises SourceError if PostgreSQL refuses the mapping's `where`."""
    return extent(source.connection, mapping.table, *conditions_of(mapping, None, *window(missing))).rows
