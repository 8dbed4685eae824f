"""The state store: sources, checkpoints, dead letters, the ledger, roles and locks; jobs and the sent-ledger from history.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import delete

from cdc_tracker.errors import StateMissing, StateUnavailable
from cdc_tracker.model import Lsn, Position, Rejection
from cdc_tracker.state import checkpoints, in_hand, jobs, ledger, locks, migrations, roles, sources, tables
from cdc_tracker.state import dead_letters as letters
from cdc_tracker.state import sent as sent_ledger
from cdc_tracker.state.dead_letters import Selection
from cdc_tracker.state.fence import Fence
from cdc_tracker.state.history import History, record
from cdc_tracker.state.records import (
    Checkpoint,
    Counts,
    DeadLetter,
    InHand,
    LedgerRow,
    LetterState,
    RoleRecord,
    SourceRecord,
    Totals,
)
from cdc_tracker.storage.database import Database, Kind

KIND = Kind(
    noun="the state store",
    unavailable=StateUnavailable,
    gone=StateMissing,
    version_table="cdc_tracker_state_version",
    migrations=Path(migrations.__file__).parent,
    revisions=migrations.REVISIONS,
    unused=locks.all_free,
)


class State(History):
    """Every method is one transaction, durable on return, and raises StateUnavailable where the store cannot be used.

    Several processes share a store. Methods may be called from any thread. After `claim`, those by which a role stores its work
    raise Fenced where another process has taken over, or the store was taken back; what a person asks for needs no claim.
    """

    @classmethod
    def open(cls, url: str) -> State:
        """Created and migrated where needed."""
        return cls(Database.open(url, KIND))

    @classmethod
    def open_to_read(cls, url: str) -> State:
        """For reading, also where the disk is full. What is missing or of an older version is created and migrated."""
        return cls(Database.open_to_read(url, KIND))

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> State:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # who writes

    def lock(self, name: str, wait: float = 0, *, grace: float = 0, stop: Callable[[], bool] = lambda: False) -> locks.Lock:
        """A context manager. Entering raises AlreadyRunning, naming the holder, where it is not free within `wait` seconds.

        `grace`: seconds for which it must have been free. A server that restarts frees all locks, and who had one takes it again.
        """
        self._lock = locks.make(self._database, name, wait, grace, stop)
        return self._lock

    def claim(self, lock: locks.Lock, source: str, destination: str | None = None) -> None:
        """From now on only this object stores a delivery's work; without a destination, capture's. It holds the lock for that.

        What another process began before is refused at its next commit. Read what is stored after this, not before.
        """
        row = sources.claimed(source) if destination is None else checkpoints.claimed(source, destination)
        with self._database.writing() as connection:
            fence = Fence(row, lock, connection)
        self._writer = fence

    # sources

    def source(self, name: str) -> SourceRecord | None:
        with self._database.reading() as connection:
            return sources.get(connection, name)

    def save_source(self, record: SourceRecord) -> None:
        """Inserted, or replaced as a whole."""
        with self._stepping() as (connection, step):
            self._writer.compare(connection, step)
            sources.save(connection, record, step)

    def confirm(self, name: str, lsn: Lsn, journaled: Lsn) -> None:
        """To be called before the feedback that confirms `lsn` goes out; `journaled` is the journal's end. Never lowers `lsn`."""
        with self._stepping() as (connection, step):
            if not sources.confirm(connection, name, lsn, journaled, step):
                self._writer.compare(connection, step)

    def forget(self, name: str) -> None:
        """Remove everything about a source: the record, checkpoints, dead letters, counts, jobs, what was sent, roles."""
        with self._database.writing() as connection:
            for table in (tables.checkpoints, tables.dead_letters, tables.ledger, tables.totals, tables.roles):
                connection.execute(delete(table).where(table.c.source == name))
            jobs.forget(connection, name)
            sent_ledger.forget(connection, name)
            in_hand.forget(connection, name)
            sources.forget(connection, name)

    # checkpoints

    def drop_checkpoints(self, source: str) -> None:
        """For a source that begins anew, where positions of before mean nothing. Counts and dead letters stay; jobs fail."""
        with self._database.writing() as connection:
            connection.execute(delete(tables.checkpoints).where(tables.checkpoints.c.source == source))
            jobs.end_all(connection, source)

    def checkpoint(self, source: str, destination: str) -> Checkpoint | None:
        with self._database.reading() as connection:
            return checkpoints.get(connection, source, destination)

    def checkpoints(self, source: str) -> dict[str, Checkpoint]:
        """By destination."""
        with self._database.reading() as connection:
            return checkpoints.every(connection, source)

    def create_checkpoint(self, source: str, destination: str, position: Position) -> None:
        """Leaves one that exists as it is."""
        with self._database.writing() as connection:
            checkpoints.create(connection, source, destination, position)

    def commit(
        self,
        source: str,
        destination: str,
        position: Position,
        counts: Counts,
        dead_letters: Sequence[DeadLetter] = (),
        settled: Sequence[int] = (),
        sent: Sequence[bytes] = (),
    ) -> Position | None:
        """Advance the checkpoint, count, park `dead_letters`, remove the `settled` ones and add `sent`, all or nothing.

        Raises Stop where the checkpoint would go back. Returns the target of a rewind that waits to be applied, or None.
        """
        with self._stepping() as (connection, step):
            target = checkpoints.advance(connection, source, destination, position, self._writer, step)
            record(connection, source, destination, counts, dead_letters, settled, sent)
        return target

    def request_rewind(self, source: str, destination: str, to: Position, *, only_missing: bool = False) -> None:
        """The deliverer learns of it by its next commit or checkpoint(). Raises Stop where `to` lies ahead.

        `only_missing` is in force from when it is applied until the checkpoint has come to `high` again.
        """
        with self._database.writing() as connection:
            checkpoints.request_rewind(connection, source, destination, to, only_missing)

    def apply_rewind(self, source: str, destination: str) -> Position:
        """Go back to where the rewind that was asked for leads. Where none was, the position as it is."""
        with self._fenced() as connection:
            return checkpoints.apply_rewind(connection, source, destination)

    # dead letters

    def dead_letters(
        self,
        source: str,
        *,
        destination: str | None = None,
        state: LetterState | None = None,
        mapping: str | None = None,
        reason: str | None = None,
        limit: int = 100,
        after_id: int = 0,
    ) -> list[DeadLetter]:
        """One page, by id, without the segments. The next one begins after the last id."""
        wanted = Selection(None, destination, mapping, reason)
        with self._database.reading() as connection:
            return letters.listed(connection, source, state, wanted, limit, after_id)

    def dead_letters_between(self, source: str, destination: str, first: Position, last: Position) -> list[DeadLetter]:
        """Those of the changes from `first` to `last`, both included, without their segments."""
        with self._database.reading() as connection:
            return letters.between(connection, source, destination, first, last)

    def dead_letter(self, letter_id: int) -> DeadLetter | None:
        with self._database.reading() as connection:
            return letters.one(connection, letter_id)

    def queued(self, source: str, destination: str, limit: int, size: int = 1 << 40) -> list[DeadLetter]:
        """Those to be sent again, oldest first, with their segments: the first in any case, more within `size` bytes of those."""
        with self._database.reading() as connection:
            return letters.queued(connection, source, destination, limit, size)

    def finish_retry(
        self,
        source: str,
        destination: str,
        outcomes: Mapping[int, Sequence[str]],
        again: Mapping[int, Rejection],
        sent: Mapping[int, bytes],
    ) -> None:
        """Queued dead letters were sent again: by id, what the ledger counts them as, or why they are parked again.

        `sent`: ids for the sent-ledger. Nothing of theirs is in hand any more. The same once more changes nothing. One that is
        discarded by now and was rejected stays as it is.
        """
        with self._fenced() as connection:
            found = letters.finish(connection, source, destination, outcomes, again)
            sent_ledger.add(connection, source, destination, [one for letter, one in sent.items() if letter in found])
            in_hand.save_letters(connection, source, destination, [])

    # what a delivery is about to do

    def in_hand(self, source: str, destination: str) -> InHand:
        with self._database.reading() as connection:
            return in_hand.get(connection, source, destination)

    def letters_in_hand(self, ids: Sequence[int]) -> list[DeadLetter]:
        """Those of them that are queued still, with their segments."""
        with self._database.reading() as connection:
            return letters.still_queued(connection, ids)

    def take_letters(self, source: str, destination: str, ids: Sequence[int]) -> None:
        """They are about to be sent again, together."""
        with self._fenced() as connection:
            in_hand.save_letters(connection, source, destination, ids)

    def take_mappings(self, source: str, destination: str, texts: Mapping[str, str]) -> None:
        """Events are about to be sent that these made; what went before is committed."""
        with self._fenced() as connection:
            in_hand.save_mappings(connection, source, destination, texts)

    # dead letters, as a person handles them

    def queue_dead_letters(self, source: str, wanted: Selection) -> int:
        """Parked ones, and discarded ones that are named by id, are to be sent again. Wake the deliverer after it."""
        moved = self._move(source, wanted, "parked", "queued")
        return moved + (self._move(source, wanted, "discarded", "queued") if wanted.ids is not None else 0)

    def discard_dead_letters(self, source: str, wanted: Selection) -> int:
        """They stay readable, and stay counted as rejected."""
        return self._move(source, wanted, "parked", "discarded") + self._move(source, wanted, "queued", "discarded")

    def count_dead_letters(self, source: str) -> dict[tuple[str, str], int]:
        """(destination, reason) → how many, without the discarded."""
        with self._database.reading() as connection:
            return letters.count(connection, source)

    def _move(self, source: str, wanted: Selection, origin: LetterState, target: LetterState) -> int:
        """In short transactions, so that no deliverer waits for long."""
        moved = after = 0
        while True:
            with self._database.writing() as connection:
                changed, after = letters.move(connection, source, wanted, origin, target, after)
            if not after:
                return moved
            moved += changed

    # the ledger

    def ledger(
        self, source: str, destination: str | None = None, mapping: str | None = None, since_hour: int | None = None
    ) -> list[LedgerRow]:
        """By hour, destination, mapping."""
        with self._database.reading() as connection:
            return ledger.rows_of(connection, source, destination, mapping, since_hour)

    def totals(self, source: str) -> dict[str, Totals]:
        """By destination, without reading the ledger."""
        with self._database.reading() as connection:
            return ledger.totals_of(connection, source)

    def delivered_since(self, source: str, hour: int) -> dict[str, int]:
        """By destination: events of changes committed in that hour (since the Unix epoch) and later that were delivered."""
        with self._database.reading() as connection:
            return ledger.delivered_since(connection, source, hour)

    # roles

    def report(self, source: str, role: str, pid: int, state: str, detail: Mapping[str, Any]) -> None:
        """What a role says of itself; replaces what it said before. One that was fenced has nothing to say any more."""
        if self._writer.lost or (self._lock is not None and self._lock.lost is not None):
            return
        with self._database.writing() as connection:
            roles.report(connection, source, role, pid, state, detail)

    def roles(self, source: str) -> list[RoleRecord]:
        with self._database.reading() as connection:
            return roles.every(connection, source)
