"""The catalog in a file, and mappings checked against it: without a database, state, journal or destination."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from cdc_tracker.config.config import Config
from cdc_tracker.errors import CdcTrackerError, ConfigError, Problem
from cdc_tracker.mapping import Mappings, findings
from cdc_tracker.operations.check import mappings_found, ok, problems_of, row_keys
from cdc_tracker.sources.postgres import catalog, definitions, placement, preflight, tablecheck
from cdc_tracker.sources.postgres.connection import Connection, connect
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.tables import SNAPSHOT_VERSION, Snapshot, Table, stable
from cdc_tracker.units import plural
from cdc_tracker.worker.assemble import load_mappings, table_needs

DEFAULT_FILE = "cdc-tracker.catalog.json"
_TAKE = "Write it with `cdc-tracker check --save-schema {path}`, where the database can be reached."
_STATEMENT_TIMEOUT = 60.0  # seconds


def take(config: Config) -> Snapshot:
    """The present catalog of the source. Mapping files that do not load add no table. Raises CdcTrackerError."""
    try:
        mappings = load_mappings(config)
    except ConfigError:
        mappings = Mappings(())
    with closing(connect(config.source.url.get_secret_value(), statement_timeout=_STATEMENT_TIMEOUT)) as connection:
        facts = preflight.gather(connection, config.source, table_needs(config, mappings))
        return Snapshot(
            SNAPSHOT_VERSION,
            facts.version,
            str(facts.server["database"]),
            facts.plugin,
            _tables(connection, mappings.tables()),
            tuple(definitions.statements(connection)),
        )


def save(config: Config, path: Path) -> Iterator[Problem]:
    """Takes the snapshot and writes it. Never raises a CdcTrackerError: what fails is a finding."""
    try:
        snapshot = take(config)
        write(snapshot, path)
    except CdcTrackerError as error:
        yield from problems_of(error, "schema")
    except OSError as error:
        yield Problem("schema", "", f"{path} cannot be written: {error.strerror}")
    else:
        yield ok("schema", f"wrote {path}: {described(snapshot)}")


def _tables(connection: Connection, mapped: Iterable[str]) -> tuple[Table, ...]:
    """All that mappings could name, and what they name though they should not: views, partitions."""
    found = {table.table: table for table in catalog.user_tables(connection)}
    return stable({**found, **catalog.tables(connection, set(mapped) - found.keys())}.values())


def write(snapshot: Snapshot, path: Path) -> None:
    """Writes the file, whole or not at all. Raises OSError."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(_laid_out(msgspec.to_builtins(snapshot)) + "\n", encoding="utf-8")
    beside.replace(path)


def _laid_out(value: Any, depth: int = 0) -> str:
    """JSON that shows differences well: a line for each column, each partition and each statement."""
    if not _is_broken(value, depth):
        return json.dumps(value, ensure_ascii=False)
    opened, closed = "{}" if isinstance(value, dict) else "[]"
    parts = (
        [(f"{json.dumps(key)}: ", each) for key, each in value.items()] if isinstance(value, dict) else [("", x) for x in value]
    )
    lines = ",\n".join(f"{' ' * (depth + 1)}{head}{_laid_out(each, depth + 1)}" for head, each in parts)
    return f"{opened}\n{lines}\n{' ' * depth}{closed}"


def _is_broken(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return any(_is_broken(each, depth + 1) for each in value.values())
    return isinstance(value, list | tuple) and bool(value) and (depth == 1 or isinstance(value[0], dict))


def read(path: Path) -> Snapshot:
    """The file's snapshot. Raises ConfigError, which says what to do, if it is missing, damaged, of another kind or version."""
    hint = _TAKE.format(path=path)
    try:
        raw = path.read_bytes()
        version = msgspec.json.decode(raw, type=_Versioned).version
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=hint) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no catalog that `check --save-schema` wrote: {error}", hint=hint) from None
    if version != SNAPSHOT_VERSION:
        older = "an earlier" if version < SNAPSHOT_VERSION else "a later"
        raise ConfigError(f"{path} was written by {older} cdc-tracker: version {version}, not {SNAPSHOT_VERSION}", hint=hint)
    try:
        return msgspec.json.decode(raw, type=Snapshot)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} is damaged: {error}", hint=hint) from None


class _Versioned(msgspec.Struct):
    version: int
    tables: list[msgspec.Raw]


def offline(config: Config, path: Path | None = None) -> Iterator[Problem]:
    """Every finding about the configuration and the mappings, by the snapshot at `path`, else the one beside the configuration.

    Opens nothing. Never raises a CdcTrackerError: what fails is a finding.
    """
    yield ok("configuration", f"{config.path}")
    mappings = yield from mappings_found(config)
    path = path or config.base / DEFAULT_FILE
    try:
        snapshot = read(path)
    except CdcTrackerError as error:
        yield from problems_of(error, "schema")
        return
    yield ok("schema", f"{path}: {described(snapshot)}")
    if mappings is not None:
        tables = {table.table: table for table in snapshot.tables}
        plugin = snapshot.plugin if config.source.plugin == "auto" else config.source.plugin
        found = misfits(config, mappings, tables, plugin=plugin, version=snapshot.server_version)
        yield from found
        if not any(problem.severity == "error" for problem in found):
            yield ok("mappings", "fit the tables as they were saved")


def described(snapshot: Snapshot) -> str:
    """Which database it is of, for people."""
    version = f"PostgreSQL {snapshot.server_version // 10000}.{snapshot.server_version % 10000}"
    return f"database {snapshot.database}, {version}, {plural(len(snapshot.tables), 'table')}"


def misfits(config: Config, mappings: Mappings, tables: Mapping[str, Table], *, plugin: str, version: int) -> list[Problem]:
    """What of the mappings does not fit the tables, or cannot be captured from them. Without repeats."""
    needs = table_needs(config, mappings)
    mapped = {name: tables[name] for name in needs if name in tables}
    known = {name: need for name, need in needs.items() if name in tables}
    found = findings(mappings, mapped, codec)
    found += tablecheck.check_tables(lambda: list(tables), mapped, needs, config.source, plugin)
    found += placement.place(mapped, config.source, known, plugin, version).problems
    found += row_keys(config, mappings, mapped)
    return list(dict.fromkeys(found))
