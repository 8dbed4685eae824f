"""Replay: sends a range of the journal again, with all operations and the original ids."""

from __future__ import annotations

from dataclasses import replace

from cdc_tracker.delivery.batcher import Batcher
from cdc_tracker.delivery.jobs.steps import PORTION, Pause, Steps, Work
from cdc_tracker.destinations.base import Limits
from cdc_tracker.journal import Journal, segments_between
from cdc_tracker.model import Position
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import Job, ReplayProgress


class Replay(Work):
    """Sends the results of the journal's changes after a position, up to and including `upto`.

    The batches depend on the position alone: after a crash, the one that was in flight is made again as it was.
    """

    def __init__(self, journal: Journal, pipeline: Pipeline, after: Position, upto: Position, limits: Limits) -> None:
        self._journal, self._pipeline, self._limits = journal, pipeline, limits
        self._position, self._upto = after, upto

    def steps(self) -> Steps:
        """See Work."""
        batcher = Batcher(self._position, self._limits)
        for segment, after in segments_between(self._journal, self._position, self._upto, at_once=1):
            for results, reached in self._pipeline.portions(segment, after, self._upto, size=PORTION):
                yield from batcher.add(segment, results, reached)
                yield Pause.WORKED
        yield batcher.close()

    def done(self, upto: Position) -> None:
        """See Work."""
        self._position = upto

    def updated(self, job: Job) -> Job:
        """See Work."""
        return replace(job, progress=ReplayProgress(position=self._position), needs=self._position)
