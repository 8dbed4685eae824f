"""`check`: everything that would stop a run, or lose something later, and how to correct it."""

from __future__ import annotations

import errno
import socket
import stat
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from cdc_tracker.config.config import Config
from cdc_tracker.config.references import unknown_variables
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, ConfigError, MappingError, Problem, Retry, SlotBusy
from cdc_tracker.journal import Journal
from cdc_tracker.mapping import Mappings, lints
from cdc_tracker.monitoring import reports
from cdc_tracker.monitoring.fit import misfits
from cdc_tracker.operations.source import SourceSetup
from cdc_tracker.pipeline import debezium_envelope
from cdc_tracker.sources.postgres import catalog, preflight
from cdc_tracker.sources.postgres.connection import Connection, connect
from cdc_tracker.state import State
from cdc_tracker.tables import Table
from cdc_tracker.units import plural
from cdc_tracker.worker.assemble import captured_tables, load_mappings, open_destination, open_journal, open_state, table_needs

OK = "ok"
"""The severity of a finding that is fine."""

_STATEMENT_TIMEOUT = 20.0  # seconds
_TRIAL = 64 * 1024  # bytes: an empty file can be created on a full disk
_Opened = TypeVar("_Opened", State, Journal)


def check(config: Config) -> Iterator[Problem]:
    """Every finding, in the order in which it is to be read; `severity` is `ok`, `warning` or `error`.

    Looks at the mappings against the tables, the server, the destinations (sends no event), the stores and the port. Changes
    nothing but for a trial file in data_dir. Never raises a CdcTrackerError: what fails is a finding.
    """
    yield ok("configuration", f"{config.path}")
    yield from unknown_variables(Config.variables())
    mappings = yield from mappings_found(config)
    with ExitStack() as stack:
        state = journal = None
        if (yield from _data_dir(config)):
            state = yield from _store(stack, "state", partial(open_state, config, to_read=True))
            journal = yield from _store(stack, "journal", partial(open_journal, config, to_read=True))
        yield from _source(config, mappings, state, journal)
        yield from _destinations(config)
        yield from _port(config, state)


def problems_of(error: CdcTrackerError, where: str) -> list[Problem]:
    """An error as findings: one for each problem of a mapping file, else one at `where`."""
    return error.problems if isinstance(error, MappingError) else [Problem(where, "", str(error), error.hint)]


def ok(where: str, message: str) -> Problem:
    """A finding that is fine."""
    return Problem(where, "", message, severity=OK)


def mappings_found(config: Config) -> Generator[Problem, None, Mappings | None]:
    """Yields what is found in the mapping files; returns the mappings, None if they do not load."""
    try:
        mappings = load_mappings(config)
    except ConfigError as error:
        yield from problems_of(error, "mappings")
        return None
    yield ok("mappings", f"{plural(len(mappings.all), 'mapping')} of {plural(len(mappings.tables()), 'table')}")
    yield from mappings.warnings
    yield from lints.selections(config.destinations, mappings, outbox=config.source.outbox is not None)
    return mappings


# Stores.


def _data_dir(config: Config) -> Generator[Problem, None, bool]:
    """Whether it can be written."""
    try:
        config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=config.data) as file:
            file.write(bytes(_TRIAL))
            file.flush()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Free some space" if full else "Make it writable for the user that cdc-tracker runs as"
        hint += ", or set data_dir to another folder."
        yield Problem("data_dir", "", f"{config.data} cannot be written: {error.strerror}", hint)
        return False
    yield ok("data_dir", f"{config.data} can be written")
    for path in (config.data, *sorted(config.data.glob("*.sqlite*"))):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            text = f"{path} is open to others on this machine (mode {mode:o}): the journal in it holds rows of the database"
            yield Problem("data_dir", "", text, f"chmod {'700' if path.is_dir() else '600'} {path}", "warning")
    return True


def _store(
    stack: ExitStack, where: str, open_store: Callable[[], AbstractContextManager[_Opened]]
) -> Generator[Problem, None, _Opened | None]:
    """The store, closed with the stack; None if it cannot be opened."""
    try:
        opened = stack.enter_context(open_store())
    except CdcTrackerError as error:
        yield from problems_of(error, where)
        return None
    yield ok(where, "can be opened")
    return opened


# The source, and the mappings against its tables.


def _source(config: Config, mappings: Mappings | None, state: State | None, journal: Journal | None) -> Iterator[Problem]:
    needs = table_needs(config, mappings) if mappings else {}
    url = config.source.url.get_secret_value()
    try:
        with closing(connect(url, statement_timeout=_STATEMENT_TIMEOUT)) as connection:
            facts = preflight.gather(connection, config.source, needs)
            yield from (ok("source", line) for line in preflight.describe(facts))
            yield from preflight.check(connection, config.source, needs)
            if mappings is not None:
                yield from _columns(connection, mappings)
                yield from row_keys(config, mappings, catalog.tables(connection, captured_tables(config, mappings)))
            if state is not None and journal is not None:
                source = SourceSetup(config, mappings or Mappings(()), connection, state, journal)
                if facts.slot is not None or source.record() is not None:
                    yield from _agreement(source)
    except CdcTrackerError as error:
        yield from problems_of(error, "source.url" if isinstance(error, Retry) else "source")


def _columns(connection: Connection, mappings: Mappings) -> Iterator[Problem]:
    found = list(misfits(connection, mappings))
    yield from found
    if not found and catalog.relations(connection, mappings.tables()).keys() >= set(mappings.tables()):  # preflight finds others
        yield ok("mappings", "fit the tables as they are now")


def row_keys(config: Config, mappings: Mappings, tables: Mapping[str, Table]) -> Iterator[Problem]:
    """Destinations that key by row, and tables whose stream does not say what the key is."""
    for name, settings in config.destinations.items():
        requirements = settings.requirements
        if not requirements.row_key:
            continue
        names = captured_tables(config, mappings) if requirements.raw else mappings.tables()
        for table in (tables[each] for each in names if each in tables):
            found = debezium_envelope.row_key(table.relation, requirements.key_columns).problem
            if found is not None:
                key = ", ".join(column.name for column in table.columns if column.primary_key)
                hint = f"Set destinations.{name}.key_columns: {{{table.table}: [{key}]}}." if key else found.hint
                hint = found.hint if table.table in requirements.key_columns else hint
                yield replace(found, where=f"destinations.{name}", hint=hint)


def _agreement(source: SourceSetup) -> Iterator[Problem]:
    """Whether slot, state and journal still agree."""
    try:
        source.verify()
    except SlotBusy:
        pass  # a worker runs; preflight has said so
    except CdcTrackerError as error:
        yield Problem("source", "slot", str(error), error.hint)
        return
    yield ok("source", f"slot {source.config.source.slot}, state and journal fit together")
    if missing := sorted(source.config.destinations.keys() - source.state.checkpoints.all(source.name).keys()):
        hint = "It begins at the journal's end when it first runs; `cdc-tracker rewind` sends it what came before."
        yield Problem("destinations", ", ".join(missing), "has no checkpoint yet", hint, "warning")


# Destinations and the port.


def _destinations(config: Config) -> Iterator[Problem]:
    if not config.destinations:
        yield Problem(
            "destinations", "", "there is none: nothing would be delivered", "Add one, such as events: {type: jsonl, path: out/}."
        )
    for name, settings in config.destinations.items():
        try:
            with closing(open_destination(config, name)) as destination:
                destination.probe()
                yield ok(f"destinations.{name}", f"answers; {destination.guarantee}")
                if settings.dry_run:
                    yield Problem(f"destinations.{name}", "dry_run", "nothing is sent to it", severity="warning")
        except AlreadyRunning:
            yield ok(f"destinations.{name}", "is in use by a running worker")
        except CdcTrackerError as error:
            yield Problem(f"destinations.{name}", "", str(error), error.hint)


def _port(config: Config, state: State | None) -> Iterator[Problem]:
    host, port = config.http.host, config.http.port
    if not port:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            roles = state.reports.all(config.source.name) if state else []
            if any(reports(roles, role.role) for role in roles):
                yield ok("http", f"{host}:{port} is in use, by the running worker it seems")
            else:
                text = f"{host}:{port} cannot be used: {error.strerror}"
                yield Problem("http", "port", text, "Set http.port to a free port, or to null.")
        else:
            yield ok("http", f"{host}:{port} is free")
