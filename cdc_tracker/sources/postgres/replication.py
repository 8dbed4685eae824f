"""The replication connection: frames in, feedback out. libpq through psycopg.pq, as psycopg has no replication cursor.

https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple

import psycopg
from psycopg import pq, sql

from cdc_tracker.errors import CdcTrackerError, SourceUnavailable
from cdc_tracker.model import Lsn, format_lsn, parse_lsn
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.faults import When, translate
from cdc_tracker.sources.postgres.segments import Frame

WAL_DATA, KEEPALIVE = b"wk"
POSTGRES_EPOCH_SECONDS = 946_684_800

_KEEPALIVE = struct.Struct(">xQQB")
_FEEDBACK = struct.Struct(">cQQQqB")
SILENCE = 30.0  # seconds without a byte until the server is asked for a sign of life; after twice that it is given up


class Identity(NamedTuple):
    system_id: str
    timeline: int
    wal_end: Lsn
    database: str


class ReplicationStream:
    """One walsender's stream. `receive` never blocks; `wait` does, for at most the time given.

    `wal_end` is the server's WAL end as last heard of, `reply_due` true when the server asked for feedback.
    All errors are ours: SourceUnavailable where trying again may help, SourceError and its kin where a person is needed.
    """

    def __init__(self, url: str, application_name: str = "cdc-tracker") -> None:
        self._connection = connect(url, replication=True, application_name=application_name)
        self._pg = self._connection.pgconn
        if self._pg.parameter_status(b"server_encoding") == b"SQL_ASCII":  # converts nothing, and would end at what is no UTF-8
            self._execute("SET client_encoding TO SQL_ASCII")
        self.application_name = self._connection.info.parameter_status("application_name") or ""
        self.wal_end: Lsn = 0
        self.reply_due = False
        self._heard = time.monotonic()
        self._asked: float | None = None  # when the server fell silent for too long

    def identify(self) -> Identity:
        """IDENTIFY_SYSTEM."""
        system_id, timeline, wal_end, database = self._query("IDENTIFY_SYSTEM")
        return Identity(system_id, int(timeline), parse_lsn(wal_end), database)

    def create_temporary_slot(self, name: str, plugin: str) -> Lsn:
        """A slot that goes with this connection; its consistent point."""
        command = sql.SQL("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL {} NOEXPORT_SNAPSHOT")
        row = self._query(command.format(sql.Identifier(name), sql.Identifier(plugin)).as_string(None))
        return parse_lsn(row[1])

    def start(self, slot: str, start: Lsn, options: Mapping[str, str]) -> None:
        """START_REPLICATION. A start below the slot's confirmed_flush_lsn is not refused by the server: check first."""
        given = ", ".join(f"{_quoted(name)} '{value.replace(chr(39), chr(39) * 2)}'" for name, value in options.items())
        command = f"START_REPLICATION SLOT {_quoted(slot)} LOGICAL {format_lsn(start)} ({given})"
        result = self._execute(command)
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise _failed(result, When.STARTING)
        self._pg.nonblocking = 1

    def receive(self) -> Frame | None:
        """The next frame of kind `w`; None when the socket is drained. Keepalives are taken in on the way."""
        get = self._pg.get_copy_data
        while True:
            try:
                size, data = get(1)
            except psycopg.Error as error:
                raise translate(error, When.STREAMING) from None
            if size > 0:
                if data[0] == WAL_DATA:
                    return data
                self.wal_end, _, reply = _KEEPALIVE.unpack_from(data)
                self.reply_due = self.reply_due or bool(reply)
                self._heard = time.monotonic()
                self._asked = None
                continue
            if size == 0:
                return None
            raise self._ended()

    def wait(self, timeout: float) -> None:
        """Until the server sends something or `timeout` seconds pass. Raises SourceUnavailable when it is silent for long."""
        readable, _, _ = select.select([self._pg.socket], [], [], max(0.0, timeout))
        if not readable:
            self._watch()
            return
        self._heard = time.monotonic()
        self.consume()

    def consume(self) -> None:
        """Take from the socket what is there."""
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            raise translate(error, When.STREAMING) from None

    def feedback(self, received: Lsn, flushed: Lsn, *, ask: bool = False) -> None:
        """Standby status update: `received` as write LSN, `flushed` as flush and apply LSN: the server may drop older WAL."""
        now = int((time.time() - POSTGRES_EPOCH_SECONDS) * 1_000_000)
        try:
            self._pg.put_copy_data(_FEEDBACK.pack(b"r", max(received, flushed), flushed, flushed, now, ask))
            if self._pg.flush():
                select.select([], [self._pg.socket], [], 1.0)
                self._pg.flush()
        except psycopg.Error as error:
            raise translate(error, When.STREAMING) from None
        self.reply_due = False

    def finish(self) -> None:
        """End the copy, so that the server takes in the last feedback and frees the slot before we go."""
        try:
            self._pg.nonblocking = 0
            self._pg.put_copy_end()
            deadline = time.monotonic() + 2.0
            while time.monotonic() < deadline:
                size, _ = self._pg.get_copy_data(1)
                if size < 0:
                    break
                if size == 0:
                    select.select([self._pg.socket], [], [], 0.2)
                    self._pg.consume_input()
        except psycopg.Error:
            pass  # it is going away in any case

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> ReplicationStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _watch(self) -> None:
        """Silence counts from when the server was asked: until then it may be that we did not listen."""
        now = time.monotonic()
        if self._asked is None:
            if now - self._heard > SILENCE:
                self._asked = now
                self.reply_due = True
        elif now - max(self._asked, self._heard) > SILENCE:
            raise SourceUnavailable(f"the server has been silent for {now - self._heard:.0f} s")

    @property
    def asking(self) -> bool:
        """The next feedback should ask the server for an answer."""
        return self._asked is not None

    def _query(self, command: str) -> list[str]:
        result = self._execute(command)
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise _failed(result)
        return [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]

    def _execute(self, command: str) -> pq.abc.PGresult:
        try:
            return self._pg.exec_(command.encode())
        except psycopg.Error as error:
            raise translate(error) from None

    def _ended(self) -> CdcTrackerError:
        result = self._pg.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return _failed(result, When.STREAMING)
        return SourceUnavailable("the server ended the replication stream")


def _failed(result: pq.abc.PGresult, when: When = When.ASKING) -> CdcTrackerError:
    return translate(psycopg.errors.error_from_result(result), when)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
