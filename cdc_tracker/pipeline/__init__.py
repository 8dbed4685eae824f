"""The pipeline: segments of the journal to events. Pure."""
