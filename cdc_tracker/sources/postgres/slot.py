"""The replication slot: created, inspected, dropped, advanced. verify.py decides whether it is still this worker's."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import sql

from cdc_tracker.errors import Problem, SlotBusy, SlotLost, SourceError, SourceUnavailable
from cdc_tracker.model import Lsn, format_lsn, parse_lsn
from cdc_tracker.refusals import Refusal
from cdc_tracker.sources.postgres.connection import Connection, translated
from cdc_tracker.sources.postgres.faults import When, plugin_not_listed

HEARTBEAT = "cdc_tracker.heartbeat"
"""Prefix of the logical message that advances an idle database's slot."""

FAILOVER_VERSION = 170000
PROBE_TIMEOUT = 5.0  # seconds that the server may take to find the next change
PROBE_CHANGES = 1000
CREATE_TIMEOUT = 120.0  # seconds: a new slot waits for all transactions that are running


@dataclass(frozen=True)
class SlotReader:
    """The session that reads from a slot. Without pg_read_all_stats the role sees only its pid."""

    pid: int
    application_name: str = ""
    client: str = ""
    user: str = ""

    def __str__(self) -> str:
        known = [self.application_name, f"user {self.user}" if self.user else "", f"from {self.client}" if self.client else ""]
        details = ", ".join(filter(None, known))
        return f"pid {self.pid} ({details})" if details else f"pid {self.pid}"


@dataclass(frozen=True)
class SlotState:
    """A row of pg_replication_slots. `invalidation_reason` is empty for a valid slot."""

    name: str
    plugin: str  # empty for a physical slot
    database: str
    temporary: bool
    reader: SlotReader | None
    confirmed_flush_lsn: Lsn | None
    wal_status: str
    safe_wal_size: int | None  # bytes of WAL until the slot is invalidated; None: no limit
    retained_bytes: int | None  # WAL that the server keeps for the slot
    invalidation_reason: str
    two_phase: bool
    failover: bool

    @property
    def active_pid(self) -> int | None:
        """The pid of the session that reads from the slot."""
        return self.reader.pid if self.reader else None

    @property
    def lost(self) -> bool:
        """Whether the server has invalidated the slot or removed WAL that it needs."""
        return bool(self.invalidation_reason) or self.wal_status == "lost"


_END = "(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)"
# As JSON: the view's columns depend on the server's version.
_VITALS = f"""
SELECT {_END}::text, to_jsonb(s), ({_END} - s.restart_lsn)::int8, a.application_name,
       coalesce(a.client_addr::text, a.client_hostname), a.usename
  FROM (SELECT) one LEFT JOIN pg_replication_slots s ON s.slot_name = %s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
"""


class Vitals(NamedTuple):
    """The WAL's end and the slot, None if it does not exist. `faults`: why changes of mapped tables do not arrive."""

    wal_end: Lsn
    slot: SlotState | None
    faults: tuple[Problem, ...] = ()


@translated()
def vitals(connection: Connection, name: str) -> Vitals:
    """The WAL's end and the slot as it is now, from one query that is cheap enough for every few seconds."""
    [(end, found, retained, application_name, client, user)] = connection.execute(_VITALS.encode(), [name]).fetchall()
    if found is None:
        return Vitals(parse_lsn(end), None)
    pid, confirmed = found["active_pid"], found["confirmed_flush_lsn"]
    reason = found.get("invalidation_reason") or ("rows_removed" if found.get("conflicting") else "")
    state = SlotState(
        name=name,
        plugin=found["plugin"] or "",
        database=found["database"] or "",
        temporary=found["temporary"],
        reader=SlotReader(pid, application_name or "", client or "", user or "") if pid else None,
        confirmed_flush_lsn=None if confirmed is None else parse_lsn(confirmed),
        wal_status=found["wal_status"] or "",
        safe_wal_size=found["safe_wal_size"],
        retained_bytes=retained,
        invalidation_reason=reason or ("wal_removed" if found["wal_status"] == "lost" else ""),
        two_phase=found["two_phase"],
        failover=found.get("failover", False),
    )
    return Vitals(parse_lsn(end), state)


def inspect(connection: Connection, name: str) -> SlotState | None:
    """The slot as it is now; None if it does not exist."""
    return vitals(connection, name).slot


def create_statement(name: str, plugin: str, *, failover: bool = False) -> str:
    """The statement that `create` runs, for `setup --print-sql`."""
    arguments = sql.SQL(", ").join([sql.Literal(name), sql.Literal(plugin), sql.SQL("false"), sql.SQL("false")])
    if failover:
        arguments += sql.SQL(", failover => true")
    return sql.SQL("SELECT lsn FROM pg_create_logical_replication_slot({})").format(arguments).as_string(None)


def create(connection: Connection, name: str, plugin: str, *, failover: bool = False) -> SlotState:
    """Creates the slot: every transaction that commits from now on can be read from it.

    It waits for the running transactions, up to CREATE_TIMEOUT: then SourceUnavailable names the oldest. Raises SourceError if a
    slot of that name exists, or if the server is too old for `failover`.
    """
    version = connection.info.server_version
    if failover and version < FAILOVER_VERSION:
        raise SourceError(
            f"PostgreSQL {version // 10000} has no failover slots", hint="set `failover: false`, or upgrade the server to 17"
        )
    with translated():
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL statement_timeout = {round(CREATE_TIMEOUT * 1000)}")
                connection.execute(create_statement(name, plugin, failover=failover).encode())
        except psycopg.errors.QueryCanceled as error:
            raise SourceUnavailable(
                f"the slot was not created within {CREATE_TIMEOUT:.0f} s: it waits for transactions that began before it",
                hint=f"end the oldest of them: {_oldest_transaction(connection)}",
            ) from error
    created = inspect(connection, name)
    if created is None:
        raise SourceUnavailable(f"the slot {name} disappeared right after it was created")
    return created


def _oldest_transaction(connection: Connection) -> str:
    row = connection.execute(
        "SELECT pid, usename, application_name, xact_start::text FROM pg_stat_activity"
        " WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 1"
    ).fetchone()
    if row is None:
        return "see pg_stat_activity and pg_prepared_xacts"
    return f"SELECT pg_terminate_backend({row[0]}) ends that of {row[1]} ({row[2] or 'no application_name'}), open since {row[3]}"


@translated()
def drop(connection: Connection, name: str) -> bool:
    """Drops the slot; returns whether it existed. Raises SlotBusy while a session reads from it."""
    cursor = connection.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [name]
    )
    return cursor.rowcount > 0


@translated()
def clock(connection: Connection) -> int:
    """The server's time in microseconds since the Unix epoch, to compare with commit times."""
    [(now,)] = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8").fetchall()
    return int(now)


def probe(connection: Connection, found: SlotState, options: Mapping[str, str]) -> None:
    """Raises the error with which a stream from this slot would end at once. Consumes nothing.

    The server decodes the next changes as it would for START_REPLICATION. Returns if another session reads from the slot, or if
    the server finds no change within PROBE_TIMEOUT.
    """
    arguments = [word for option in options.items() for word in option]
    query = "SELECT count(*) FROM pg_logical_slot_peek_binary_changes(%s, NULL, %s, VARIADIC %s::text[])"
    try:
        with translated(When.STREAMING), connection.transaction():
            connection.execute(f"SET LOCAL statement_timeout = {round(PROBE_TIMEOUT * 1000)}")
            if connection.info.parameter_status("server_encoding") == "SQL_ASCII":  # as for the stream
                connection.execute("SET LOCAL client_encoding TO SQL_ASCII")
            connection.execute(query, [found.name, PROBE_CHANGES, arguments])
    except (SlotBusy, SourceUnavailable):
        return
    except SlotLost:
        if has_plugin(connection, found.plugin):
            raise
        raise Refusal.PLUGIN_MISSING.error(
            f"the server no longer has the plugin {found.plugin}, with which the slot {found.name} was created",
            hint="install its package on the server (postgresql-NN-wal2json; no restart)",
        ) from None


@translated()
def advance(connection: Connection, name: str, commit: Lsn) -> None:
    """Advances the slot past the transaction whose commit record is at `commit`, without decoding it."""
    connection.execute("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", [name, format_lsn(commit + 1)])


def has_plugin(connection: Connection, plugin: str) -> bool:
    """Whether the server can load the output plugin, and lets roles use it.

    No catalog says so. It tries to create a temporary slot: the server loads the plugin first, so that a missing one fails at
    once; a time-out after that means that the plugin exists. Needs the REPLICATION attribute.
    """
    name = f"cdc_tracker_probe_{uuid.uuid4().hex[:16]}"  # no pid: a pooler reports one of its own
    with translated():
        try:
            with connection.transaction():
                connection.execute("SET LOCAL statement_timeout = '300ms'")
                connection.execute("SELECT pg_create_logical_replication_slot(%s, %s, true)", [name, plugin])
        except psycopg.errors.UndefinedFile:
            return False
        except psycopg.errors.InsufficientPrivilege as error:
            if plugin_not_listed(error):
                return False
            raise
        except psycopg.errors.QueryCanceled:
            return True
        connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
    return True


@translated()
def heartbeat(connection: Connection) -> bool:
    """Writes one WAL record without content; returns False on a standby, which cannot write.

    The message is not transactional: it takes no transaction id, causes no commit, and adds nothing to the journal. It moves the
    keepalive's WAL end, which an idle stream confirms, and its frame shows that the stream works. PostgreSQL 17 flushes it at
    once, earlier versions with the next commit or running-transactions record (within 15 seconds).
    """
    flush = ", true" if connection.info.server_version >= FAILOVER_VERSION else ""
    [(done,)] = connection.execute(
        f"SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(false, %s, ''{flush}) END IS NOT NULL".encode(),
        [HEARTBEAT],
    ).fetchall()
    return bool(done)
