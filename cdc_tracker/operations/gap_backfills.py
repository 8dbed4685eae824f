"""Which tables can fill a gap by a backfill, and the jobs that do it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdc_tracker.capture.gaps import Missing, window
from cdc_tracker.errors import Stop
from cdc_tracker.mapping import Mapping
from cdc_tracker.operations.backfill import Wanted, plan_one, start
from cdc_tracker.operations.source import SourceSetup

_STILL_THERE = "rows that still exist; those deleted since are lost"
_AS_NOW = "rows as they are now; rows deleted since, and values that later updates have overwritten, are lost"
_OUTBOX = "events written to the outbox meanwhile cannot be read again"


@dataclass(frozen=True)
class Refill:
    """Whether a backfill of one event fills a gap. `why`: what the backfill lacks, or why none is possible."""

    event: str
    table: str
    possible: bool
    why: str
    job: int | None = None  # the backfill that was queued


@dataclass(frozen=True)
class Gap:
    """What one destination lacks, and whether a backfill fills it, for each of its events."""

    missing: Missing
    refills: tuple[Refill, ...]


def gap_of(source: SourceSetup, missing: Missing, *, create_jobs: bool) -> Gap:
    """The gap with a refill for each mapping of the destination and for the outbox. `create_jobs`: queues possible backfills."""
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
