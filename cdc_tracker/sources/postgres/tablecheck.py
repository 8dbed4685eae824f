"""Checks of captured tables that need the catalog and the plugin.

`mapping.findings` finds unknown columns and `old.x` that is not logged.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import psycopg

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem
from cdc_tracker.model import split_name, table_name
from cdc_tracker.sources.postgres.connection import translated
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.quoting import quoted
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.tables import Table


def check_tables(
    present: Callable[[], Collection[str]],
    tables: Mapping[str, Table],
    needs: Mapping[str, Need],
    settings: SourceSettings,
    plugin: str,
) -> list[Problem]:
    """Problems of the tables that mappings use. `present`: every table's name, for one that is not among `tables`.

    `plugin` is empty if it is unknown.
    """
    problems: list[Problem] = []
    outbox = settings.outbox.table if settings.outbox else None  # setup creates it
    absent = [name for name in needs if name not in tables and name != outbox]
    if absent:
        others = list(present())
        problems += [_absent(name, needs[name].where, others) for name in absent]
    for name, table in tables.items():
        need = needs[name]
        problems += _unknown(table, settings.never_capture.get(name, ()))
        problems += _values(table, need, plugin)
        if need.backfill and not table.can_select:
            grant = f"GRANT USAGE ON SCHEMA {quoted(table.schema)} TO …; GRANT SELECT ON {quoted(table.schema, table.name)} TO …"
            text = "a mapping has `backfill`, but the role may not read the table"
            problems.append(Problem(need.where, name, text, grant, "warning"))
    return problems


@translated()
def names(connection: psycopg.Connection[Any]) -> list[str]:
    """`schema.table` of every table that a mapping could name."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    ).fetchall()
    return [table_name(*row) for row in rows]


def _nearest(name: str, known: Collection[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else ""


def _absent(name: str, where: str, present: list[str]) -> Problem:
    same = [other for other in present if split_name(other)[1] == split_name(name)[1]]
    hint = f"did you mean {same[0]}?" if same else _nearest(name, present) or "correct the mapping's `table`, or create the table"
    return Problem(where, name, "does not exist", hint)


def _unknown(table: Table, never_capture: Collection[str]) -> Iterator[Problem]:
    known = {column.name for column in table.columns}
    for column in sorted(set(never_capture) - known):
        hint = _nearest(column, known) or f"the table has {', '.join(sorted(known))}"
        yield Problem("source", "never_capture", f"{table.table} has no column {column}", hint)


def _values(table: Table, need: Need, plugin: str) -> Iterator[Problem]:
    if plugin != "wal2json":
        return
    read = [column for column in table.columns if column.name in need.columns | need.old_columns and not column.not_null]
    named = [column.name for column in read if codec(column.type_oid).kind in {"float", "decimal"}]
    if named:
        text = f"wal2json writes NaN and infinity of {', '.join(named)} as NULL, which cannot be told from NULL"
        hint = "if it can contain them, use `plugin: pgoutput`, or make the column NOT NULL: then such an event is parked"
        yield Problem(need.where, table.table, text, hint, "warning")
