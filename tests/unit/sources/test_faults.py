"""The table of faults: every row is reached, by a text or SQLSTATE that servers and libpq really give."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from cdc_tracker.errors import (
    CdcTrackerError,
    PublicationLost,
    SlotBusy,
    SlotLost,
    SlotMissing,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    Stop,
    Undecodable,
)
from cdc_tracker.sources.postgres.faults import FAULTS, Fault, When, translate, verdict_of

CONNECTED = (When.ASKING, When.STARTING, When.STREAMING)
AT = 'connection to server at "db.internal" (10.0.0.7), port 5432 failed: '

# libpq's text → verdict, and a word of the hint.
CONNECTING: list[tuple[str, type[CdcTrackerError], str]] = [
    (AT + 'FATAL:  password authentication failed for user "cdc"', SourceRefused, "PGPASSWORD"),
    (AT + 'FATAL:  Peer authentication failed for user "cdc"', SourceRefused, "PGPASSWORD"),
    (AT + "fe_sendauth: no password supplied", SourceRefused, "PGPASSWORD"),
    (AT + 'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "cdc", no encryption', SourceRefused, "pg_reload_conf"),
    (AT + 'FATAL:  pg_hba.conf rejects replication connection for host "[local]"', SourceRefused, "pg_reload_conf"),
    (AT + 'FATAL:  database "shop" does not exist', SourceRefused, "database's name"),
    (AT + "FATAL:  no such database: shop", SourceRefused, "database's name"),
    (AT + 'FATAL:  role "cdc" does not exist', SourceRefused, "cdc-tracker sql role"),
    (AT + 'FATAL:  role "cdc" is not permitted to log in', SourceRefused, "cdc-tracker sql role"),
    (AT + "FATAL:  must be superuser or replication role to start walsender", SourceRefused, "REPLICATION"),
    (AT + "FATAL:  permission denied to start WAL sender DETAIL:  Only roles with …", SourceRefused, "REPLICATION"),
    (AT + 'FATAL:  permission denied for database "shop"', SourceRefused, "GRANT CONNECT"),
    (AT + "FATAL:  unsupported startup parameter: replication", SourceRefused, "PostgreSQL directly"),
    (AT + "SSL error: certificate verify failed", SourceRefused, "sslrootcert"),
    (AT + "SSL error: tlsv1 alert unknown ca", SourceRefused, "sslrootcert"),
    (AT + "SSL error: sslv3 alert certificate expired", SourceRefused, "sslrootcert"),
    (AT + "SSL error: tlsv1 alert protocol version", SourceRefused, "sslrootcert"),
    (AT + 'server certificate for "a" does not match host name "b"', SourceRefused, "sslrootcert"),
    (AT + "server does not support SSL, but SSL was required", SourceRefused, "sslmode"),
    (AT + 'root certificate file "/no/ca.pem" does not exist', SourceRefused, "sslrootcert"),
    (AT + 'private key file "/etc/key" has group or world access', SourceRefused, "sslmode"),
    (AT + "channel binding required but not supported by server's authentication request", SourceRefused, "sslmode"),
    ('invalid connection option "nonsense"', SourceRefused, "source.url"),
    ('invalid sslmode value: "sometimes"', SourceRefused, "ssl"),
    ('invalid integer value "x" for connection option "port"', SourceRefused, "source.url"),
    ('definition of service "shop" not found', SourceRefused, "PGSERVICE"),
    (AT + 'FATAL:  unrecognized configuration parameter "bla"', SourceRefused, "PGOPTIONS"),
    (AT + 'FATAL:  invalid value for parameter "work_mem": "zz"', SourceRefused, "PGOPTIONS"),
    ('could not translate host name "db" to address: Name or service not known', SourceUnavailable, "resolve"),
    ('could not translate host name "certificate.db" to address: Temporary failure', SourceUnavailable, "resolve"),
    (AT + "FATAL:  sorry, too many clients already", SourceUnavailable, "free"),
    (AT + "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", SourceUnavailable, "free"),
    (AT + "FATAL:  number of requested standby connections exceeds max_wal_senders (currently 5)", SourceUnavailable, "free"),
    (AT + "FATAL:  the database system is starting up", SourceUnavailable, "restarts"),
    (AT + "FATAL:  the database system is shutting down", SourceUnavailable, "restarts"),
    (AT + "FATAL:  the database system is in recovery mode", SourceUnavailable, "restarts"),
    (AT + "FATAL:  the database system is not yet accepting connections", SourceUnavailable, "restarts"),
    (
        AT + "FATAL:  the database system is not accepting connections DETAIL:  Hot standby mode is disabled.",
        SourceUnavailable,
        "primary",
    ),
    (AT + "session is read-only", SourceUnavailable, "primary"),
    (AT + "server is in hot standby mode", SourceUnavailable, "primary"),
    (
        AT + "Connection refused Is the server running on that host and accepting TCP/IP connections?",
        SourceUnavailable,
        "reachable",
    ),
    (AT + "SSL error: unexpected eof while reading", SourceUnavailable, "reachable"),
    (AT + "SSL SYSCALL error: EOF detected", SourceUnavailable, "reachable"),
    (AT + "SSL SYSCALL error: Connection reset by peer", SourceUnavailable, "reachable"),
    (AT + "SSL error: decryption failed or bad record mac", SourceUnavailable, "reachable"),
    (AT + "SSL connection has been closed unexpectedly", SourceUnavailable, "reachable"),
    (AT + "server closed the connection unexpectedly", SourceUnavailable, "reachable"),
    (AT + "received invalid response to SSL negotiation: H", SourceUnavailable, "reachable"),
    (AT + "timeout expired", SourceUnavailable, "reachable"),
    (AT + "No route to host", SourceUnavailable, "reachable"),
    (AT + "FATAL:  Passwort-Authentifizierung für Benutzer »cdc« fehlgeschlagen", SourceUnavailable, "reachable"),
    ("", SourceUnavailable, "reachable"),
    # Names look like reasons, and several hosts have one each.
    (AT.replace("db.internal", "certificate.sslmode") + "Connection refused", SourceUnavailable, "reachable"),
    (AT + f"Connection refused {AT}" + 'FATAL:  database "shop" does not exist', SourceUnavailable, "reachable"),
    (AT + f"certificate verify failed {AT}" + 'FATAL:  database "shop" does not exist', SourceRefused, "sslrootcert"),
]

# SQLSTATE → the verdict while asking, at START_REPLICATION, while streaming.
STATES: list[tuple[str, type[CdcTrackerError], type[CdcTrackerError], type[CdcTrackerError]]] = [
    ("08006", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # connection_failure
    ("08P01", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # protocol_violation
    ("25006", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # read_only_sql_transaction
    ("25P03", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # idle_in_transaction_session_timeout
    ("25P04", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # transaction_timeout
    ("40001", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # serialization_failure
    ("40P01", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # deadlock_detected
    ("53100", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # disk_full
    ("53200", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # out_of_memory
    ("53300", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # too_many_connections
    ("53400", SourceError, SourceError, SourceError),  # configuration_limit_exceeded: all slots are in use
    ("55006", SlotBusy, SlotBusy, SlotBusy),  # object_in_use
    ("55P03", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # lock_not_available
    ("57014", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # query_canceled
    ("57P01", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # admin_shutdown
    ("57P02", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # crash_shutdown
    ("57P03", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # cannot_connect_now
    ("57P04", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # database_dropped
    ("57P05", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # idle_session_timeout
    ("58030", SourceUnavailable, SourceUnavailable, SourceUnavailable),  # io_error
    ("28000", SourceRefused, SourceRefused, SourceRefused),  # invalid_authorization_specification
    ("28P01", SourceRefused, SourceRefused, SourceRefused),  # invalid_password
    ("3D000", SourceRefused, SourceRefused, SourceRefused),  # invalid_catalog_name
    ("42501", SourceRefused, SourceRefused, SourceRefused),  # insufficient_privilege
    ("42704", SourceError, SlotMissing, PublicationLost),  # undefined_object
    ("55000", SourceError, SlotLost, SlotLost),  # object_not_in_prerequisite_state
    ("58P01", SourceError, SourceError, SlotLost),  # undefined_file: the plugin's library, then a WAL segment
    ("0A000", SourceError, SourceRefused, Undecodable),  # feature_not_supported: decoding on a standby
    ("22023", SourceError, SourceError, Undecodable),  # invalid_parameter_value: an option of the plugin
    ("22021", SourceError, SourceError, Undecodable),  # character_not_in_repertoire
    ("22P05", SourceError, SourceError, Undecodable),  # untranslatable_character
    ("54000", SourceError, SourceError, Undecodable),  # program_limit_exceeded: a row above 1 GB
    ("XX000", SourceUnavailable, SourceUnavailable, Undecodable),  # internal_error: invalid memory alloc request size
    ("XX001", SourceError, SourceError, Undecodable),  # data_corrupted
    ("XX002", SourceError, SourceError, Undecodable),  # index_corrupted
    ("58P02", SourceUnavailable, SourceUnavailable, Undecodable),  # duplicate_file
    ("42P01", SourceError, SourceError, Undecodable),  # undefined_table
    ("P0001", SourceError, SourceError, Undecodable),  # raise_exception
]


@pytest.mark.parametrize(("text", "kind", "hint"), CONNECTING, ids=range(len(CONNECTING)))
def test_a_connection_that_cannot_be_made_stops_only_where_a_person_is_needed(
    text: str, kind: type[CdcTrackerError], hint: str
) -> None:
    found = translate(psycopg.OperationalError("connection failed: " + text), When.CONNECTING)
    assert type(found) is kind
    assert hint in found.hint


@pytest.mark.parametrize(("code", "asking", "starting", "streaming"), STATES, ids=[row[0] for row in STATES])
def test_what_a_sqlstate_means_depends_on_what_was_done(
    code: str, asking: type[CdcTrackerError], starting: type[CdcTrackerError], streaming: type[CdcTrackerError]
) -> None:
    for when, kind in zip(CONNECTED, (asking, starting, streaming), strict=True):
        verdict = verdict_of(when, code=code).verdict
        assert (verdict.kind if verdict else SourceUnavailable) is kind, when


def _reached() -> Iterator[Fault]:
    for text, _, _ in CONNECTING:
        bare = text.replace(AT, "").replace("FATAL:  ", "")
        yield verdict_of(When.CONNECTING, reason=bare)
        yield verdict_of(When.CONNECTING, reason='database "" does not exist')
        yield verdict_of(When.CONNECTING, reason='role "" does not exist')
    for code, *_ in STATES:
        for when in CONNECTED:
            yield verdict_of(when, code=code)


def test_every_row_of_the_table_is_reached_and_has_a_hint() -> None:
    reached = set(_reached())
    assert [fault for fault in FAULTS if fault not in reached] == []
    assert all(fault.hint for fault in FAULTS)


def test_everything_has_a_verdict() -> None:
    for when in When:
        assert verdict_of(when, code="ZZZZZ", reason="never seen before").hint


@pytest.mark.parametrize("when", CONNECTED)
@pytest.mark.parametrize(
    "text",
    [
        "consuming input failed: SSL error: unexpected eof while reading",
        "SSL SYSCALL error: EOF detected",
        "SSL error: certificate has expired",
        "server closed the connection unexpectedly",
        "sending query failed: no connection to the server",
        "the connection is closed",
    ],
)
def test_a_connection_that_breaks_is_made_again(when: When, text: str) -> None:
    assert type(translate(psycopg.OperationalError(text), when)) is SourceUnavailable


def test_only_the_code_counts_where_there_is_one() -> None:
    class Cancelled(psycopg.errors.QueryCanceled):
        """With a context that speaks of a slot."""

    error = Cancelled('canceling statement CONTEXT: slot "cdc_tracker", output plugin "pgoutput", wal_level, WAL segment')
    assert type(translate(error, When.STREAMING)) is SourceUnavailable
    assert not isinstance(translate(error), Stop)
