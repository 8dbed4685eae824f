"""A backfill: sends the events of a table's present rows, as a job beside the live stream; and fills gaps with them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Literal

from cdc_tracker.capture.gaps import Missing, window
from cdc_tracker.config.config import Config
from cdc_tracker.delivery.jobs.spec import CHUNK, conditions_of, unfit
from cdc_tracker.destinations import registry
from cdc_tracker.destinations.base import Destination
from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal
from cdc_tracker.mapping import Mapping, texts
from cdc_tracker.operations import named
from cdc_tracker.operations.source import SourceSetup
from cdc_tracker.sources.postgres.connection import Connection, connect
from cdc_tracker.sources.postgres.snapshot import extent, usable_key
from cdc_tracker.state import BackfillSpec, Job, State
from cdc_tracker.units import plural
from cdc_tracker.worker.assemble import load_mappings, source_record


@dataclass(frozen=True)
class Wanted:
    """Which rows of a table, and how. `from_us`, `to_us`: the time of their events, in microseconds since the Unix epoch.

    `where`: SQL. `order`: of the table's key. `chunk`: rows read at once at most. `max_rate`: events a second.
    """

    from_us: int | None = None
    to_us: int | None = None
    where: str | None = None
    order: Literal["asc", "desc"] = "asc"
    chunk: int = CHUNK
    max_rate: float | None = None


@dataclass(frozen=True)
class Backfill:
    """Rows that would be read for one event and one destination. `rows` and `bytes` are the planner's estimates.

    `key`: the columns that order the rows. `duplicates`: how many events the destination was delivered that it would not
    recognize by their ids.
    """

    source: str
    destination: str
    spec: BackfillSpec
    key: tuple[str, ...]
    rows: int
    bytes: int
    kind: type[Destination]
    dry_run: bool
    duplicates: int

    def refuse_duplicates(self) -> None:
        """Raises Stop if there may be duplicates."""
        if self.duplicates:
            raise Stop(
                f"{self.destination} was delivered {plural(self.duplicates, 'event')} of {self.spec.event} that it does not "
                "recognize by their ids: it will have those twice whose rows are read. Nothing was changed.",
                hint="--yes-duplicates sends them all the same; --where or --to can leave them out; a `sent_ledger` at the "
                "destination holds back what it delivers from then on.",
            )


def plan(config: Config, state: State, event: str, destinations: Sequence[str], wanted: Wanted) -> list[Backfill]:
    """What backfills of an event, by key or name, would read for each destination. Changes nothing.

    Raises InvalidRequest for unknown names; Stop if the mapping, the table or the destination does not allow a backfill.
    """
    for name in destinations:
        named.destination(config, name)
    mappings = load_mappings(config)
    keys = named.events(mappings.all, [event])
    source_record(config, state)
    pairs = [(mapping, name) for mapping in mappings.all if mapping.key in keys for name in destinations]
    for mapping, name in pairs:
        _check(config, mapping, name)
    with closing(connect(config.source.url.get_secret_value())) as connection:
        return [plan_one(config, state, connection, mapping, name, wanted) for mapping, name in pairs]


def start(state: State, journal: Journal, backfills: Sequence[Backfill], *, accept_duplicates: bool) -> list[Job]:
    """Queues them all, or none. Raises Stop if there may be duplicates that are not accepted."""
    if not accept_duplicates:
        for each in backfills:
            each.refuse_duplicates()
    jobs = []
    for each in backfills:
        jobs.append(state.jobs.create(each.source, each.destination, each.spec, total=each.rows))
        journal.wake(each.destination)
    return jobs


def plan_one(
    config: Config, state: State, connection: Connection, mapping: Mapping, destination: str, wanted: Wanted
) -> Backfill:
    """The same for one mapping and one configured destination. `connection`: to the source database."""
    settings, source = config.destinations[destination], config.source.name
    _check(config, mapping, destination)
    kind = registry.described(settings)
    where, conditions = conditions_of(mapping, wanted.where, wanted.from_us, wanted.to_us)
    key = usable_key(connection, mapping.table)
    size = extent(connection, mapping.table, where, conditions)
    only_missing = settings.sent_ledger is not None
    return Backfill(
        source=source,
        destination=destination,
        spec=BackfillSpec(
            event=mapping.key,
            table=mapping.table,
            mappings=texts(config.mapping_paths),
            only_missing=only_missing,
            **asdict(wanted),
        ),
        key=key,
        rows=size.rows,
        bytes=size.bytes,
        kind=kind,
        dry_run=settings.dry_run,
        duplicates=0 if only_missing else _delivered_before(state, source, mapping.key, destination, kind.dedupe_window),
    )


def _check(config: Config, mapping: Mapping, destination: str) -> None:
    """Raises Stop if the mapping or the destination does not allow a backfill."""
    if config.destinations[destination].requirements.raw:
        raise Stop(
            f"The destination {destination!r} gets changes as they were captured, and a backfill makes events of present rows.",
            hint="What the journal has can be sent again: `cdc-tracker replay`.",
        )
    if (why := unfit(mapping, destination)) is not None:
        raise why


def _delivered_before(state: State, source: str, key: str, destination: str, window: float) -> int:
    """How many events of the mapping were delivered so long ago that the destination no longer recognizes their ids."""
    if math.isinf(window):
        return 0
    until = (time.time() - window) // 3600
    rows = state.ledger.rows(source, destination=destination, mapping=key)
    return sum(row.delivered + row.assumed for row in rows if row.hour <= until)


# Gaps: what a backfill can fill of what capture never read.

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
