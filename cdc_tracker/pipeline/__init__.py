"""The pipeline: from a segment of the journal to what a destination gets of it. Pure."""

from cdc_tracker.pipeline.decode import decoder, excerpts, whole_changes
from cdc_tracker.pipeline.pipeline import Pipeline
from cdc_tracker.pipeline.route import route_of
