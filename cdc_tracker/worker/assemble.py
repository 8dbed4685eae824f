"""The composition root: opens and builds what the configuration describes. Every other module is given what it works with."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cdc_tracker.config import config as configuration
from cdc_tracker.config.config import Config
from cdc_tracker.config.nearest import nearest
from cdc_tracker.destinations import registry
from cdc_tracker.destinations.base import NOTHING_MORE, Destination
from cdc_tracker.errors import ConfigError, MappingError, Problem
from cdc_tracker.journal import Journal
from cdc_tracker.refusals import Refusal
from cdc_tracker.sources.postgres.needs import OUTBOX, Need
from cdc_tracker.state import SourceRecord, State

if TYPE_CHECKING:
    from cdc_tracker.mapping import Mappings
    from cdc_tracker.pipeline import Pipeline


def load_config(path: Path | None = None, *, offline: bool = False) -> Config:
    """The configuration, each destination's settings validated by its own class. Raises ConfigError.

    `offline`: for reading it only. A secret that is not there, as on a build server, is no error.
    """
    return configuration.load(path, registry.settings_class, absent="absent" if offline else None)


def open_state(config: Config, *, to_read: bool = False) -> State:
    """The state store, created and migrated if needed. The caller closes it.

    `to_read`: it works on a full disk, and nothing may be written.
    """
    return (State.open_to_read if to_read else State.open)(config.state_url)


def open_journal(config: Config, *, to_read: bool = False) -> Journal:
    """The journal, as `open_state` opens the state store."""
    return (Journal.open_to_read if to_read else Journal.open)(config.journal_url, config.source.name, config.wake_dir)


def source_record(config: Config, state: State) -> SourceRecord:
    """The record that `setup` made of the source. Raises StateMissing."""
    record = state.sources.get(config.source.name)
    if record is None:
        raise Refusal.STATE_MISSING.error(
            f"the state store knows nothing of the source {config.source.name!r}",
            hint="run `cdc-tracker setup`; if it was set up before, the state store was lost: restore it, or see `setup --help`",
        )
    return record


def open_destination(config: Config, name: str, *, dry_run: bool = False) -> Destination:
    """The destination of that name, ready to deliver; for a dry run, one that sends nothing. The caller closes it."""
    settings = config.destinations.get(name)
    if settings is None:
        raise ConfigError(f"{config.path}: there is no destination {name!r}{nearest(name, list(config.destinations))}")
    kind = registry.described(settings)
    return (registry.dry(kind) if dry_run else kind)(name, settings, config.base)


def load_mappings(config: Config, texts: Mapping[str, str] | None = None) -> Mappings:
    """Every mapping file. Raises MappingError, also if a mapping names a destination that is not configured.

    `texts`: file name → content, if the files were read before.
    """
    from cdc_tracker import mapping as files  # noqa: PLC0415  most commands do without it

    mappings = files.load(config.mapping_paths) if texts is None else files.load_texts(texts)
    known = list(config.destinations)
    problems = [
        Problem(mapping.where, "destinations", f"there is no destination {name!r}{nearest(name, known)}")
        for mapping in mappings.all
        for name in mapping.destinations or ()
        if name not in config.destinations
    ]
    if problems:
        raise MappingError(problems)
    return mappings


def captured_tables(config: Config, mappings: Mappings) -> list[str]:
    """`schema.table` of every mapped table and of the outbox, sorted."""
    return sorted({*mappings.tables(), *([config.source.outbox.table] if config.source.outbox else [])})


def table_needs(config: Config, mappings: Mappings) -> dict[str, Need]:
    """Returns the operations and columns that mappings and destinations use, by captured table."""
    requirements = [destination.requirements for destination in config.destinations.values()]
    raw = any(each.raw for each in requirements)
    needs = {} if config.source.outbox is None else {config.source.outbox.table: replace(OUTBOX, every_change=raw)}
    for table in mappings.tables():
        found = mappings.for_table(table)
        keys = {name for each in requirements for name in each.key_columns.get(table, ())}
        base = needs.get(table, Need(frozenset()))
        needs[table] = Need(
            operations=base.operations.union(on for mapping in found for on in mapping.on),
            columns=frozenset(name for mapping in found for name in mapping.new_columns) | keys,
            old_columns=frozenset(name for mapping in found for name in mapping.old_columns),
            where=found[0].where,
            backfill=any(mapping.backfill for mapping in found),
            every_change=raw,
            every_column=raw or base.every_column,
        )
    return needs


def build_pipeline(
    config: Config,
    record: SourceRecord,
    destination: str | None,
    mappings: Mappings | None = None,
    *,
    only: Collection[str] | None = None,
) -> Pipeline:
    """The pipeline from the source's changes to a destination's events; None: to events of any destination.

    `mappings`: None loads those on disk. `only`: keys of what is made (a mapping's, `outbox`, `raw:TABLE`); None: all.
    """
    from cdc_tracker.pipeline import Pipeline, route_of  # noqa: PLC0415  most commands do without it

    settings = None if destination is None else config.destinations[destination]
    return Pipeline(
        load_mappings(config) if mappings is None else mappings,
        outbox=config.source.outbox,
        namespace=uuid.UUID(record.namespace),
        database=record.database,
        destination=destination,
        requirements=NOTHING_MORE if settings is None else settings.requirements,
        steps=() if settings is None else (route_of(settings),),
        only=only,
    )
