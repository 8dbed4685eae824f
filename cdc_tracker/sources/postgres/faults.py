"""What an error of PostgreSQL or libpq means: retry, or stop for the user. One table, FAULTS, and the functions that read it.

The verdict depends on the SQLSTATE and on what was being done. Texts are matched only while connecting, where libpq gives no
SQLSTATE; if the server translates them (lc_messages), the error counts as one to retry.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

import psycopg

from cdc_tracker.errors import CdcTrackerError, SourceUnavailable
from cdc_tracker.refusals import Refusal


class When(enum.Enum):
    """The action during which an error occurred."""

    CONNECTING = "a connection was being made"
    ASKING = "a query or command ran"
    STARTING = "START_REPLICATION"
    STREAMING = "the stream ran"


class Fault(NamedTuple):
    """One row of FAULTS.

    `condition`: a regular expression for libpq's text while CONNECTING, else a prefix of the SQLSTATE. `verdict`: the Refusal
    that stops `run`, or PASSES: it retries forever, with backoff.
    """

    when: frozenset[When]
    condition: str
    verdict: Refusal | None
    hint: str

    def matches(self, when: When, code: str, reason: str) -> bool:
        """Whether the row is for an error with this SQLSTATE, or this text while CONNECTING."""
        if when not in self.when:
            return False
        return bool(re.search(self.condition, reason)) if when is When.CONNECTING else code.startswith(self.condition)


PASSES = None
_CONNECTING = frozenset({When.CONNECTING})
_ASKING = frozenset({When.ASKING})
_STARTING = frozenset({When.STARTING})
_STREAMING = frozenset({When.STREAMING})
_COMMANDS = _ASKING | _STARTING
_CONNECTED = _COMMANDS | _STREAMING

_HBA = (
    "add a line for this role, database and address to pg_hba.conf, such as `hostssl shop cdc_tracker 10.0.0.0/8 scram-sha-256`, "
    "then `SELECT pg_reload_conf()`"
)
_CREDENTIALS = "check user and password in source.url, or supply the password by PGPASSWORD or ~/.pgpass"
_GRANTS = "`cdc-tracker sql role` prints the grants for the role, `cdc-tracker setup --print-sql` the statements for an owner"
_LOGIN = f"create it with `cdc-tracker sql role`, or correct the user in source.url. {_GRANTS}"
_POOLER = "this is a pooler such as PgBouncer: source.url must reach PostgreSQL directly"
_TLS = "check sslmode, sslrootcert and the host name in source.url, and `ssl` on the server"
_DATABASE = "correct the database's name in source.url"
_URL = "correct source.url, or libpq's environment (PGOPTIONS, PGSERVICE)"
_AGAIN = "retried until the server answers"
_NOT_YET = f"the server restarts, or is not the primary yet: {_AGAIN}"
_ROOM = "the server is out of connections, memory or disk: free some on it. Retried until it answers"
_SLOTS = "raise max_replication_slots (restart), or drop an unused slot: see pg_replication_slots"
_BUSY = "stop the other reader, or start this one with `cdc-tracker run --standby` to wait for it"
_PRIMARY = (
    "the server is a standby, or read-only: with several hosts in source.url, `target_session_attrs=read-write` picks the primary"
)
_PRESENT = "is the server up, and reachable from here? Retried until it answers"
LOST_HINT = (
    "the changes between what was read and a new slot are gone from the server. `cdc-tracker repair` makes a new slot, and says "
    "which period is missing and which tables can fill it; then raise max_slot_wal_keep_size, so that it does not happen again"
)
_PUBLICATION = (
    "it was dropped, or recreated after these changes: this server can no longer decode them. `cdc-tracker repair` creates it, "
    "continues from the server's present end, and says which period is missing and which tables can fill it"
)
_UNDECODABLE = (
    "until it is skipped, the server keeps all WAL since. `cdc-tracker repair` skips that one transaction, and says what is "
    "missing and which tables can fill it"
)
_GONE = "restart cdc-tracker: it says what happened to the slot and how to repair it"
_OPTION = "the plugin lacks a required option: install a newer version on the server, or set `plugin: pgoutput`"
_WAL_LEVEL = "is wal_level logical? ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL. `cdc-tracker check` says more"
_PLUGIN = "install the plugin's package on the server (postgresql-NN-wal2json), or set `plugin: pgoutput`"
_DAMAGED_INDEX = "the server reports a damaged index: REINDEX it; contact its administrator"

# libpq's texts, as regular expressions.
_BAD_TLS = (
    r"certificate|private key|sslmode|sslrootcert|does not support SSL|SSL is not supported|channel binding|"
    r"alert (unknown ca|handshake failure|protocol version|access denied|no application protocol)|"
    r"unsupported protocol|no protocols available|GSSAPI encryption required"
)
_BAD_URL = (
    r"invalid connection option|invalid [a-z_]+ value|invalid integer value|invalid port|service file|definition of service|"
    r"unrecognized configuration parameter|invalid value for parameter"
)
_NO_WALSENDER = r"replication role to start walsender|permission denied to start WAL sender"
_STARTS = r"starting up|shutting down|in recovery|not (yet )?accepting|in hot standby|session is"

LIST_PLUGIN = (
    "where the server has the setting, which minor releases since August 2026 do, ALTER SYSTEM SET output_plugin_libraries = "
    "pgoutput, test_decoding, wal2json; SELECT pg_reload_conf(). Reading then continues from the same position"  # not quoted
)

FAULTS: tuple[Fault, ...] = (
    # Connecting: libpq's texts that need the user; everything else is retried.
    Fault(_CONNECTING, r"no pg_hba\.conf entry|pg_hba\.conf rejects", Refusal.NOT_LET_IN, _HBA),
    Fault(_CONNECTING, r"authentication failed|no password supplied|password file|pgpass", Refusal.NOT_LET_IN, _CREDENTIALS),
    Fault(_CONNECTING, r'database "" does not exist|no such database', Refusal.NOT_LET_IN, _DATABASE),
    Fault(_CONNECTING, r'role "" does not exist|is not permitted to log in', Refusal.NOT_LET_IN, _LOGIN),
    Fault(_CONNECTING, _NO_WALSENDER, Refusal.NOT_LET_IN, f"ALTER ROLE … REPLICATION. {_GRANTS}"),
    Fault(_CONNECTING, r"permission denied for database", Refusal.NOT_LET_IN, f"GRANT CONNECT ON DATABASE … TO …. {_GRANTS}"),
    Fault(_CONNECTING, r"unsupported startup parameter", Refusal.NOT_LET_IN, _POOLER),
    Fault(_CONNECTING, _BAD_TLS, Refusal.NOT_LET_IN, _TLS),
    Fault(_CONNECTING, _BAD_URL, Refusal.NOT_LET_IN, _URL),
    Fault(_CONNECTING, r"could not translate host name", PASSES, f"the host name does not resolve here: {_AGAIN}"),
    Fault(_CONNECTING, r"too many (clients|connections)|connection slots|exceeds max_wal_senders", PASSES, _ROOM),
    Fault(_CONNECTING, _STARTS, PASSES, _NOT_YET),
    Fault(_CONNECTING, "", PASSES, _PRESENT),
    # Connected, whatever was being done.
    Fault(_CONNECTED, "08", PASSES, _AGAIN),  # connection exceptions
    Fault(_CONNECTED, "25006", PASSES, _PRIMARY),
    Fault(_CONNECTED, "25", PASSES, _AGAIN),  # transaction state, and time-outs of transactions
    Fault(_CONNECTED, "40", PASSES, _AGAIN),  # rolled back: deadlock, serialization
    Fault(_CONNECTED, "53400", Refusal.SERVER_CANNOT, _SLOTS),
    Fault(_CONNECTED, "53", PASSES, _ROOM),
    Fault(_CONNECTED, "55006", Refusal.SLOT_BUSY, _BUSY),
    Fault(_CONNECTED, "55P03", PASSES, "a lock has been held for long: see pg_locks. Retried"),
    Fault(_CONNECTED, "57014", PASSES, "the server did not answer in time: is it overloaded, or is a lock held?"),
    Fault(_CONNECTED, "57", PASSES, _AGAIN),  # shut down, crashed, starting, idle for too long, database dropped
    Fault(_CONNECTED, "58030", PASSES, "the server cannot read or write its disk: see its log. Retried"),
    Fault(_CONNECTED, "28000", Refusal.NOT_LET_IN, _HBA),
    Fault(_CONNECTED, "28", Refusal.NOT_LET_IN, _CREDENTIALS),
    Fault(_CONNECTED, "3D000", Refusal.NOT_LET_IN, _DATABASE),
    Fault(_CONNECTED, "42501", Refusal.NOT_LET_IN, _GRANTS),
    # The stream: the next change causes the error, and would cause it again.
    Fault(_STREAMING, "42704", Refusal.PUBLICATION_LOST, _PUBLICATION),
    Fault(_STREAMING, "55000", Refusal.SLOT_LOST, LOST_HINT),
    Fault(_STREAMING, "58P01", Refusal.SLOT_LOST, LOST_HINT),
    Fault(_STREAMING, "", Refusal.UNDECODABLE, _UNDECODABLE),
    # START_REPLICATION: the slot existed and was valid a moment ago.
    Fault(_STARTING, "42704", Refusal.SLOT_MISSING, _GONE),
    Fault(_STARTING, "55000", Refusal.SLOT_LOST, LOST_HINT),
    Fault(_STARTING, "0A000", Refusal.NOT_LET_IN, _PRIMARY),
    Fault(_STARTING, "22023", Refusal.PLUGIN_MISSING, _OPTION),
    # Queries and commands, among them creating a slot.
    Fault(_ASKING, "42704", Refusal.SERVER_CANNOT, "run `cdc-tracker setup`: it creates what is missing"),
    Fault(_ASKING, "55000", Refusal.SERVER_CANNOT, _WAL_LEVEL),
    Fault(_COMMANDS, "58P01", Refusal.PLUGIN_MISSING, _PLUGIN),
    Fault(_COMMANDS, "XX001", Refusal.SERVER_CANNOT, "the server reports damaged data: contact its administrator"),
    Fault(_COMMANDS, "XX002", Refusal.SERVER_CANNOT, _DAMAGED_INDEX),
    Fault(_COMMANDS, "XX", PASSES, "an internal error of the server: see its log. Retried"),
    Fault(_COMMANDS, "58", PASSES, "the server cannot use a file: see its log. Retried"),
    Fault(_COMMANDS, "", Refusal.SERVER_CANNOT, "run `cdc-tracker check`"),
)


def translate(error: psycopg.Error, when: When = When.ASKING, *, secret: str = "") -> CdcTrackerError:
    """psycopg's error as a CdcTrackerError, which says whether to retry. Its text never contains `secret` or a URL's password."""
    text = _safe_text(error, secret)
    if plugin_not_listed(error):
        return Refusal.PLUGIN_MISSING.error(
            error.diag.message_primary or text, hint=f"{LIST_PLUGIN}. For a new slot `plugin: auto` takes pgoutput"
        )
    if when is When.CONNECTING:
        fault = min((verdict_of(when, reason=reason) for reason in _reasons(text)), key=_needs_user)
    elif error.sqlstate is None:  # libpq's own message about a broken connection
        return SourceUnavailable(text, hint=_PRESENT)
    else:
        fault = verdict_of(when, code=error.sqlstate)
    return fault.verdict.error(text, hint=fault.hint) if fault.verdict else SourceUnavailable(text, hint=fault.hint)


def plugin_not_listed(error: psycopg.Error) -> bool:
    """Whether the server refuses an output plugin because of output_plugin_libraries. Only its hint says so, in any language."""
    return error.sqlstate == "42501" and "output_plugin_libraries" in (error.diag.message_hint or "")


def verdict_of(when: When, *, code: str = "", reason: str = "") -> Fault:
    """The first row that matches. One always does: the last of each kind matches everything."""
    return next(fault for fault in FAULTS if fault.matches(when, code, reason))


def _needs_user(fault: Fault) -> bool:
    """Whether the user is needed. Of several hosts that were tried, one that may recover is enough to retry."""
    return fault.verdict is not PASSES


_ATTEMPT = re.compile(r"connection to server|Multiple connection attempts failed|- host: ")
_REASON = re.compile(r"(?:failed|is bad): +(.*)")
_QUOTED = re.compile(r'"[^"]*"')


def _reasons(text: str) -> list[str]:
    """Why each attempt to connect failed, without quoted names, which might look like a reason."""
    bare = _QUOTED.sub('""', text)
    return [reason for attempt in _ATTEMPT.split(bare) for reason in _REASON.findall(attempt)] or [bare]


_URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s@]*@|(password=)\S+")


def _safe_text(error: psycopg.Error, secret: str) -> str:
    text = re.sub(r"(?m)^connection failed: ", "", str(error))
    text = re.sub(rf"\b(?:{re.escape(error.diag.severity or 'FATAL')}|FATAL|ERROR):  ", "", text)
    text = " ".join(line.strip() for line in text.splitlines() if line.strip())
    text = _URL_PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)
    text = text.replace(secret, "***") if secret else text
    return text or type(error).__name__
