"""Checks of the source: everything that would stop a run or lose changes later, each with a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import CdcTrackerError, Problem
from cdc_tracker.sources.postgres import catalog, placement, plugins, publication, slot, tablecheck
from cdc_tracker.sources.postgres.connection import Connection, connect, translated
from cdc_tracker.sources.postgres.drift import drift
from cdc_tracker.sources.postgres.faults import LOST_HINT
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.quoting import quoted
from cdc_tracker.sources.postgres.slot import SlotState
from cdc_tracker.sources.postgres.synchronous import synchronous
from cdc_tracker.tables import Table
from cdc_tracker.units import format_size

OLDEST_VERSION = 140000
_GRANTS = "`cdc-tracker sql role` prints the grants, `cdc-tracker setup --print-sql` the statements for an owner"


@dataclass(frozen=True)
class Facts:
    """What the checks examine, queried once."""

    settings: SourceSettings
    needs: Mapping[str, Need]
    version: int
    server: Mapping[str, Any]
    slot: SlotState | None
    tables: Mapping[str, Table]
    plugin: str  # that will be used; empty if that is unknown
    plugin_problem: Problem | None
    refusal: Problem | None  # why the slot must not be read with its plugin
    spare: bool  # an interrupted change of the plugin left its slot


# Settings that the server does not know are NULL.
_SERVER = """
SELECT current_user AS role, current_database() AS database, pg_is_in_recovery() AS in_recovery,
       current_setting('server_version') AS version_text,
       current_setting('wal_level') AS wal_level,
       current_setting('server_encoding') AS encoding,
       current_setting('max_replication_slots')::int AS max_slots,
       (SELECT count(*) FROM pg_replication_slots) AS slots,
       current_setting('max_wal_senders')::int AS max_senders,
       (SELECT count(*) FROM pg_stat_replication) AS senders,
       (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_mb,
       (SELECT setting::int8 FROM pg_settings WHERE name = 'idle_replication_slot_timeout') AS idle_timeout,
       (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user)
           OR EXISTS (SELECT FROM pg_roles WHERE rolname IN ('rds_replication', 'rds_superuser') AND pg_has_role(oid, 'USAGE'))
           AS replicates,
       has_database_privilege(current_database(), 'CREATE') AS creates,
       EXISTS (SELECT FROM pg_db_role_setting s, unnest(s.setconfig) AS set WHERE set LIKE 'lc\\_monetary=%'
                  AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                  AND s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user))) AS own_money
"""


def check(connection: Connection, settings: SourceSettings, needs: Mapping[str, Need]) -> list[Problem]:
    """Every problem found, errors first. `needs`: `schema.table` → what the mappings use of it.

    Before `setup` a missing slot or publication is a warning; afterwards differences are errors. Raises SourceUnavailable if the
    server becomes unreachable.
    """
    facts = gather(connection, settings, needs)
    problems = [problem for examine in _CHECKS for problem in examine(facts)]
    problems += _replication_connection(connection, settings)
    problems += tablecheck.check_tables(partial(tablecheck.names, connection), facts.tables, needs, settings, facts.plugin)
    problems += _publications(connection, facts)
    return sorted(dict.fromkeys(problems), key=lambda problem: problem.severity != "error")


def gather(connection: Connection, settings: SourceSettings, needs: Mapping[str, Need]) -> Facts:
    """Queries the facts that the checks and `describe` use."""
    with translated(), connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        server = cursor.execute(_SERVER).fetchone() or {}
    found = slot.inspect(connection, settings.slot)
    plugin, problem = found.plugin if found else "", None
    if not found and server["wal_level"] == "logical" and server["replicates"] and not server["in_recovery"]:
        try:
            plugin = plugins.choose(connection, settings, needs)
        except CdcTrackerError as error:
            problem = _problem("plugin", str(error), error.hint)
    tables = catalog.tables(connection, needs)
    refusal = plugins.refusal(connection, settings, needs, found) if found else None
    spare = slot.inspect(connection, plugins.spare(settings.slot)) is not None
    return Facts(settings, needs, connection.info.server_version, server, found, tables, plugin, problem, refusal, spare)


def describe(facts: Facts) -> list[str]:
    """Lines for `check`: which server this is, and which plugin is used and why."""
    server, settings = facts.server, facts.settings
    lines = [f"PostgreSQL {server['version_text']}, database {server['database']}, role {server['role']}"]
    if facts.slot:
        lines.append(f"plugin {facts.slot.plugin}: the slot {facts.slot.name} was made with it")
    elif facts.plugin:
        why = "as configured"
        if settings.never_capture:
            why = "never_capture needs it"
        elif settings.plugin == "auto":
            why = "the server has it" if facts.plugin == "wal2json" else "built in, and suitable for these tables and this server"
        lines.append(f"plugin {facts.plugin}: {why}")
    return lines


def _problem(key: str, message: str, hint: str) -> Problem:
    return Problem("source", key, message, hint)


def _warning(key: str, message: str, hint: str) -> Problem:
    return Problem("source", key, message, hint, "warning")


def _server(facts: Facts) -> Iterator[Problem]:
    server = facts.server
    if facts.version < OLDEST_VERSION:
        yield _problem("url", f"the server is PostgreSQL {server['version_text']}", "PostgreSQL 14 or newer is needed")
    if server["in_recovery"]:
        text = "the server is a standby, on which outbox, publications and heartbeats cannot be written"
        hint = (
            "point source.url at the primary (`target_session_attrs=read-write` picks it from several hosts); with `failover: "
            "true` on 17+ the slot exists on the standby when that is promoted"
        )
        yield _problem("url", text, hint)
    if server["wal_level"] != "logical":
        hint = "ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL (on Amazon RDS: rds.logical_replication = 1)"
        yield _problem("wal_level", f"wal_level is {server['wal_level']}: row changes are not in the WAL", hint)
    if server["encoding"] == "SQL_ASCII":
        text = "the database has the encoding SQL_ASCII: text that is not UTF-8 cannot become events"
        yield _warning("encoding", text, "recreate the database with ENCODING 'UTF8'")


def _role(facts: Facts) -> Iterator[Problem]:
    server, role = facts.server, facts.server["role"]
    if not server["replicates"]:
        hint = f"ALTER ROLE {quoted(role)} REPLICATION (on Amazon RDS: GRANT rds_replication TO …). {_GRANTS}"
        yield _problem("role", f"the role {role} may not read from a replication slot", hint)
    if server["own_money"]:
        text = (
            "it is set for the role or the database: it decides how money columns are read, and cdc-tracker does not override it"
        )
        hint = "leave it unchanged, or values and ids of events change; numeric does not depend on it"
        yield _warning("lc_monetary", text, hint)
    published = facts.tables.values() if facts.plugin != "wal2json" else ()
    unowned = sorted(table.table for table in published if not table.owned)
    if facts.slot is None and (not server["creates"] or unowned):
        missing = "may not create the outbox's schema" if not server["creates"] else f"does not own {', '.join(unowned[:3])}"
        hint = "let an owner run what `cdc-tracker setup --print-sql` prints, then run `cdc-tracker setup --adopt` here"
        yield _warning("role", f"`setup` will fail: the role {role} {missing}", hint)


def _room(facts: Facts) -> Iterator[Problem]:
    server = facts.server
    if facts.slot is None and server["slots"] >= server["max_slots"]:
        hint = "raise max_replication_slots (restart), or drop an unused slot: see pg_replication_slots"
        yield _problem("max_replication_slots", f"all {server['max_slots']} replication slots are in use", hint)
    if server["senders"] >= server["max_senders"] and not (facts.slot and facts.slot.reader):
        hint = "raise max_wal_senders (restart), or end one: see pg_stat_replication"
        yield _problem("max_wal_senders", f"all {server['max_senders']} WAL senders are in use", hint)


def _retention(facts: Facts) -> Iterator[Problem]:
    keep, most = facts.server["keep_mb"], facts.settings.max_wal
    if keep is not None and keep < 0:
        text = "the server keeps WAL for a slot without limit: while cdc-tracker does not run, it can fill the disk"
        hint = "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB' or what the disk can spare; SELECT pg_reload_conf()"
        yield _warning("max_slot_wal_keep_size", text, hint)
    elif keep is not None and keep * 1024**2 < most:
        text = f"max_slot_wal_keep_size is {format_size(keep * 1024**2)}, below max_wal {format_size(most)}: the server "
        text += "invalidates the slot before max_wal takes effect"
        yield _warning("max_wal", text, "raise max_slot_wal_keep_size, or set max_wal to less than it")
    if facts.server["idle_timeout"]:
        text = "the server invalidates a slot that is not read for some time: longer downtimes of cdc-tracker lose changes"
        hint = "ALTER SYSTEM SET idle_replication_slot_timeout = 0, or longer than any downtime; SELECT pg_reload_conf()"
        yield _warning("idle_replication_slot_timeout", text, hint)


def _slot(facts: Facts) -> Iterator[Problem]:
    found, settings = facts.slot, facts.settings
    if facts.plugin_problem:
        yield facts.plugin_problem
    if settings.failover and facts.version < slot.FAILOVER_VERSION:
        yield _problem("failover", "failover slots need PostgreSQL 17", "set `failover: false`, or upgrade the server")
    if facts.spare:
        yield plugins.interrupted(settings.slot)
    if found is None:
        yield _warning("slot", f"there is no slot {settings.slot} yet", "run `cdc-tracker setup`")
        return
    if found.lost:
        yield _problem("slot", f"the slot {found.name} is lost: {found.invalidation_reason}", LOST_HINT)
    if found.database != facts.server["database"]:
        place = f"of the database {found.database}" if found.plugin else "a physical one"
        yield _problem("slot", f"the slot {found.name} is {place}", "give `source.slot` a name of its own")
    elif settings.plugin not in {found.plugin, "auto"}:
        text = f"the slot {found.name} was made with {found.plugin}, but the configuration says {settings.plugin}"
        hint = f"set `plugin: {found.plugin}`, or `cdc-tracker setup --recreate-slot`, which starts at the server's present end"
        yield _problem("plugin", text, hint)
    if facts.refusal:
        yield facts.refusal
    if settings.failover and not found.failover:
        hint = "`cdc-tracker setup --recreate-slot`, or ALTER_REPLICATION_SLOT on a replication connection"
        yield _warning("failover", f"the slot {found.name} was made without failover", hint)
    if found.reader:
        hint = "expected while a worker runs; a second one waits with `cdc-tracker run --standby`"
        yield _warning("slot", f"the slot {found.name} is being read by {found.reader}", hint)


_CHECKS: tuple[Callable[[Facts], Iterator[Problem]], ...] = (_server, _role, _room, _retention, _slot)


def _replication_connection(connection: Connection, settings: SourceSettings) -> list[Problem]:
    try:
        with closing(connect(settings.url.get_secret_value(), replication=True)) as opened:
            name = opened.info.parameter_status("application_name") or ""
    except CdcTrackerError as error:
        return [_problem("url", f"no replication connection: {error}", error.hint)]
    problem = synchronous(connection, name)
    return [problem] if problem else []


def _publications(connection: Connection, facts: Facts) -> list[Problem]:
    """What cannot be published; and, once set up, what differs."""
    needs = {table: need for table, need in facts.needs.items() if table in facts.tables}
    wanted = placement.desired(connection, facts.settings, needs, facts.plugin)
    if facts.slot is None or facts.slot.database != facts.server["database"]:
        return list(wanted.problems)
    return drift(wanted, publication.existing(connection, publication.names(facts.settings)))
