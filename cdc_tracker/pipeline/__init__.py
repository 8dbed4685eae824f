"""The pipeline: from a segment of the journal to what a destination gets of it. Pure."""

from cdc_tracker.pipeline.decode import ChangeReader, decoder, excerpts, readable, whole_changes
from cdc_tracker.pipeline.outbox import KEY as OUTBOX
from cdc_tracker.pipeline.pipeline import Pipeline
from cdc_tracker.pipeline.route import route_of

__all__ = ["OUTBOX", "ChangeReader", "Pipeline", "decoder", "excerpts", "readable", "route_of", "whole_changes"]
