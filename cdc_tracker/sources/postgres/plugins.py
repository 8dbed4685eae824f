"""Which output plugin to use, wal2json if it is exact, else pgoutput; and how a slot changes its plugin."""

from __future__ import annotations

from collections.abc import Iterable

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem, SourceError
from cdc_tracker.model import Lsn, format_lsn
from cdc_tracker.sources.postgres import catalog, slot
from cdc_tracker.sources.postgres.connection import Connection, translated
from cdc_tracker.sources.postgres.faults import LIST_PLUGIN
from cdc_tracker.sources.postgres.slot import SlotState

EXACT = "pgoutput"
"""The plugin that represents every table exactly; every server has it."""
COLUMN_LIST_VERSION = 150000
_ADVANCE = """SELECT pg_replication_slot_advance(slot_name, %(upto)s) FROM pg_replication_slots
    WHERE slot_name = %(name)s AND confirmed_flush_lsn < %(upto)s"""
_COPY = "SELECT pg_copy_logical_replication_slot(%s, %s, false, %s)"
_CHANGE = "stop the worker and run `cdc-tracker setup`: it continues with pgoutput from the same position, without a gap"
_RECREATE = "`cdc-tracker setup --recreate-slot` makes a slot with pgoutput; changes not read by then are lost"


def choose(connection: Connection, settings: SourceSettings, tables: Iterable[str]) -> str:
    """The plugin that `settings.plugin` means on this server for these tables. Raises SourceError if it cannot be used."""
    reason = _against_wal2json(connection, settings, tables)
    if settings.plugin == "wal2json" and reason:
        hint = "set `plugin: auto` or `plugin: pgoutput`"
        raise SourceError(reason, hint=f"{hint}, or remove never_capture" if settings.never_capture else hint)
    version = connection.info.server_version
    if settings.never_capture and version < COLUMN_LIST_VERSION:
        raise SourceError(
            f"never_capture needs PostgreSQL 15 or newer: {version // 10000} cannot leave columns out of a publication",
            hint="move those columns to a table that no mapping names, or remove never_capture",
        )
    if settings.plugin == "pgoutput" or reason:
        return EXACT
    if slot.has_plugin(connection, "wal2json"):
        return "wal2json"
    if settings.plugin == "wal2json":
        raise SourceError(
            "the server has no wal2json, or does not list it",
            hint=f"set `plugin: auto` to use pgoutput, or install its package (postgresql-NN-wal2json), and {LIST_PLUGIN}",
        )
    return EXACT


def choose_next(connection: Connection, settings: SourceSettings, tables: Iterable[str], found: SlotState | None) -> str:
    """The plugin to continue with: the slot's, or pgoutput if a mapped table needs it."""
    if found is None or not found.plugin or found.lost:
        return choose(connection, settings, tables)
    return (
        choose(connection, settings, tables) if found.plugin == "wal2json" and _partitioned(connection, tables) else found.plugin
    )


def refusal(connection: Connection, settings: SourceSettings, tables: Iterable[str], found: SlotState) -> Problem | None:
    """Why the slot must not be read with its plugin, or cannot; None if it may. It would lose rows or send excluded columns."""
    if found.plugin != "wal2json":
        return None
    reason = _against_wal2json(connection, settings, tables)
    if not reason:
        return _unusable(connection, found)
    hint = _RECREATE if settings.never_capture or not _partitioned(connection, tables) else _CHANGE
    if settings.plugin == "wal2json":
        hint = f"set `plugin: auto`; then {hint}"
    return Problem("source", "plugin", f"the slot {found.name} was made with wal2json: {reason}", hint)


def _unusable(connection: Connection, found: SlotState) -> Problem | None:
    try:
        if slot.has_plugin(connection, found.plugin):
            return None
    except SourceError:
        return None  # no free slot to try it with, or no right to: `check` reports that by itself
    text = f"the server no longer has the plugin {found.plugin}, with which the slot {found.name} was made, or does not list it"
    return Problem("source", "plugin", text, f"install its package (postgresql-NN-wal2json), and {LIST_PLUGIN}")


def _against_wal2json(connection: Connection, settings: SourceSettings, tables: Iterable[str]) -> str:
    """Why wal2json cannot be used; empty if it is exact."""
    if settings.never_capture:
        return "never_capture needs pgoutput: wal2json sends every column of a row"
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        return f"wal2json needs a database in UTF8, but this one is in {encoding}: it writes text as it is stored"
    if partitioned := _partitioned(connection, tables):
        return (
            f"{', '.join(partitioned)} is partitioned: wal2json names only the partition of a row, and of one that was created, "
            "detached or dropped meanwhile the table is unknown"
        )
    return ""


def _partitioned(connection: Connection, tables: Iterable[str]) -> list[str]:
    return sorted(name for name, table in catalog.tables(connection, tables).items() if table.kind == "p")


def spare(name: str) -> str:
    """Name of the temporary copy of the slot that `change` uses. Only an interrupted change leaves it behind."""
    return f"{name[:54]}_{EXACT}"


def interrupted(name: str) -> Problem:
    """The problem to report if the spare slot exists."""
    text = f"a change of the plugin was interrupted: the slot {spare(name)} retains WAL that no one reads"
    return Problem("source", "slot", text, "run `cdc-tracker setup`, which finishes it")


@translated()
def change(connection: Connection, name: str, upto: Lsn) -> SlotState:
    """Recreates the slot with the plugin EXACT at `upto`, and returns it. May be repeated after an interruption.

    No session may read from the slot, and everything before `upto` must be durable in the journal. The publications must have
    existed since `upto` as they are now: pgoutput decodes with those of each change's time. The spare slot stays: call
    `drop_spare` once the change is recorded.
    """
    found = slot.inspect(connection, name)
    if found is not None and found.plugin != EXACT:
        drop_spare(connection, name)
        connection.execute(_COPY, [name, spare(name), EXACT])
        slot.drop(connection, name)
        found = None
    if found is None:
        connection.execute(_COPY, [spare(name), name, EXACT])
    connection.execute(_ADVANCE, {"name": name, "upto": format_lsn(upto)})
    found = slot.inspect(connection, name)
    if found is None:
        raise SourceError(f"the slot {name} disappeared right after it was created", hint="run `cdc-tracker repair`")
    return found


def drop_spare(connection: Connection, name: str) -> None:
    """Drops the spare slot, if it exists."""
    slot.drop(connection, spare(name))
