"""What the source database publishes: outbox, publications, the slot's plugin; what they should be, and how they become so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace

from cdc_tracker.capture.loop import Capture
from cdc_tracker.config.config import Config
from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem, SlotMissing, SourceError
from cdc_tracker.mapping import Mappings
from cdc_tracker.mapping.compiler import replica_identity
from cdc_tracker.model import START, Lsn, format_lsn, table_name
from cdc_tracker.operations.source import SourceSetup, connect_source
from cdc_tracker.printable import one_line
from cdc_tracker.sources.postgres import catalog, placement, plugins, publication, scripts, slot
from cdc_tracker.sources.postgres.connection import Connection, translated
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.publication import Desired
from cdc_tracker.sources.postgres.snapshot import write_watermark
from cdc_tracker.worker.assemble import load_mappings, table_needs

_POLL = 0.2  # seconds between two looks at how far the journal is


def create_outbox(source: SourceSetup) -> None:
    """Creates or updates the outbox and its functions, if one is configured. Leaves those of another role as they are."""
    outbox = source.config.source.outbox
    if outbox is None:
        return
    if _may_create(source.connection, outbox.table):
        publication.apply(source.connection, scripts.outbox(outbox))
        source.done("outbox", f"{outbox.table}, and the functions cdc_tracker.track() and others")
    else:
        source.done("outbox", f"{outbox.table} exists and belongs to another role: left unchanged")


def _may_create(connection: Connection, table: str) -> bool:
    """False if a DBA has created everything already and this role may not replace it."""
    with translated():
        [(functions, owned)] = connection.execute(
            "SELECT to_regproc('cdc_tracker.emit') IS NOT NULL, "
            "coalesce((SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'cdc_tracker'), true)"
        ).fetchall()
    return owned or not functions or table not in catalog.tables(connection, [table])


def desired(connection: Connection, settings: SourceSettings, needs: Mapping[str, Need], *, new_slot: bool = False) -> Desired:
    """What should be published, for the plugin of the slot that exists, or of the one to be created."""
    found = None if new_slot else slot.inspect(connection, settings.slot)
    plugin = plugins.choose_next(connection, settings, needs, found)
    return placement.desired(connection, settings, needs, plugin)


def publish(source: SourceSetup, *, new_slot: bool = False) -> None:
    """Creates or corrects the publications. The outbox exists, since it is published, too.

    Raises SourceError for mapped tables that cannot be captured. Publications that exist are corrected all the same: as they are,
    they may make the application's statements fail.
    """
    connection, settings = source.connection, source.config.source
    wanted = desired(connection, settings, source.needs, new_slot=new_slot)
    errors = [problem for problem in wanted.problems if problem.severity == "error"]
    if not errors or publication.existing(connection, publication.names(settings)):
        publication.apply(connection, publication.statements(connection, settings, wanted))
    if errors:
        raise not_captured(errors)
    for warning in wanted.problems:
        source.done("warning", str(warning))
    for each in wanted.publications:
        tables = ", ".join(table_name(*name) for name in sorted(each.tables)) or "no table"
        source.done("publication", f"{each.name}: {tables}")
    if not wanted.publications:
        source.done("publication", "none: wal2json needs none")


def not_captured(problems: list[Problem]) -> SourceError:
    """The error that lists mapped tables that cannot be captured."""
    listed = "\n".join(f"  {problem}" for problem in problems)
    return SourceError(
        f"not every mapped table can be captured:\n{listed}",
        hint="correct the tables or the mappings, then run the command again; `cdc-tracker check` lists every problem",
    )


def setup_script(config: Config) -> str:
    """What `setup` would run now, as SQL with comments. Connects, and changes nothing. Raises MappingError."""
    mappings = load_mappings(config)
    with closing(connect_source(config)) as connection:
        return "\n".join(_script(connection, config.source, table_needs(config, mappings), _old_values(connection, mappings)))


def _old_values(connection: Connection, mappings: Mappings) -> list[str]:
    """The statements that have old values logged which mappings read, under the names of the mappings."""
    lines = []
    for table in catalog.tables(connection, mappings.tables()).values():
        uses = replica_identity.unlogged(mappings.for_table(table.table), table.relation)
        if uses:
            read = [f"{use.mapping.key} reads old.{use.column} ({use.placed.where})" for use in uses]
            lines += [f"-- {one_line(each)}" for each in dict.fromkeys(read)]
            lines += replica_identity.logging_statements(table)
    return lines and ["", "-- old values that mappings read, which `cdc-tracker setup` leaves to you", *lines]


def _script(connection: Connection, settings: SourceSettings, needs: Mapping[str, Need], old_values: list[str]) -> list[str]:
    wanted = desired(connection, settings, needs)
    lines = [f"-- Run in the database {connection.info.dbname}, as the owner of the tables or a superuser."]
    lines += [f"-- NOT CAPTURED: {str(problem).replace(chr(10), chr(10) + '-- ')}" for problem in wanted.problems]
    lines += old_values
    if settings.outbox:
        lines += ["", "-- 1. the outbox", *scripts.outbox(settings.outbox)]
    none = "" if wanted.publications else ": none, wal2json needs none"
    lines += ["", f"-- 2. the publications{none}"]
    lines += [f"{each};" for each in publication.statements(connection, settings, wanted)]
    lines += ["", "-- 3. the slot, last"]
    if slot.inspect(connection, settings.slot):
        return [*lines, f"-- {settings.slot} exists already"]
    plugin = plugins.choose(connection, settings, needs)
    lines += [f"{slot.create_statement(settings.slot, plugin, failover=settings.failover)};", ""]
    return [*lines, "-- Then, as cdc-tracker's own role: cdc-tracker setup --adopt"]


# Another output plugin, without missing a change: for tables that wal2json does not give exactly.


def plugin_change_due(source: SourceSetup) -> bool:
    """Whether the slot needs another plugin, or a change of it was interrupted. False before `setup`."""
    record, settings = source.record(), source.config.source
    if record is None:
        return False
    if slot.inspect(source.connection, plugins.spare(record.slot)) is not None:
        return True
    found = slot.inspect(source.connection, record.slot)
    return found is not None and plugins.choose_next(source.connection, settings, source.needs, found) != found.plugin


def change_plugin(source: SourceSetup) -> None:
    """Reads with the old plugin up to a mark that follows the publications' last change, then changes the slot's plugin.

    The caller holds `source.exclusive()` and has made the publications. May be called again after an interruption. Raises the
    Stop that `run` would end with.
    """
    record = source.record()
    if record is None:
        raise SlotMissing("this source is not set up", hint="run `cdc-tracker setup`")
    found = slot.inspect(source.connection, record.slot)
    if found is not None and found.plugin != plugins.EXACT:
        mark = write_watermark(source.connection, 0, "low")
        source.done("slot", f"{record.slot}: reading on with {record.plugin} up to {format_lsn(mark)}")
        _capture(source, mark)
    end = source.journal.end() or START
    changed = plugins.change(source.connection, record.slot, end.commit_lsn)
    record = source.record() or record  # capture has confirmed more
    confirmed = max(record.confirmed_lsn, changed.confirmed_flush_lsn or 0)
    source.state.sources.save(replace(record, plugin=changed.plugin, confirmed_lsn=confirmed, journaled_lsn=end.commit_lsn))
    plugins.drop_spare(source.connection, record.slot)
    source.done("slot", f"{record.slot}: continues with {changed.plugin} from there, and nothing is missed")


def _capture(source: SourceSetup, upto: Lsn) -> None:
    Capture(
        settings=source.config.source,
        needs=source.needs,
        journal=source.journal,
        state=source.state,
        destinations=list(source.config.destinations),
        retention=source.config.journal.retention,
        stop=_journaled(source, upto),
        verify=lambda: None,
        to_its_end=True,
    ).run()


def _journaled(source: SourceSetup, upto: Lsn) -> Callable[[], bool]:
    """Whether the mark is in the journal. Capture asks for each frame, so the journal is looked at every _POLL seconds only."""
    next_look, found = 0.0, False

    def journaled() -> bool:
        nonlocal next_look, found
        if not found and time.monotonic() >= next_look:
            next_look, end = time.monotonic() + _POLL, source.journal.end()
            found = end is not None and end.commit_lsn > upto
        return found

    return journaled
