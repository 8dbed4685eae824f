"""History of the journal sent again: a rewind moves a destination's checkpoint back, a replay is a job beside the live stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdc_tracker import mapping
from cdc_tracker.config.config import Config
from cdc_tracker.delivery.points import Target, located, range_of
from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal
from cdc_tracker.monitoring import reports
from cdc_tracker.operations import named
from cdc_tracker.operations.estimate import DestinationEstimate, estimate
from cdc_tracker.state import Job, ReplaySpec, State
from cdc_tracker.worker.assemble import build_pipeline, captured_tables, source_record


def plan_rewind(
    config: Config,
    state: State,
    journal: Journal,
    destination: str,
    target: Target,
    *,
    only_missing: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> DestinationEstimate:
    """What a rewind to the target would send again. Changes nothing. Calls `advance` after each segment that it reads.

    Raises InvalidRequest for an unknown destination; Stop if the target is not before the checkpoint, or older than the journal.
    """
    named.destination(config, destination)
    record = source_record(config, state)
    position, to = named.checkpoint(state, record.name, destination), located(journal, target)
    if to >= position:
        raise Stop(
            f"The checkpoint is at {position}, which is not past {to}: there is nothing to send again. "
            "A rewind only goes back, since going forward would skip events.",
            hint="`cdc-tracker status` shows where each destination is.",
        )
    pipeline = build_pipeline(config, record, destination)
    return estimate(config, state, journal, destination, pipeline, to, position, only_missing=only_missing, advance=advance)


def request_rewind(state: State, journal: Journal, wanted: DestinationEstimate, *, accept_duplicates: bool) -> bool:
    """Requests the rewind. Returns whether a running worker applies it at once; otherwise the next worker does.

    Raises Stop if there would be duplicates that are not accepted.
    """
    wanted.refuse_duplicates(accepted=accept_duplicates)
    source, destination = wanted.source, wanted.destination
    state.checkpoints.request_rewind(source, destination, wanted.counts.after, only_missing=wanted.only_missing)
    journal.wake(destination)
    return reports(state.reports.all(source), f"deliver:{destination}")


@dataclass(frozen=True)
class Replay:
    """What would be sent again. `events`: keys of what is sent, None: all. `texts`: the mapping files, by name."""

    estimate: DestinationEstimate
    events: list[str] | None
    texts: dict[str, str]


def plan_replay(
    config: Config,
    state: State,
    journal: Journal,
    destination: str,
    start: Target,
    end: Target | None = None,
    *,
    events: Sequence[str] = (),
    files: Sequence[Path] | None = None,
    only_missing: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Replay:
    """What a replay would send. Changes nothing. Calls `advance` after each segment that it reads.

    It ends at `end` (None: as late as possible), at the destination's checkpoint at the latest. `events`: only these, by key or
    name; tables for a destination of raw changes. `files`: the mappings; None: those in force.

    Raises InvalidRequest for unknown names, MappingError, and Stop if the journal does not have the range.
    """
    settings = named.destination(config, destination)
    texts = mapping.texts(config.mapping_paths if files is None else files)
    mappings = mapping.load_texts(texts)
    keys = None
    if events:
        raw = settings.requirements.raw
        keys = named.raw_events(captured_tables(config, mappings), events) if raw else named.events(mappings.all, events)
    record = source_record(config, state)
    after, upto = range_of(journal, start, end, named.checkpoint(state, record.name, destination))
    pipeline = build_pipeline(config, record, destination, mappings, only=keys)
    again = estimate(config, state, journal, destination, pipeline, after, upto, only_missing=only_missing, advance=advance)
    return Replay(again, keys, texts)


def start_replay(
    state: State, journal: Journal, wanted: Replay, *, accept_duplicates: bool, max_rate: float | None = None
) -> Job:
    """Queues the replay. `max_rate`: events a second. Raises Stop if there would be duplicates that are not accepted."""
    again, counts = wanted.estimate, wanted.estimate.counts
    again.refuse_duplicates(accepted=accept_duplicates)
    spec = ReplaySpec(
        after=counts.after,
        upto=counts.upto,
        events=wanted.events,
        mappings=wanted.texts,
        only_missing=again.only_missing,
        max_rate=max_rate,
    )
    job = state.jobs.create(again.source, again.destination, spec, needs=counts.after, total=counts.total)
    journal.wake(again.destination)
    return job
