"""Replay: sends a range of the journal again, with all operations and the original ids."""

from __future__ import annotations

from cdc_tracker.delivery.batcher import Batcher
from cdc_tracker.delivery.jobs.steps import PORTION, Pause, Steps
from cdc_tracker.destinations.base import Limits
from cdc_tracker.journal import Journal, segments_between
from cdc_tracker.model import Position
from cdc_tracker.pipeline import Pipeline


def replayed(journal: Journal, pipeline: Pipeline, after: Position, upto: Position, limits: Limits) -> Steps:
    """Yields the batches of the journal's changes after `after`, up to and including `upto`.

    The batches depend on `after` alone: after a crash, the one that was in flight is made again with the same events.
    """
    batcher = Batcher(after, limits)
    for segment, begin in segments_between(journal, after, upto, at_once=1):
        for results, reached in pipeline.portions(segment, begin, upto, size=PORTION):
            yield from batcher.add(segment, results, reached)
            yield Pause.WORKED
    yield batcher.close()
