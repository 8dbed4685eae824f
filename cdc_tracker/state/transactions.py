"""The transactions that the aggregates of one State share: plain ones, and fenced ones once the process has claimed its row.

A row that one process writes has a version, and every commit names the version that it follows. A claim gives the row another
version, as every commit does. So a process that lost its lock without noticing (it was paused, its session was ended) cannot
commit any more, nor can one whose store was restored to an earlier time and lacks what the process believes to be stored.
Versions only grow and are at least the microsecond of their creation: two that follow the same older one, before and after a
restore, differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Connection, Table, bindparam, or_, select, update

from cdc_tracker.errors import Fenced, StateMissing
from cdc_tracker.state.locks import Lock
from cdc_tracker.storage.database import Database
from cdc_tracker.times import now_micros

_known = bindparam("known_version", type_=BigInteger)
_next = bindparam("next_version", type_=BigInteger)


class Step(NamedTuple):
    """A change of version, as parameters of a statement. `known_version` is None if the writer has claimed nothing."""

    known_version: int | None
    next_version: int


class ClaimedRow(NamedTuple):
    """A row that one process claims. `noun`: for messages, such as `the checkpoint of mixpanel`."""

    noun: str
    table: Table
    key: dict[str, Any]

    def version(self, connection: Connection) -> int | None:
        """The stored version; None if there is no such row."""
        found: int | None = connection.execute(select(self.table.c.version).where(*self._here)).scalar()
        return found

    def move(self, connection: Connection, step: Step) -> bool:
        """Whether the row had the version from which the step leads."""
        moved = update(self.table).where(*self._here, follows(self.table)).values(version=_next)
        return bool(connection.execute(moved, step._asdict()).rowcount)

    @property
    def _here(self) -> list[ColumnElement[bool]]:
        return [self.table.c[name] == value for name, value in self.key.items()]


def follows(table: Table) -> ColumnElement[bool]:
    """The row has the version from which the step leads; or, after a commit whose answer was lost, the one to which it leads."""
    return or_(_known.is_(None), table.c.version.in_([_known, _next]))


def leads() -> Any:
    """The row's new version."""
    return _next


class Unclaimed:
    """The writer of a State without a claim: that of a command, which requests something and stores no work."""

    lost = False

    @contextmanager
    def step(self) -> Iterator[Step]:
        """For one transaction, committed at the end."""
        yield Step(None, _after(0))

    def compare(self, connection: Connection, step: Step) -> None:
        """Call it in a transaction whose own statements do not move the row."""

    def refuse(self, connection: Connection, step: Step) -> None:
        """Call it after a statement that changed nothing: raises Fenced if the row's version is the reason."""


class Fence(Unclaimed):
    """The writer of a process that has claimed the row. Its methods raise Fenced if the row has a version of another writer."""

    def __init__(self, row: ClaimedRow, lock: Lock, connection: Connection) -> None:
        """Once the transaction is committed, no earlier writer can write the row."""
        self._row, self._lock = row, lock
        self._refused: Fenced | None = None
        self._version = self._next = _after(row.version(connection) or 0)
        if not row.move(connection, Step(None, self._version)):
            raise StateMissing(f"The state store has lost {row.noun}.")

    @property
    def lost(self) -> bool:  # type: ignore[override]
        return self._refused is not None or self._lock.lost is not None

    @contextmanager
    def step(self) -> Iterator[Step]:
        """After a failure the next step leads to the same version, because the commit may have taken place."""
        if self._refused is not None:
            raise self._refused
        self._lock.check()
        if self._next == self._version:
            self._next = _after(self._version)
        try:
            yield Step(self._version, self._next)
        except Fenced as error:
            self._refused = error
            raise
        self._version = self._next

    def compare(self, connection: Connection, step: Step) -> None:
        if not self._row.move(connection, step):
            self.refuse(connection, step)

    def refuse(self, connection: Connection, step: Step) -> None:
        found = self._row.version(connection)
        if found is None:
            raise Fenced(f"{_sentence(self._row.noun)} was removed from the state store.")
        if found in step:
            return
        if found > self._version:
            raise Fenced(f"Another process has taken over {self._row.noun}.")
        raise Fenced(f"The state store was restored: {self._row.noun} is older than what this process stored last.")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _after(version: int) -> int:
    return max(version + 1, now_micros())


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

    def claim(self, row: ClaimedRow, lock: Lock) -> None:
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
