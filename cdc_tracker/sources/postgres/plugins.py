"""Which output plugin a source is read by: wal2json where it is exact, pgoutput where it is not; and how a slot gets another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem, SourceError
from cdc_tracker.model import Lsn, format_lsn
from cdc_tracker.sources.postgres import catalog, slot
from cdc_tracker.sources.postgres.connection import translated
from cdc_tracker.sources.postgres.slot import SlotState

EXACT = "pgoutput"
"""The plugin that gives every table as it is; every server has it."""
COLUMN_LIST_VERSION = 150000
_ADVANCE = """SELECT pg_replication_slot_advance(slot_name, %(upto)s) FROM pg_replication_slots
    WHERE slot_name = %(name)s AND confirmed_flush_lsn < %(upto)s"""
_COPY = "SELECT pg_copy_logical_replication_slot(%s, %s, false, %s)"
_CHANGE = "stop the worker and run `cdc-tracker setup`: it goes on with pgoutput from where it is, and nothing is missed"
_RECREATE = "`cdc-tracker setup --recreate-slot` makes a slot with pgoutput; what was not read by then is given up"


def choose(connection: psycopg.Connection[Any], settings: SourceSettings, tables: Iterable[str]) -> str:
    """The plugin that `settings.plugin` means on this server for these tables. Raises SourceError where that cannot be had."""
    reason = _unfit(connection, settings, tables)
    if settings.plugin == "wal2json" and reason:
        hint = "set `plugin: auto` or `plugin: pgoutput`"
        raise SourceError(reason, hint=f"{hint}, or take never_capture away" if settings.never_capture else hint)
    version = connection.info.server_version
    if settings.never_capture and version < COLUMN_LIST_VERSION:
        raise SourceError(
            f"never_capture needs PostgreSQL 15 or newer: {version // 10000} cannot leave columns out of a publication",
            hint="move those columns to a table that no mapping names, or take never_capture away",
        )
    if settings.plugin == "pgoutput" or reason:
        return EXACT
    if slot.has_plugin(connection, "wal2json"):
        return "wal2json"
    if settings.plugin == "wal2json":
        raise SourceError(
            "the server has no wal2json",
            hint="install its package on the server (postgresql-NN-wal2json; no restart), or set `plugin: auto` to use pgoutput",
        )
    return EXACT


def choose_next(
    connection: psycopg.Connection[Any], settings: SourceSettings, tables: Iterable[str], found: SlotState | None
) -> str:
    """The plugin to go on with: the slot's, but pgoutput once a table is mapped that wal2json does not give exactly."""
    if found is None or not found.plugin or found.lost:
        return choose(connection, settings, tables)
    return (
        choose(connection, settings, tables) if found.plugin == "wal2json" and _partitioned(connection, tables) else found.plugin
    )


def refusal(
    connection: psycopg.Connection[Any], settings: SourceSettings, tables: Iterable[str], found: SlotState
) -> Problem | None:
    """Why the slot must not be read on: its plugin would lose rows, or give what it must not."""
    reason = _unfit(connection, settings, tables) if found.plugin == "wal2json" else ""
    if not reason:
        return None
    hint = _RECREATE if settings.never_capture or not _partitioned(connection, tables) else _CHANGE
    if settings.plugin == "wal2json":
        hint = f"set `plugin: auto`; then {hint}"
    return Problem("source", "plugin", f"the slot {found.name} was made with wal2json: {reason}", hint)


def _unfit(connection: psycopg.Connection[Any], settings: SourceSettings, tables: Iterable[str]) -> str:
    """Why wal2json does not do; empty where it is exact."""
    if settings.never_capture:
        return "never_capture needs pgoutput: wal2json sends every column of a row"
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        return f"wal2json needs a database in UTF8, and this one is in {encoding}: it writes text as it is stored"
    if partitioned := _partitioned(connection, tables):
        return (
            f"{', '.join(partitioned)} is partitioned: wal2json names the partition that a row is in, and where that was made, "
            "detached or dropped meanwhile, nothing tells whose it was"
        )
    return ""


def _partitioned(connection: psycopg.Connection[Any], tables: Iterable[str]) -> list[str]:
    return sorted(name for name, table in catalog.tables(connection, tables).items() if table.kind == "p")


def spare(name: str) -> str:
    """The slot that stands in while `change` works. Nothing but an interrupted change leaves it."""
    return f"{name[:54]}_{EXACT}"


def interrupted(name: str) -> Problem:
    """What to say where the spare slot is there."""
    text = f"a change of the plugin was interrupted: the slot {spare(name)} holds WAL, and nobody reads from it"
    return Problem("source", "slot", text, "run `cdc-tracker setup`, which finishes it")


@translated()
def change(connection: psycopg.Connection[Any], name: str, upto: Lsn) -> SlotState:
    """Give the slot the plugin EXACT, and move it to `upto`. Nobody reads from it. May be run again where it was interrupted.

    Everything before is durable with us, and what comes after was committed with the publications as they are now: pgoutput goes
    by what they were. The spare slot stays: drop it once the change is on record.
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
        raise SourceError(f"the slot {name} went away as soon as it was made", hint="run `cdc-tracker repair`")
    return found


def drop_spare(connection: psycopg.Connection[Any], name: str) -> None:
    slot.drop(connection, spare(name))
