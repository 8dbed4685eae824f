"""What most commands open first: the configuration, the state, the journal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from cdc_tracker import config as configuration
from cdc_tracker import logs
from cdc_tracker.cli import Invocation
from cdc_tracker.config import Config
from cdc_tracker.documents import nearest
from cdc_tracker.errors import StateMissing
from cdc_tracker.journal import Journal
from cdc_tracker.state import SourceRecord, State


def load_config(invocation: Invocation) -> Config:
    """The configuration; from here on warnings of libraries go to standard error, so that `--json` stays JSON.

    Files that the command writes are readable as the configuration says.
    """
    config = configuration.load(invocation.config_path)
    os.umask(config.umask)
    logs.set_up(logs.LogSettings(format="text", level="warning"), secrets=config.secrets())
    return config


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


def known_source(config: Config, state: State) -> SourceRecord:
    """The record that `setup` made of the source."""
    record = state.source(config.source.name)
    if record is None:
        raise StateMissing(
            f"The state store does not know the source {config.source.name!r}: nothing was set up here, or its data is gone.",
            hint="Run `cdc-tracker check`, then `cdc-tracker setup`. Where it should exist, look at `data_dir` and `state.url`.",
        )
    return record


def one_destination(config: Config, name: str) -> str:
    """The name, if such a destination is configured."""
    if name not in config.destinations:
        raise click.UsageError(f"there is no destination {name!r} in {config.path}{nearest(name, list(config.destinations))}")
    return name
