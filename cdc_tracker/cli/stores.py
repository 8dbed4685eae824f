"""What most commands open first: the configuration, the state, the journal."""

from __future__ import annotations

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
from cdc_tracker.mapping import Mappings
from cdc_tracker.state import SourceRecord, State


def load_config(invocation: Invocation) -> Config:
    """The configuration; from here on warnings of libraries go to standard error, so that `--json` stays JSON."""
    config = configuration.load(invocation.config_path)
    logs.set_up(logs.LogSettings(format="text", level="warning"), secrets=config.secrets())
    return config


@contextmanager
def opened_state(config: Config) -> Iterator[State]:
    config.data.mkdir(parents=True, exist_ok=True)
    state = State.open(config.state_url)
    try:
        yield state
    finally:
        state.close()


@contextmanager
def opened_journal(config: Config) -> Iterator[Journal]:
    config.data.mkdir(parents=True, exist_ok=True)
    journal = Journal.open(config.journal_url, config.source.name, config.wake_dir)
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


def operations(mappings: Mappings) -> dict[str, frozenset[str]]:
    """`schema.table` → the operations that some mapping is for."""
    return {table: frozenset(on for mapping in mappings.for_table(table) for on in mapping.on) for table in mappings.tables()}
