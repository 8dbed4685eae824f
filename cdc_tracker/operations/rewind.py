"""A rewind: moves a destination's checkpoint back within the journal."""

from __future__ import annotations

from collections.abc import Callable

from cdc_tracker.config.config import Config
from cdc_tracker.delivery.points import Target, located
from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal
from cdc_tracker.monitoring import reports
from cdc_tracker.operations import named
from cdc_tracker.operations.estimate import DestinationEstimate, estimate
from cdc_tracker.state import State
from cdc_tracker.worker.assemble import build_pipeline, source_record


def plan(
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


def apply(state: State, journal: Journal, wanted: DestinationEstimate, *, accept_duplicates: bool) -> bool:
    """Requests the rewind. Returns whether a running worker applies it at once; otherwise the next worker does.

    Raises Stop if there would be duplicates that are not accepted.
    """
    wanted.refuse_duplicates(accepted=accept_duplicates)
    source, destination = wanted.source, wanted.destination
    state.checkpoints.request_rewind(source, destination, wanted.counts.after, only_missing=wanted.only_missing)
    journal.wake(destination)
    return reports(state.reports.all(source), f"deliver:{destination}")
