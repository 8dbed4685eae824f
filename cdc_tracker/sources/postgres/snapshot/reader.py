"""Chunks of a table, each read between two marks in the WAL.

A chunk's rows are those that the transactions committed before its low mark left, or newer; the stream tells every change that
they may not hold yet. Nothing is locked but against DDL, and each read is a short transaction of its own that writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from cdc_tracker.errors import CdcTrackerError, SourceError
from cdc_tracker.model import Lsn, Segment
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.faults import translate
from cdc_tracker.sources.postgres.snapshot.conditions import Condition, Where
from cdc_tracker.sources.postgres.snapshot.copying import copied
from cdc_tracker.sources.postgres.snapshot.key import extent, filters, readable, refusal, source_of
from cdc_tracker.sources.postgres.snapshot.marks import emit
from cdc_tracker.sources.postgres.snapshot.pace import Pace
from cdc_tracker.sources.postgres.snapshot.rows import segment_of
from cdc_tracker.sources.postgres.snapshot.shape import Order, Shape, described

MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class Chunk:
    """`segment` is None where no row was left, or none was found in the reader's `patience`: `end` tells which.

    `low` and `high` are where the marks stand (see marks.emit): the stream has told all that the rows hold once it has been read
    to `high`, and whatever it tells from `low` on may be newer than they are. So may be what the transactions `running` wrote,
    which had not ended, as other sessions see it, when the rows were read: their commits may stand before `low`.
    `last_key` is where the next chunk goes on; with `end` nothing comes after it. `seconds` is what the last read took.
    """

    segment: Segment | None
    rows: int
    last_key: tuple[str, ...] | None
    low: Lsn
    high: Lsn
    seconds: float
    end: bool
    running: frozenset[int] = frozenset()  # as Transaction.xid has them
    key: tuple[str, ...] = ()  # columns


class _Read(NamedTuple):
    """What one transaction found. `last`: the key up to which the table was gone through."""

    lines: list[memoryview]
    last: tuple[str, ...] | None
    end: bool
    shape: Shape
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


class TableReader:
    """Reads `columns` of `schema.table` in the order of its key, where `where` (a person's SQL) and `conditions` are true.

    `columns` that the table does not have, and those `never` to be captured, are left out, as the stream leaves them out; those
    of the key are always read. Connects at the first read, and anew after an error. One thread at a time.
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
        never: Collection[str] = (),
        key: Sequence[str] = (),
        job: int = 0,
        statement_timeout: float = 30.0,
        lock_timeout: float = 3.0,
        max_bytes: int = MAX_BYTES,
        patience: float = float("inf"),
    ) -> None:
        """`key`: the columns that an earlier reader went by, where this one goes on from there.

        `max_bytes` of rows end a chunk early. `patience`: seconds after which a chunk without rows is given, to go on from.
        """
        self._url, self._name, self._columns, self._never = url, table, frozenset(columns), frozenset(never)
        self._where, self._conditions, self._job = where, tuple(conditions), job
        self._filters = filters(where, conditions)
        self._order = order
        self._key: tuple[str, ...] = tuple(key)
        self._statement_timeout, self._lock_timeout = statement_timeout, lock_timeout
        self._max_bytes, self._patience = max_bytes, patience
        self._pace = Pace(max_bytes)
        self._connection: psycopg.Connection[Any] | None = None
        self._shape: Shape | None = None

    def __enter__(self) -> TableReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def cancel(self) -> None:
        """From another thread: a read under way ends soon, with SourceUnavailable."""
        connection = self._connection
        if connection is not None:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=2.0)

    def read(self, after: Sequence[str] | None, limit: int) -> Chunk:
        """The next rows past the key `after` (None: from the beginning), `limit` of them at most, by one or several short reads.

        Raises SourceError and SourceUnavailable; the same rows may then be asked for again.
        """
        with self._ours():
            low = emit(self._connected(), self._job, "low")
            began = time.monotonic()
            while True:
                started = time.monotonic()
                read = self._transaction(after, limit)
                seconds = time.monotonic() - started
                self._pace.took(seconds, len(read.lines), sum(map(len, read.lines)), limit)
                if read.lines or read.end or time.monotonic() - began > self._patience:
                    break
                after = read.last
            high = emit(self._connected(), self._job, "high")
        segment = segment_of(read.lines, read.shape.relation, low, read.read_at) if read.lines else None
        last = read.last or (tuple(after) if after is not None else None)
        return Chunk(segment, len(read.lines), last, low, high, seconds, read.end, read.running, self._key)

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """psycopg's errors as ours. After one the connection is in no known state: the next read makes another."""
        try:
            yield
        except psycopg.Error as error:
            self.close()
            if error.sqlstate == "57014":  # the statement_timeout
                self._pace.slower()
            if error.sqlstate == "42501":
                raise self._forbidden(error) from error
            if error.sqlstate == "42P01":  # dropped or renamed since
                with connect(self._url) as connection:
                    readable(connection, self._name)
            raise refusal(error, f"{self._name} cannot be read with these conditions") or translate(error) from error
        except CdcTrackerError:
            self.close()
            raise

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            connection = connect(self._url, application_name="cdc-tracker backfill", statement_timeout=self._statement_timeout)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        settings = {
            "lock_timeout": f"{round(self._lock_timeout * 1000)}",
            "idle_in_transaction_session_timeout": "60000",  # if we stop in mid-read, nothing waits for us for long
            "row_security": "off",  # rather an error than rows left out that the stream tells of
            "standard_conforming_strings": "on",
        }
        for name, setting in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, setting])
        if self._shape is None:
            self._shape = described(connection, self._name, self._columns, self._never, "")
            extent(connection, self._name, self._where, self._conditions)

    def _transaction(self, after: Sequence[str] | None, limit: int) -> _Read:
        """One read. The lock comes first: a snapshot taken before a table's rewrite ends would find it empty."""
        connection = self._connected()
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
        assert self._shape is not None  # noqa: S101 - _prepare has set it
        connection.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(source_of(self._shape.table)))
        name = sql.Literal(sql.Identifier(self._shape.table.schema, self._shape.table.name).as_string(connection))
        [(read_at, running, fingerprint)] = connection.execute(sql.SQL(_STATE).format(table=name)).fetchall()
        shape = self._shape
        if fingerprint != shape.fingerprint:
            shape = described(connection, self._name, self._columns, self._never, fingerprint)
            self._shape = shape
        if after is not None and self._key not in ((), shape.key.columns):
            raise SourceError(f"the key of {self._name} has changed since the backfill began", hint="start a new backfill")
        self._key = shape.key.columns
        lines, last, end = self._rows(connection, shape, after, limit)
        return _Read(lines, last, end, shape, read_at, _running(running))

    def _rows(
        self, connection: psycopg.Connection[Any], shape: Shape, after: Sequence[str] | None, limit: int
    ) -> tuple[list[memoryview], tuple[str, ...] | None, bool]:
        """(lines, the key up to which it was read, whether nothing comes after)."""
        span, most = self._pace.span(limit), self._pace.rows(limit)
        if self._filters:
            bound = self._bound(connection, shape, after, span)
        else:
            bound, most = None, min(most, span)
        query = shape.select(shape.columns, self._order, after, bound, self._filters)
        query += sql.SQL(" LIMIT {}").format(sql.Literal(most))
        statement = sql.SQL("COPY ({}) TO STDOUT").format(query).as_bytes(connection)
        lines, whole = copied(connection, statement, self._max_bytes, self._statement_timeout + 10)
        if whole:
            connection.execute("ROLLBACK")
        else:
            self.close()  # cheaper than to have the rest sent, and surer than to cancel what may have ended by then
        some_left = not whole or len(lines) >= most
        last = bound if bound and not some_left else shape.key_of(lines[-1]) if lines else None
        return lines, last, bound is None and not some_left

    def _bound(
        self, connection: psycopg.Connection[Any], shape: Shape, after: Sequence[str] | None, span: int
    ) -> tuple[str, ...] | None:
        """The key `span` rows on, so that a read ends there whatever the conditions leave of them; None: there are fewer."""
        query = shape.select(shape.key.columns, self._order, after) + sql.SQL(" LIMIT 1 OFFSET {}").format(sql.Literal(span - 1))
        result = connection.execute(query).pgresult
        if result is None or not result.ntuples:
            return None
        return tuple((result.get_value(0, place) or b"").decode() for place in range(result.nfields))

    def _forbidden(self, error: psycopg.Error) -> CdcTrackerError:
        """A right may be missing on the table, which has an error of its own, or on a function that a condition calls."""
        with connect(self._url) as connection:
            readable(connection, self._name)
        return translate(error)


def _running(snapshot: str) -> frozenset[int]:
    """The transactions in progress of a pg_snapshot, `xmin:xmax:xip,xip`, without their epochs."""
    listed = snapshot.rpartition(":")[2]
    return frozenset(int(xid) & 0xFFFFFFFF for xid in listed.split(",") if xid)
