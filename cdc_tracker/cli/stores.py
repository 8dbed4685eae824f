"""What most commands open first: the configuration, the state, the journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cdc_tracker.cli import Invocation
from cdc_tracker.config import Config
from cdc_tracker.journal import Journal
from cdc_tracker.state import State


def load_config(invocation: Invocation) -> Config:
    """The configuration."""
    return invocation.config


@contextmanager
def opened_state(config: Config, *, to_read: bool = False) -> Iterator[State]:
    """`to_read`: nothing is changed, so that a full disk does not matter."""
    state = State.open_to_read(config.state_url) if to_read else State.open(config.state_url)
    try:
        yield state
    finally:
        state.close()


@contextmanager
def opened_journal(config: Config, *, to_read: bool = False) -> Iterator[Journal]:
    """`to_read`: as of opened_state."""
    opened = Journal.open_to_read if to_read else Journal.open
    journal = opened(config.journal_url, config.source.name, config.wake_dir)
    try:
        yield journal
    finally:
        journal.close()
