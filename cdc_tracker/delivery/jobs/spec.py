"""What can be backfilled, checked before anything is sent, and what a running backfill derives from its spec."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.destinations.support.event_view import EventRejected, read_event
from cdc_tracker.errors import Stop
from cdc_tracker.mapping.schema.declared import Mapping as EventMapping
from cdc_tracker.model import Event
from cdc_tracker.sources.postgres.snapshot import Condition, TableReader, since
from cdc_tracker.state import BackfillSpec
from cdc_tracker.times import iso_to_micros

CHUNK = 5_000  # rows read at once at most
MINUTE = 60.0
PATIENCE = 2.0  # seconds of reading only rows that the conditions exclude, after which progress is stored


def unfit(mapping: EventMapping, destination: str) -> Stop | None:
    """Returns why the mapping's events cannot be backfilled for the destination; None: they can."""
    if not mapping.goes_to(destination):
        names = ", ".join(mapping.destinations or ())
        return Stop(f"{mapping.key!r} is not for {destination}: its mapping names {names}.", hint=f"See {mapping.where}.")
    if mapping.backfill is None:
        return Stop(
            f"{mapping.key!r} has no `backfill`: it is not declared which rows of {mapping.table} had the event.",
            hint=f'Add it at {mapping.where}, with the `id` that it takes, such as backfill: {{where: "paid_at IS NOT NULL"}}. '
            "What the journal holds can be sent without it: `cdc-tracker replay`.",
        )
    if mapping.timestamp is None:
        return Stop(
            f"{mapping.key!r} has no `timestamp`: every event of the past would bear the time at which its row is read.",
            hint=f"Add it at {mapping.where}, such as timestamp: new.created_at.",
        )
    return None


def reader_of(
    settings: SourceSettings, mapping: EventMapping, spec: BackfillSpec, *, job: int, key: Sequence[str]
) -> TableReader:
    """Returns a reader of the table for the job's spec, in the order of `key`. It connects when it first reads."""
    where, conditions = conditions_of(mapping, spec.where, spec.from_us, spec.to_us)
    return TableReader(
        settings.url.get_secret_value(),
        mapping.table,
        mapping.new_columns,
        job=job,
        key=key,
        where=where,
        conditions=conditions,
        order=spec.order,
        never_capture=settings.never_capture.get(mapping.table, ()),
        patience=PATIENCE,
    )


def rows_at_once(spec: BackfillSpec) -> int:
    """Returns the rows of a chunk: with a `max_rate`, at most a minute's, because the stream is remembered while they wait."""
    return min(spec.chunk, max(1, int(spec.max_rate * MINUTE))) if spec.max_rate else spec.chunk


def conditions_of(
    mapping: EventMapping, where: str | None, from_us: int | None, to_us: int | None
) -> tuple[list[str], list[Condition]]:
    """Returns the conditions on rows: SQL texts of the mapping and the job, and the event's time if a column has it."""
    texts = [text for text in (mapping.backfill.where if mapping.backfill else None, where) if text]
    column = mapping.timestamp.expression.column if mapping.timestamp else None
    timed = column is not None and (from_us is not None or to_us is not None)
    return texts, [since(column, from_us, to_us, timezone=mapping.timezone)] if timed and column else []


def event_time(event: Event) -> int:
    """Returns the time that the event states, in microseconds since the Unix epoch; that of its commit if the text is no time."""
    with suppress(ValueError, EventRejected):
        return iso_to_micros(read_event(event).timestamp)
    return event.committed_at
