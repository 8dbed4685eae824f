"""The part of the state store that history is sent with: jobs and the sent-ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from sqlalchemy import Connection

from cdc_tracker.model import Position
from cdc_tracker.state import dead_letters as letters
from cdc_tracker.state import jobs, ledger
from cdc_tracker.state import sent as sent_ledger
from cdc_tracker.state.fence import Step, Unclaimed
from cdc_tracker.state.locks import Lock
from cdc_tracker.state.records import Counts, DeadLetter, Job, JobKind, JobState
from cdc_tracker.storage.database import Database


def record(
    connection: Connection,
    source: str,
    destination: str,
    counts: Counts,
    dead_letters: Sequence[DeadLetter],
    settled: Sequence[int],
    sent: Sequence[bytes],
) -> None:
    """What became of events, whichever way they went: beside the checkpoint, or the job, in one transaction."""
    letters.settle(connection, source, destination, settled)
    letters.park(connection, source, destination, dead_letters)
    ledger.add(connection, source, destination, counts)
    sent_ledger.add(connection, source, destination, sent)


class History:
    """A part of State, which says what holds for every method."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = Unclaimed()
        self._lock: Lock | None = None  # taken through this object

    @contextmanager
    def _stepping(self) -> Iterator[tuple[Connection, Step]]:
        """A transaction of the process that has claimed what it writes, whose own statement compares the version."""
        with self._writer.step() as step, self._database.writing() as connection:
            yield connection, step

    @contextmanager
    def _fenced(self) -> Iterator[Connection]:
        """A transaction of the process that has claimed what it writes. Raises Fenced where another has taken over."""
        with self._stepping() as (connection, step):
            self._writer.compare(connection, step)
            yield connection

    # jobs

    def create_job(
        self,
        source: str,
        destination: str,
        kind: JobKind,
        spec: dict[str, Any],
        *,
        needs: Position | None = None,
        total: int = 0,
    ) -> Job:
        """Queued behind those that the destination has. Wake its deliverer after it."""
        with self._database.writing() as connection:
            return jobs.create(connection, source, destination, kind, spec, needs, total)

    def job(self, job_id: int) -> Job | None:
        with self._database.reading() as connection:
            return jobs.one(connection, job_id)

    def jobs(self, source: str, *, destination: str | None = None, unfinished: bool = False) -> list[Job]:
        """By id, without their segments."""
        with self._database.reading() as connection:
            return jobs.listed(connection, source, destination, unfinished)

    def next_job(self, source: str, destination: str) -> Job | None:
        """The first that is queued or running. One that is paused or has failed holds back none behind it."""
        with self._database.reading() as connection:
            return jobs.following(connection, source, destination)

    def commit_job(
        self,
        job: Job,
        counts: Counts,
        dead_letters: Sequence[DeadLetter] = (),
        settled: Sequence[int] = (),
        sent: Sequence[bytes] = (),
    ) -> JobState:
        """Store how far `job` is, count, park `dead_letters`, remove the `settled` ones, add `sent`, all or nothing.

        Its state is stored where that is running, done or failed, and the job was not paused, cancelled or failed meanwhile:
        what a person has asked for stays. Returns the state that is in force; where it is not `running`, leave the job alone.
        """
        with self._fenced() as connection:
            state = jobs.write(connection, job)
            record(connection, job.source, job.destination, counts, dead_letters, settled, sent)
        return state

    def control_job(self, job_id: int, to: Literal["paused", "queued", "cancelled"]) -> JobState:
        """Pause, resume or cancel. Raises Stop where that does not fit. Wake the deliverer after it.

        Returns the state in force: a running job that is resumed goes on running.
        """
        with self._database.writing() as connection:
            return jobs.control(connection, job_id, to)

    def jobs_need(self, source: str) -> Position | None:
        """The journal must keep what lies after this. None: no unfinished job needs any of it."""
        with self._database.reading() as connection:
            return jobs.need(connection, source)

    # the sent-ledger

    def sent(self, source: str, destination: str, ids: Sequence[bytes]) -> set[bytes]:
        """Those of `ids` (see sent_id) that the ledger holds: they were delivered, whenever that was."""
        with self._database.reading() as connection:
            return sent_ledger.found(connection, source, destination, ids)

    def sent_since(self, source: str, destination: str) -> int | None:
        """Microseconds: what was delivered since then is in the ledger. None: it holds nothing.

        It cannot know of a time in which it was not kept: where the ledger is turned off, trim all of it.
        """
        with self._database.reading() as connection:
            return sent_ledger.since(connection, source, destination)

    def sent_count(self, source: str, destination: str) -> int:
        with self._database.reading() as connection:
            return sent_ledger.count(connection, source, destination)

    def trim_sent(self, source: str, destination: str, before_us: int) -> int:
        """Remove the weeks that ended by then (microseconds). Returns how many ids went.

        In short transactions, so that nobody waits for long. Where it is interrupted, the next one ends it.
        """
        removed = 0
        with self._fenced() as connection:
            weeks = sent_ledger.begin_removal(connection, source, destination, before_us)
        for week in weeks:
            more = True
            while more:
                with self._fenced() as connection:
                    gone, more = sent_ledger.remove_some(connection, week)
                removed += gone
        return removed
