"""The replication connection: frames in, feedback out. It uses psycopg.pq, as psycopg has no replication cursor.

https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Mapping

import psycopg
from psycopg import pq

from cdc_tracker.closing import Closing
from cdc_tracker.errors import CdcTrackerError, SourceUnavailable
from cdc_tracker.model import Lsn, format_lsn, parse_lsn
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.faults import When, translate
from cdc_tracker.sources.postgres.quoting import literal, quoted
from cdc_tracker.sources.postgres.segments import Frame

WAL_DATA = ord("w")
POSTGRES_EPOCH_SECONDS = 946_684_800

_KEEPALIVE = struct.Struct(">xQQB")
_FEEDBACK = struct.Struct(">cQQQqB")
SILENCE = 30.0  # seconds without a byte until the server is asked to reply; after as long again the connection is given up


class ReplicationStream(Closing):
    """One walsender's stream. `receive` never blocks; `wait` does, for at most the time given.

    `wal_end` is the server's WAL end as last received; `reply_due` is set when the server asks for feedback. Raises
    SourceUnavailable if a retry may help, else a SourceError subclass.
    """

    def __init__(self, url: str, application_name: str = "cdc-tracker") -> None:
        self._connection = connect(url, replication=True, application_name=application_name)
        self._pg = self._connection.pgconn
        if self._pg.parameter_status(b"server_encoding") == b"SQL_ASCII":  # else text that is not UTF-8 would end the stream
            self._execute("SET client_encoding TO SQL_ASCII")
        self.application_name = self._connection.info.parameter_status("application_name") or ""
        self.wal_end: Lsn = 0
        self.reply_due = False
        self._heard = time.monotonic()
        self._asked: float | None = None  # when the silent server was asked to reply

    def create_temporary_slot(self, name: str, plugin: str) -> Lsn:
        """Creates a slot that is dropped with this connection; returns its consistent point."""
        row = self._query(f"CREATE_REPLICATION_SLOT {quoted(name)} TEMPORARY LOGICAL {quoted(plugin)} NOEXPORT_SNAPSHOT")
        return parse_lsn(row[1])

    def start(self, slot: str, start: Lsn, options: Mapping[str, str]) -> None:
        """START_REPLICATION. The caller rules out a start below confirmed_flush_lsn, which the server does not refuse."""
        given = ", ".join(f"{quoted(name)} {literal(value)}" for name, value in options.items())
        command = f"START_REPLICATION SLOT {quoted(slot)} LOGICAL {format_lsn(start)} ({given})"
        result = self._execute(command)
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise _failed(result, When.STARTING)
        self._pg.nonblocking = 1

    def receive(self) -> Frame | None:
        """The next frame of kind `w`; None if the socket is drained. Keepalives update `wal_end` and `reply_due` on the way."""
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
        """Waits until the server sends something, at most `timeout` seconds. Raises SourceUnavailable after 2 × SILENCE."""
        readable, _, _ = select.select([self._pg.socket], [], [], max(0.0, timeout))
        if not readable:
            self._check_silence()
            return
        self._heard = time.monotonic()
        self.consume()

    def consume(self) -> None:
        """Reads what the socket has received."""
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            raise translate(error, When.STREAMING) from None

    def feedback(self, received: Lsn, flushed: Lsn, *, ask: bool = False) -> None:
        """Sends a status update: `received` as write LSN; `flushed`, below which WAL may be removed, as flush and apply LSN."""
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
        """Ends the copy, so that the server takes the last feedback and releases the slot. At most 2 seconds; never raises."""
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
            pass  # the connection is closed in any case

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def _check_silence(self) -> None:
        """Raises SourceUnavailable after SILENCE seconds without a reply. Before it was asked, this process may not have read."""
        now = time.monotonic()
        if self._asked is None:
            if now - self._heard > SILENCE:
                self._asked = now
                self.reply_due = True
        elif now - max(self._asked, self._heard) > SILENCE:
            raise SourceUnavailable(f"the server has been silent for {now - self._heard:.0f} s")

    @property
    def asking(self) -> bool:
        """Whether the next feedback should ask the server for a reply."""
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
