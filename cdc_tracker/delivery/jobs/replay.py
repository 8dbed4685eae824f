"""The journal's depth of history: exact, all operations, the original ids."""

from __future__ import annotations

from cdc_tracker.delivery.batcher import Batcher
from cdc_tracker.delivery.jobs.steps import PORTION, Pause, Steps
from cdc_tracker.destinations.base import Limits
from cdc_tracker.journal import Journal
from cdc_tracker.model import Position
from cdc_tracker.pipeline.pipeline import Pipeline
from cdc_tracker.pipeline.shaping import Shaping


def replayed(
    journal: Journal, translator: Pipeline, after: Position, upto: Position, limits: Limits, shaping: Shaping | None = None
) -> Steps:
    """What the journal's changes past `after`, up to and with `upto`, become.

    The parcels depend on `after` alone, so that after a crash the one that was under way is made again as it was.
    """
    packing = Batcher(after, limits, shaping)
    while after < upto and (segments := journal.read(after, 1)):
        segment = segments[0]
        for found, reached in translator.portions(segment, after, PORTION):
            inside = found if reached <= upto else [made for made in found if made.position <= upto]
            yield from packing.add(segment, inside, min(reached, upto))
            yield Pause.WORKED
            if reached >= upto:
                break
        after = segment.last
    yield packing.close()
