"""The transactions that the aggregates of one State share: plain ones, and fenced ones once the process has claimed its row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection

from cdc_tracker.state.fence import Fence, Row, Step, Unclaimed
from cdc_tracker.state.locks import Lock
from cdc_tracker.storage.database import Database


class Transactions:
    """Reading and writing transactions on one store, and the claim and lock that fence them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.writer = Unclaimed()
        self.lock: Lock | None = None  # the last one taken through this State

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection without a transaction: each statement sees what is committed when it starts."""
        return self._database.reading()

    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction of a command, which needs no claim."""
        return self._database.writing()

    @contextmanager
    def stepping(self) -> Iterator[tuple[Connection, Step]]:
        """A transaction of the process that has claimed the row; its own statement compares the row's version."""
        with self.writer.step() as step, self.writing() as connection:
            yield connection, step

    @contextmanager
    def fenced(self) -> Iterator[Connection]:
        """A transaction of the process that has claimed the row. Raises Fenced if another process has taken over."""
        with self.stepping() as (connection, step):
            self.writer.compare(connection, step)
            yield connection

    def claim(self, row: Row, lock: Lock) -> None:
        """Fence the writes by the claimed row from now on."""
        with self.writing() as connection:
            fence = Fence(row, lock, connection)
        self.writer = fence

    @property
    def lost(self) -> bool:
        """Whether this process was fenced, or has lost its lock."""
        return self.writer.lost or (self.lock is not None and self.lock.lost is not None)


class Aggregate:
    """One part of the state store. Every public method is one transaction unless it says otherwise."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
