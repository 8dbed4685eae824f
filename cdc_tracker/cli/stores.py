"""What most commands open first: the configuration, the state, the journal."""

from __future__ import annotations

from cdc_tracker.cli import Invocation
from cdc_tracker.config.config import Config
from cdc_tracker.worker.assemble import open_journal as opened_journal
from cdc_tracker.worker.assemble import open_state as opened_state

__all__ = ["load_config", "opened_journal", "opened_state"]


def load_config(invocation: Invocation) -> Config:
    """The configuration."""
    return invocation.config
