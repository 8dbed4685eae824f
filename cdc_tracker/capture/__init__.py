"""Capture: frames of the replication stream into the journal, feedback to the server."""
