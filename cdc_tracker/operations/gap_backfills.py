"""Which tables can fill a gap by a backfill, and the jobs that do it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdc_tracker.capture.gaps import Missing, window
from cdc_tracker.errors import Stop
from cdc_tracker.mapping import Mapping
from cdc_tracker.operations.backfill import Wanted, plan_one, start
from cdc_tracker.operations.source import SourceSetup

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
            yield _refill(source, mapping, missing, create_jobs)
    if outbox := source.config.source.outbox:
        yield Refill("outbox", outbox.table, False, _OUTBOX)


def _refill(source: SourceSetup, mapping: Mapping, missing: Missing, create_job: bool) -> Refill:
    if not {"insert", "update"} & set(mapping.on):
        why = f"{' and '.join(mapping.on)}: deleted rows cannot be read from their table"
        return Refill(mapping.key, mapping.table, False, why)
    wanted = Wanted(*window(missing))
    try:
        found = plan_one(source.config, source.state, source.connection, mapping, missing.destination, wanted)
    except Stop as error:
        return Refill(mapping.key, mapping.table, False, str(error))
    jobs = start(source.state, source.journal, [found], accept_duplicates=True) if create_job else []
    why = _AS_NOW if "update" in mapping.on else _STILL_THERE
    return Refill(mapping.key, mapping.table, True, why, jobs[0].id if jobs else None)
