"""The spec of a job, checked before anything is sent, and what a running job derives from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Stop
from cdc_tracker.mapping.schema.declared import Mapping as EventMapping
from cdc_tracker.model import Position
from cdc_tracker.sources.postgres.snapshot import Condition, TableReader, since

CHUNK = 5_000  # rows read at once at most
MINUTE = 60.0
PATIENCE = 2.0  # seconds of reading only rows that the conditions exclude, after which progress is stored


def replay_spec(
    after: Position,
    upto: Position,
    *,
    events: Sequence[str] | None,
    texts: Mapping[str, str],
    only_missing: bool,
    max_rate: float | None,
) -> dict[str, Any]:
    """Returns the spec of a replay.

    `events`: mapping keys, None: all. `texts`: the mapping files, so that the job's results do not change while it runs.
    """
    return {
        "from": list(after),
        "to": list(upto),
        "events": list(events) if events is not None else None,
        "mappings": dict(texts),
        "only_missing": only_missing,
        "max_rate": max_rate,
    }


def backfill_spec(
    mapping: EventMapping,
    *,
    texts: Mapping[str, str],
    where: str | None,
    order: str,
    from_us: int | None,
    to_us: int | None,
    only_missing: bool,
    max_rate: float | None,
    chunk: int = CHUNK,
) -> dict[str, Any]:
    """Returns the spec of a backfill. `from_us`, `to_us`: only events of that time, in microseconds since the Unix epoch."""
    return {
        "event": mapping.key,
        "table": mapping.table,
        "where": where,
        "order": order,
        "from": from_us,
        "to": to_us,
        "mappings": dict(texts),
        "only_missing": only_missing,
        "max_rate": max_rate,
        "chunk": chunk,
    }


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
    settings: SourceSettings, mapping: EventMapping, spec: Mapping[str, Any], *, job: int, key: Sequence[str]
) -> TableReader:
    """Returns a reader of the table for the job's spec, in the order of `key`. It connects when it first reads."""
    where, conditions = conditions_of(mapping, spec["where"], spec["from"], spec["to"])
    return TableReader(
        settings.url.get_secret_value(),
        mapping.table,
        mapping.new_columns,
        job=job,
        key=key,
        where=where,
        conditions=conditions,
        order=spec["order"],
        never_capture=settings.never_capture.get(mapping.table, ()),
        patience=PATIENCE,
    )


def rows_at_once(spec: Mapping[str, Any]) -> int:
    """Returns the rows of a chunk: with a `max_rate`, at most a minute's, because the stream is remembered while they wait."""
    rate = spec["max_rate"]
    return min(int(spec["chunk"]), max(1, int(rate * MINUTE))) if rate else int(spec["chunk"])


def conditions_of(
    mapping: EventMapping, where: str | None, from_us: int | None, to_us: int | None
) -> tuple[list[str], list[Condition]]:
    """Returns the conditions on rows: SQL texts of the mapping and the job, and the event's time if a column has it."""
    texts = [text for text in (mapping.backfill.where if mapping.backfill else None, where) if text]
    column = mapping.timestamp.expression.column if mapping.timestamp else None
    timed = column is not None and (from_us is not None or to_us is not None)
    return texts, [since(column, from_us, to_us)] if timed and column else []
