"""What a job is asked to do: its spec, checked before anything is sent, and what it is put together of when it runs."""

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
PATIENCE = 2.0  # seconds of reading rows that the conditions leave out, after which progress is stored


def replay_spec(
    after: Position,
    upto: Position,
    *,
    events: Sequence[str] | None,
    texts: Mapping[str, str],
    only_missing: bool,
    max_rate: float | None,
) -> dict[str, Any]:
    """`events`: mapping keys, None for all. `texts`: the mapping files, so that the job gives the same however long it takes."""
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
    """`from_us`, `to_us`: only events of that time, in microseconds since the Unix epoch."""
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
    """Why a mapping's events cannot be made of its table's rows for a destination; None where they can."""
    if not mapping.goes_to(destination):
        names = ", ".join(mapping.destinations or ())
        return Stop(f"{mapping.key!r} is not for {destination}: its mapping names {names}.", hint=f"See {mapping.where}.")
    if mapping.backfill is None:
        return Stop(
            f"{mapping.key!r} has no `backfill`: nobody has said of which rows of {mapping.table} the event is true.",
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
    """Reads the table as the job's spec says, by the `key` that it began with. Connects only when it reads."""
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
        never=settings.never_capture.get(mapping.table, ()),
        patience=PATIENCE,
    )


def rows_at_once(spec: Mapping[str, Any]) -> int:
    """Of a chunk. At a limited rate no more than go in a minute: while they wait, what the stream makes is remembered."""
    rate = spec["max_rate"]
    return min(int(spec["chunk"]), max(1, int(rate * MINUTE))) if rate else int(spec["chunk"])


def conditions_of(
    mapping: EventMapping, where: str | None, from_us: int | None, to_us: int | None
) -> tuple[list[str], list[Condition]]:
    """What limits the rows: SQL that people wrote, and the event's time where a column holds it."""
    texts = [text for text in (mapping.backfill.where if mapping.backfill else None, where) if text]
    column = mapping.timestamp.expression.column if mapping.timestamp else None
    timed = column is not None and (from_us is not None or to_us is not None)
    return texts, [since(column, from_us, to_us)] if timed and column else []
