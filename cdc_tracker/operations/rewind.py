"""A rewind: moves a destination's checkpoint back within the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cdc_tracker.config.config import Config
from cdc_tracker.delivery.points import Target, located
from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal
from cdc_tracker.model import Position
from cdc_tracker.monitoring import reports
from cdc_tracker.operations import named
from cdc_tracker.operations.estimate import DestinationEstimate, estimate
from cdc_tracker.state import State
from cdc_tracker.worker.assemble import build_pipeline, source_record


@dataclass(frozen=True)
class Rewind:
    """A checkpoint that would move from `position` back to `to`, and what that would send again."""

    source: str
    destination: str
    position: Position
    to: Position
    estimate: DestinationEstimate


def plan(
    config: Config,
    state: State,
    journal: Journal,
    destination: str,
    target: Target,
    *,
    only_missing: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Rewind:
    """What a rewind to the target would do. Changes nothing. Calls `advance` after each segment that it reads.

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
    again = estimate(config, state, journal, destination, pipeline, to, position, only_missing=only_missing, advance=advance)
    return Rewind(record.name, destination, position, to, again)


def apply(state: State, journal: Journal, wanted: Rewind, *, accept_duplicates: bool) -> bool:
    """Requests the rewind. Returns whether a running worker applies it at once; otherwise the next worker does.

    Raises Stop if there would be duplicates that are not accepted.
    """
    if not accept_duplicates:
        wanted.estimate.refuse_duplicates()
    state.checkpoints.request_rewind(wanted.source, wanted.destination, wanted.to, only_missing=wanted.estimate.only_missing)
    journal.wake(wanted.destination)
    return reports(state.reports.all(wanted.source), f"deliver:{wanted.destination}")
