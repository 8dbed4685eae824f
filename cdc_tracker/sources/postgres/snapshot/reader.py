"""Chunks of a table, each read between two watermarks in the WAL.

A chunk's rows are as the transactions committed before its low watermark left them, or newer; the stream reports every change
that they may lack. The table is locked against DDL only, and each read is a short read-only transaction.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import sql

from cdc_tracker.closing import Closing
from cdc_tracker.errors import CdcTrackerError, SourceError
from cdc_tracker.model import Lsn, Segment
from cdc_tracker.sources.postgres.connection import Connection, connect
from cdc_tracker.sources.postgres.faults import translate
from cdc_tracker.sources.postgres.quoting import quoted
from cdc_tracker.sources.postgres.snapshot.conditions import Condition, Where
from cdc_tracker.sources.postgres.snapshot.copying import copy_lines
from cdc_tracker.sources.postgres.snapshot.key import extent, filters, readable, refusal, source_of
from cdc_tracker.sources.postgres.snapshot.pace import Pace
from cdc_tracker.sources.postgres.snapshot.rows import segment_of
from cdc_tracker.sources.postgres.snapshot.table_query import Order, TableQuery, table_query
from cdc_tracker.sources.postgres.snapshot.watermarks import write_watermark

MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class Chunk:
    """Rows read between two watermarks.

    `segment` is None if no row is left, or none was found within the reader's `patience`: `end` says which. `low` and `high` are
    the LSNs of the watermarks. Once the stream has been read to `high`, it has reported everything that the rows contain;
    changes from `low` on may be newer than the rows. So may be those of the transactions `running` while the rows were read, even
    if they committed before `low`. The next chunk starts after `last_key`; with `end` there is none. `seconds`: of the last read.
    """

    segment: Segment | None
    rows: int
    last_key: tuple[str, ...] | None
    low: Lsn
    high: Lsn
    seconds: float
    end: bool
    running: frozenset[int] = frozenset()  # ids as in Transaction.xid
    key: tuple[str, ...] = ()  # columns


class _Read(NamedTuple):
    """What one transaction read. `last`: the key up to which the table was scanned."""

    lines: list[memoryview]
    last: tuple[str, ...] | None
    end: bool
    query: TableQuery
    read_at: int
    running: frozenset[int]


_STATE = """
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8, pg_current_snapshot()::text,
       {table}::regclass::oid::text || (
           SELECT string_agg(format(' %s %s %s %s', a.attnum, a.attname, a.atttypid, a.atttypmod), ',' ORDER BY a.attnum)
             FROM pg_attribute a WHERE a.attrelid = {table}::regclass AND a.attnum > 0 AND NOT a.attisdropped)
           || coalesce((SELECT string_agg(i.indexrelid::text, ' ' ORDER BY i.indexrelid)
                          FROM pg_index i WHERE i.indrelid = {table}::regclass AND i.indisunique AND i.indisvalid), '')
"""


class TableReader(Closing):
    """Reads `columns` of `schema.table` in key order, of the rows for which `where` (a user's SQL) and `conditions` are true.

    Columns that the table lacks and those in `never_capture` are left out, as in the stream; those of the key are always read.
    Connects at the first read and reconnects after an error. For one thread at a time, but for `cancel`.
    """

    def __init__(
        self,
        url: str,
        table: str,
        columns: Collection[str],
        *,
        where: Where = None,
        conditions: Sequence[Condition] = (),
        order: Order = "asc",
        never_capture: Collection[str] = (),
        key: Sequence[str] = (),
        job: int = 0,
        statement_timeout: float = 30.0,
        lock_timeout: float = 3.0,
        max_bytes: int = MAX_BYTES,
        patience: float = float("inf"),
    ) -> None:
        """`key`: the key columns of an earlier reader that this one continues. Time-outs are in seconds.

        A chunk ends early at `max_bytes` of rows; after `patience` seconds without a row an empty chunk is returned.
        """
        self._url, self._name, self._columns, self._never_capture = url, table, frozenset(columns), frozenset(never_capture)
        self._where, self._conditions, self._job = where, tuple(conditions), job
        self._filters = filters(where, conditions)
        self._order = order
        self._key: tuple[str, ...] = tuple(key)
        self._statement_timeout, self._lock_timeout = statement_timeout, lock_timeout
        self._max_bytes, self._patience = max_bytes, patience
        self._pace = Pace(max_bytes)
        self._connection: Connection | None = None
        self._query: TableQuery | None = None

    def close(self) -> None:
        """Closes the connection; the next read opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def cancel(self) -> None:
        """For another thread: ends a read in progress, with SourceUnavailable."""
        connection = self._connection
        if connection is not None:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=2.0)

    def read(self, after: Sequence[str] | None, limit: int) -> Chunk:
        """The next rows past the key `after` (None: from the start), at most `limit`, in one or several short reads.

        Raises SourceError or SourceUnavailable; the call may then be repeated.
        """
        with self._translated():
            low = write_watermark(self._connected(), self._job, "low")
            began = time.monotonic()
            while True:
                started = time.monotonic()
                read = self._transaction(after, limit)
                seconds = time.monotonic() - started
                self._pace.took(seconds, len(read.lines), sum(map(len, read.lines)), limit)
                if read.lines or read.end or time.monotonic() - began > self._patience:
                    break
                after = read.last
            high = write_watermark(self._connected(), self._job, "high")
        segment = segment_of(read.lines, read.query.relation, low, read.read_at) if read.lines else None
        last = read.last or (tuple(after) if after is not None else None)
        return Chunk(segment, len(read.lines), last, low, high, seconds, read.end, read.running, self._key)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translates psycopg's errors and closes the connection, whose state is unknown after one."""
        try:
            yield
        except psycopg.Error as error:
            self.close()
            if error.sqlstate == "57014":  # the statement_timeout
                self._pace.slower()
            if error.sqlstate == "42501":
                raise self._missing_right(error) from error
            if error.sqlstate == "42P01":  # dropped or renamed meanwhile
                with connect(self._url) as connection:
                    readable(connection, self._name)
            raise refusal(error, f"{self._name} cannot be read with these conditions") or translate(error) from error
        except CdcTrackerError:
            self.close()
            raise

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = connect(self._url, application_name="cdc-tracker backfill", statement_timeout=self._statement_timeout)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: Connection) -> None:
        settings = {
            "lock_timeout": f"{round(self._lock_timeout * 1000)}",
            "idle_in_transaction_session_timeout": "60000",  # a worker stopped in mid-read holds its lock no longer
            "row_security": "off",  # an error instead of hidden rows that the stream reports
            "standard_conforming_strings": "on",
        }
        for name, setting in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, setting])
        if self._query is None:
            self._query = table_query(connection, self._name, self._columns, self._never_capture, "")
            extent(connection, self._name, self._where, self._conditions)

    def _transaction(self, after: Sequence[str] | None, limit: int) -> _Read:
        """Reads one chunk. Locks first: a snapshot taken before a rewrite of the table ends would see it empty."""
        connection = self._connected()
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
        assert self._query is not None  # noqa: S101 - _prepare has set it
        connection.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(source_of(self._query.table)))
        name = sql.Literal(quoted(self._query.table.schema, self._query.table.name))
        [(read_at, running, fingerprint)] = connection.execute(sql.SQL(_STATE).format(table=name)).fetchall()
        query = self._query
        if fingerprint != query.fingerprint:
            query = table_query(connection, self._name, self._columns, self._never_capture, fingerprint)
            self._query = query
        if after is not None and self._key not in ((), query.key):
            raise SourceError(f"the key of {self._name} has changed since the backfill began", hint="start a new backfill")
        self._key = query.key
        lines, last, end = self._rows(connection, query, after, limit)
        return _Read(lines, last, end, query, read_at, _running(running))

    def _rows(
        self, connection: Connection, query: TableQuery, after: Sequence[str] | None, limit: int
    ) -> tuple[list[memoryview], tuple[str, ...] | None, bool]:
        """(lines, the key up to which the table was scanned, whether that is its end)."""
        span, most = self._pace.span(limit), self._pace.rows(limit)
        if self._filters:
            bound = self._bound(connection, query, after, span)
        else:
            bound, most = None, min(most, span)
        rows = query.select(query.columns, self._order, after, bound, self._filters)
        rows += sql.SQL(" LIMIT {}").format(sql.Literal(most))
        statement = sql.SQL("COPY ({}) TO STDOUT").format(rows).as_bytes(connection)
        lines, whole = copy_lines(connection, statement, self._max_bytes, self._statement_timeout + 10)
        if whole:
            connection.execute("ROLLBACK")
        else:
            self.close()  # cheaper than reading the rest, and safer than cancelling a query that may have ended
        some_left = not whole or len(lines) >= most
        last = bound if bound and not some_left else query.key_of(lines[-1]) if lines else None
        return lines, last, bound is None and not some_left

    def _bound(self, connection: Connection, query: TableQuery, after: Sequence[str] | None, span: int) -> tuple[str, ...] | None:
        """The key `span` rows ahead, where the read ends however few rows the conditions leave; None if the table ends before."""
        keys = query.select(query.key, self._order, after) + sql.SQL(" LIMIT 1 OFFSET {}").format(sql.Literal(span - 1))
        result = connection.execute(keys).pgresult
        if result is None or not result.ntuples:
            return None
        return tuple((result.get_value(0, place) or b"").decode() for place in range(result.nfields))

    def _missing_right(self, error: psycopg.Error) -> CdcTrackerError:
        """The error for a missing right: on the table, or on a function that a condition calls."""
        with connect(self._url) as connection:
            readable(connection, self._name)
        return translate(error)


def _running(snapshot: str) -> frozenset[int]:
    """The transactions in progress of a pg_snapshot, `xmin:xmax:xip,xip`, as 32-bit ids."""
    listed = snapshot.rpartition(":")[2]
    return frozenset(int(xid) & 0xFFFFFFFF for xid in listed.split(",") if xid)
