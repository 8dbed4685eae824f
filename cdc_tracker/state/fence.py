"""Fencing: a row that one process writes has a version, and every commit names the version that it follows.

Taking the row over gives it another version, as every commit does. So a process that lost its lock without noticing (it was
paused, its session was ended) cannot commit any more, nor can one whose store was taken back to an earlier time and lacks what
that process believes to be stored. Versions only grow, and are the microsecond of their making or later: two that were made from
the same older one, before and after a restore, still differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Connection, Table, bindparam, or_, select, update

from cdc_tracker.errors import Fenced, StateMissing
from cdc_tracker.state.locks import Lock
from cdc_tracker.times import now_micros

_known = bindparam("known_version", type_=BigInteger)
_next = bindparam("next_version", type_=BigInteger)


class Step(NamedTuple):
    """From one version to the next: parameters of a statement. `known` is None where the writer has claimed nothing."""

    known_version: int | None
    next_version: int


class Row(NamedTuple):
    """A row that is claimed. `noun`: for a person, `the checkpoint of mixpanel`."""

    noun: str
    table: Table
    key: dict[str, Any]

    def version(self, connection: Connection) -> int | None:
        found: int | None = connection.execute(select(self.table.c.version).where(*self._here)).scalar()
        return found

    def move(self, connection: Connection, step: Step) -> bool:
        """Whether it had the version that the step is from."""
        moved = update(self.table).where(*self._here, follows(self.table)).values(version=_next)
        return bool(connection.execute(moved, step._asdict()).rowcount)

    @property
    def _here(self) -> list[ColumnElement[bool]]:
        return [self.table.c[name] == value for name, value in self.key.items()]


def follows(table: Table) -> ColumnElement[bool]:
    """The row has the version that the step is from. Or the one that it leads to: a commit arrived whose answer was lost."""
    return or_(_known.is_(None), table.c.version.in_([_known, _next]))


def leads() -> Any:
    """The row's new version."""
    return _next


class Unclaimed:
    """What a State writes through that has claimed nothing: a command's, which asks for something and stores no work."""

    lost = False

    @contextmanager
    def step(self) -> Iterator[Step]:
        """For one transaction, committed at the end."""
        yield Step(None, _after(0))

    def compare(self, connection: Connection, step: Step) -> None:
        """For a transaction that does not move the row by itself."""

    def refuse(self, connection: Connection, step: Step) -> None:
        """After a statement that changed nothing: raises Fenced where the row's version is the reason."""


class Fence(Unclaimed):
    """That of a process which has claimed the row. Its methods raise Fenced where it cannot go on from what it knows."""

    def __init__(self, row: Row, lock: Lock, connection: Connection) -> None:
        """Whoever wrote the row before cannot any more, once this is committed."""
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
        """After a failure the next one leads to the same version: it is open whether the commit took place."""
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
            raise Fenced(f"Somebody has removed {self._row.noun}.")
        if found in step:
            return
        if found > self._version:
            raise Fenced(f"Another process has taken over {self._row.noun}.")
        raise Fenced(f"The state store was taken back: {self._row.noun} is older than what was stored last.")


def _after(version: int) -> int:
    return max(version + 1, now_micros())
