"""What `repair` says of each mapping: whether its table fills a gap, and the command or the job that does it."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from cdc_tracker.capture.gaps import Missing, iso, window
from cdc_tracker.cli.standing import Standing
from cdc_tracker.delivery.jobs.spec import backfill_spec, conditions_of, unfit
from cdc_tracker.errors import Stop
from cdc_tracker.mapping import texts
from cdc_tracker.sources.postgres.snapshot import extent, usable_key
from cdc_tracker.worker import assemble

if TYPE_CHECKING:
    from cdc_tracker.mapping import Mapping

_STILL_THERE = "rows that are still there; those deleted since cannot be had"
_AS_NOW = "rows as they are now; what a later update has overwritten, and rows deleted since, cannot be had"


def fillings(place: Standing, gap: Missing, *, config: str, make_jobs: bool) -> list[dict[str, Any]]:
    """One for each mapping of the destination, and for the outbox. `config`: what --config named."""
    rows = []
    for mapping in assemble.load_mappings(place.config).all:
        if not mapping.goes_to(gap.destination):
            continue
        against = _against(place, mapping, gap)
        why = against or (_AS_NOW if "update" in mapping.on else _STILL_THERE)
        row = {"event": mapping.key, "table": mapping.table, "possible": not against, "why": why}
        if not against:
            row["command"] = command(mapping.key, gap, config)
        if not against and make_jobs:
            row["job"] = _job(place, mapping, gap)
        rows.append(row)
    if place.config.source.outbox:
        why = "what was written to the outbox in between cannot be read again"
        rows.append({"event": "outbox", "table": place.config.source.outbox.table, "possible": False, "why": why})
    return rows


def _against(place: Standing, mapping: Mapping, gap: Missing) -> str:
    """Why the table cannot fill the gap; empty where it can."""
    if not {"insert", "update"} & set(mapping.on):
        return f"{' and '.join(mapping.on)}: rows that are gone cannot be read from their table"
    if (stop := unfit(mapping, gap.destination)) is not None:
        return str(stop)
    try:
        usable_key(place.connection, mapping.table)
        _size(place, mapping, gap)
    except Stop as error:
        return str(error)
    return ""


def command(event: str, gap: Missing, config: str) -> str:
    """What a person types to fill the gap."""
    since, upto = window(gap)
    name = f'"{event}"' if re.fullmatch(r"[\w .,:/+-]+", event) else shlex.quote(event)
    begin = f" --from {iso(since)}" if since else ""
    chosen = f"--config {shlex.quote(config)} " if config else ""
    return f"cdc-tracker {chosen}backfill {name} --destination {gap.destination}{begin} --to {iso(upto)}"


def _job(place: Standing, mapping: Mapping, gap: Missing) -> int:
    """The job that this command would make."""
    since, upto = window(gap)
    spec = backfill_spec(
        mapping,
        texts=texts(place.config.mapping_paths),
        where=None,
        order="asc",
        from_us=since,
        to_us=upto,
        only_missing=place.config.destinations[gap.destination].sent_ledger is not None,
        max_rate=None,
    )
    job = place.state.jobs.create(place.name, gap.destination, "backfill", spec, total=_size(place, mapping, gap))
    place.journal.wake(gap.destination)
    return job.id


def _size(place: Standing, mapping: Mapping, gap: Missing) -> int:
    """Rows to read, as the planner thinks. Raises SourceError where PostgreSQL refuses the mapping's `where`."""
    return extent(place.connection, mapping.table, *conditions_of(mapping, None, *window(gap))).rows
