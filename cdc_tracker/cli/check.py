"""`check`: everything that would stop a run, or lose something later, and how to mend each."""

from __future__ import annotations

import errno
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker.cli import FOUND_PROBLEMS, Invocation, output
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, ConfigError, MappingError, Problem, Retry, SlotBusy

if TYPE_CHECKING:
    from cdc_tracker.config.config import Config
    from cdc_tracker.mapping import Mappings
    from cdc_tracker.state import SourceRecord

OK = "ok"


@click.command()
@output.as_json
@click.pass_obj
def check(invocation: Invocation, as_json: bool) -> None:
    """Say everything that would stop a run, and how to mend each.

    Looks at the configuration, the mappings against the tables, the server, the destinations (without sending an event) and the
    stores. Exit code 1 where there is an error; a warning does not count.
    """
    findings = list(_findings(invocation))
    failed = any(finding.severity == "error" for finding in findings)
    if as_json:
        output.emit({"ok": not failed, "findings": [output.problem(finding) for finding in findings]})
    else:
        _print(findings)
    if failed:
        raise SystemExit(FOUND_PROBLEMS)


def _print(findings: list[Problem]) -> None:
    rows = []
    for finding in findings:
        what = output.text(finding.message)
        if finding.hint:
            what.append(output.text(f"\n{finding.hint}", "dim"))
        rows.append((output.mark(finding.severity), ": ".join(part for part in (finding.where, finding.key) if part), what))
    output.console().print(output.table(("", "what", "finding"), rows))
    errors, warnings = (sum(finding.severity == severity for finding in findings) for severity in ("error", "warning"))
    if not errors:
        output.say(
            f"Nothing would stop a run. {output.plural(warnings, 'warning')}." if warnings else "Nothing would stop a run."
        )
    else:
        output.say(f"{output.plural(errors, 'error')}, {output.plural(warnings, 'warning')}.")


def _findings(invocation: Invocation) -> Iterator[Problem]:
    from cdc_tracker.cli.stores import load_config  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    try:
        config = load_config(invocation)
    except ConfigError as error:
        yield from _as_problems(error, "configuration")
        return
    yield _fine("configuration", f"{config.path}")
    mappings: Mappings | None = None
    try:
        mappings = assemble.load_mappings(config)
    except ConfigError as error:
        yield from _as_problems(error, "mappings")
    else:
        yield _fine(
            "mappings", f"{output.plural(len(mappings.all), 'mapping')} of {output.plural(len(mappings.tables()), 'table')}"
        )
        yield from mappings.warnings
    record, stores = _stores(config)
    yield from stores
    yield from _source(config, mappings, record)
    yield from _destinations(config)
    yield from _port(config)


def _fine(where: str, message: str) -> Problem:
    return Problem(where, "", message, severity=OK)


def _as_problems(error: CdcTrackerError, where: str) -> Iterator[Problem]:
    if isinstance(error, MappingError):
        yield from error.problems
    else:
        yield Problem(where, "", str(error), error.hint)


# Stores: where we keep things ourselves.


def _stores(config: Config) -> tuple[SourceRecord | None, list[Problem]]:
    from cdc_tracker.cli.stores import opened_journal, opened_state  # noqa: PLC0415

    record = None
    findings = [_writable(config)]
    if findings[0].severity != OK:
        return None, findings
    findings += _private(config)
    try:
        with opened_state(config, to_read=True) as state:
            record = state.sources.get(config.source.name)
        findings.append(_fine("state", "can be opened"))
    except CdcTrackerError as error:
        findings += _as_problems(error, "state")
    try:
        with opened_journal(config, to_read=True) as journal:
            journal.end()
        findings.append(_fine("journal", "can be opened"))
    except CdcTrackerError as error:
        findings += _as_problems(error, "journal")
    return record, findings


_TRIAL = 64 * 1024  # bytes: a file without any can be made on a full disk


def _writable(config: Config) -> Problem:
    try:
        config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=config.data) as file:
            file.write(bytes(_TRIAL))
            file.flush()
            return _fine("data_dir", f"{config.data} can be written")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Free some space" if full else "Make it writable for the user that cdc-tracker runs as"
        hint += ", or set data_dir to another folder."
        return Problem("data_dir", "", f"{config.data} cannot be written: {error.strerror}", hint)


def _private(config: Config) -> Iterator[Problem]:
    """The journal holds whole rows of the database."""
    for path in (config.data, *sorted(config.data.glob("*.sqlite*"))):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            text = f"{path} is open to others on this machine (mode {mode:o}): the journal in it holds rows of the database"
            yield Problem("data_dir", "", text, f"chmod {'700' if path.is_dir() else '600'} {path}", "warning")


# The source, and the mappings against its tables.


def _source(config: Config, mappings: Mappings | None, record: SourceRecord | None) -> Iterator[Problem]:
    from cdc_tracker.sources.postgres import preflight  # noqa: PLC0415
    from cdc_tracker.sources.postgres.connection import connect  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    needs = assemble.table_needs(config, mappings) if mappings else {}
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(closing(connect(config.source.url.get_secret_value(), statement_timeout=20.0)))
            facts = preflight.gather(connection, config.source, needs)
            yield from (_fine("source", line) for line in preflight.describe(facts))
            yield from preflight.check(connection, config.source, needs)
            if mappings is not None:
                yield from _columns(connection, mappings)
                yield from _row_keys(config, connection, mappings)
            if facts.slot is not None or record is not None:
                yield from _standing(config, connection)
        except CdcTrackerError as error:
            yield from _as_problems(error, "source.url" if isinstance(error, Retry) else "source")


def _columns(connection: Any, mappings: Mappings) -> Iterator[Problem]:
    from cdc_tracker.monitoring.fit import misfits  # noqa: PLC0415
    from cdc_tracker.sources.postgres import catalog  # noqa: PLC0415

    found = list(misfits(connection, mappings))
    yield from found
    if not found and catalog.relations(connection, mappings.tables()).keys() >= set(mappings.tables()):  # else preflight tells
        yield _fine("mappings", "fit the tables as they are now")


def _row_keys(config: Config, connection: Any, mappings: Mappings) -> Iterator[Problem]:
    """Destinations that key by row, and tables whose stream does not tell what the key is."""
    from cdc_tracker.pipeline import debezium_envelope  # noqa: PLC0415
    from cdc_tracker.sources.postgres import catalog  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    for name, settings in config.destinations.items():
        wants = settings.requirements
        if not wants.row_key:
            continue
        names = assemble.captured_tables(config, mappings) if wants.raw else mappings.tables()
        for table in catalog.tables(connection, names).values():
            found = debezium_envelope.row_key(table.relation, wants.key_columns).problem
            if found is not None:
                key = ", ".join(column.name for column in table.columns if column.primary_key)
                hint = f"Set destinations.{name}.key_columns: {{{table.table}: [{key}]}}." if key else found.hint
                hint = found.hint if table.table in wants.key_columns else hint
                yield replace(found, where=f"destinations.{name}", hint=hint)


def _standing(config: Config, connection: Any) -> Iterator[Problem]:
    """Whether slot, state and journal still fit together."""
    from cdc_tracker.cli.standing import Standing  # noqa: PLC0415
    from cdc_tracker.cli.stores import opened_journal, opened_state  # noqa: PLC0415

    with opened_state(config, to_read=True) as state, opened_journal(config, to_read=True) as journal:
        try:
            Standing(config, connection, state, journal).verify()
        except SlotBusy:
            pass  # a worker runs; preflight has said so
        except CdcTrackerError as error:
            yield Problem("source", "slot", str(error), error.hint)
            return
        missing = sorted(config.destinations.keys() - state.checkpoints.all(config.source.name).keys())
    yield _fine("source", f"slot {config.source.slot}, state and journal fit together")
    if missing:
        hint = "It begins at the journal's end when it first runs; `cdc-tracker rewind` sends it what came before."
        yield Problem("destinations", ", ".join(missing), "has no checkpoint yet", hint, "warning")


# Destinations and the port.


def _destinations(config: Config) -> Iterator[Problem]:
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    if not config.destinations:
        yield Problem(
            "destinations", "", "there is none: nothing would be delivered", "Add one, such as events: {type: jsonl, path: out/}."
        )
    for name in config.destinations:
        try:
            with closing(assemble.open_destination(config, name)) as destination:
                destination.probe()
                yield _fine(f"destinations.{name}", f"answers; {destination.guarantee}")
                if config.destinations[name].dry_run:
                    yield Problem(f"destinations.{name}", "dry_run", "it will be sent nothing", severity="warning")
        except AlreadyRunning:
            yield _fine(f"destinations.{name}", "is held by a running worker")
        except CdcTrackerError as error:
            yield Problem(f"destinations.{name}", "", str(error), error.hint)


def _port(config: Config) -> Iterator[Problem]:
    host, port = config.http.host, config.http.port
    if port is None or not port:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            yield _port_taken(config, error)
        else:
            yield _fine("http", f"{host}:{port} is free")


def _port_taken(config: Config, error: OSError) -> Problem:
    from cdc_tracker.cli.stores import opened_state  # noqa: PLC0415

    place = f"{config.http.host}:{config.http.port}"
    try:
        with opened_state(config, to_read=True) as state:
            if any(
                output.is_alive(state.reports.all(config.source.name), role.role)
                for role in state.reports.all(config.source.name)
            ):
                return _fine("http", f"{place} is in use, by the running worker it seems")
    except CdcTrackerError:
        pass  # told already
    return Problem("http", "port", f"{place} cannot be used: {error.strerror}", "Set http.port to a free port, or to null.")
