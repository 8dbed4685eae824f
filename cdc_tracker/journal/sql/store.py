"""The journal in SQLite or PostgreSQL: the durable, ordered store of a source's segments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, tuple_
from sqlalchemy.exc import IntegrityError

from cdc_tracker.closing import Closing
from cdc_tracker.errors import Fenced, JournalGone, JournalUnavailable, Stop
from cdc_tracker.journal.base import Horizon, Trimmed, Waiting
from cdc_tracker.journal.segment import decode, encode
from cdc_tracker.journal.sql import migrations, times
from cdc_tracker.journal.sql.notifier import FifoNotifier, Notifier, PostgresNotifier, Waiter
from cdc_tracker.journal.sql.tables import segments as s
from cdc_tracker.model import START, Position, Segment
from cdc_tracker.storage.database import Database, Kind

KIND = Kind(
    noun="the journal",
    unavailable=JournalUnavailable,
    gone=JournalGone,
    version_table="cdc_tracker_journal_version",
    migrations=Path(migrations.__file__).parent,
    revisions=migrations.REVISIONS,
)
COUNTED = 10_000  # segments at most whose changes `waiting` counts
TRIM_SEGMENTS = 200  # per transaction: the writer waits for no more than that
TRIM_BYTES = 32 * 1024 * 1024
VACUUM_PAGES = 2000
ANYWHERE = Position(-1, -1)  # no check of the journal's end

_of_source = s.c.source == bindparam("source")
_last = tuple_(s.c.last_lsn, s.c.last_ordinal)
_given = tuple_(bindparam("lsn"), bindparam("ordinal"))
_without_blob = [column for column in s.c if column.name != "segment"]

_NEWEST = select(*_without_blob).where(_of_source).order_by(s.c.number.desc()).limit(1)
_OLDEST = select(*_without_blob).where(_of_source).order_by(s.c.number).limit(bindparam("limit"))
_READ = (
    select(s.c.id, s.c.segment)
    .where(_of_source, _last > _given)
    .order_by(s.c.last_lsn, s.c.last_ordinal, s.c.number)
    .limit(bindparam("limit"))
)
_AFTER = _READ.with_only_columns(s.c.number, s.c.total, s.c.bytes, s.c.changes, s.c.first_time)
_COMPARED = ("first_lsn", "first_ordinal", "changes", "frames")
_SAME = select(s.c.id).where(_of_source, _last == _given, *(s.c[name] == bindparam(name) for name in _COMPARED))
_LAST_UPTO = (
    select(s.c.number)
    .where(_of_source, _last <= _given)
    .order_by(s.c.last_lsn.desc(), s.c.last_ordinal.desc(), s.c.number.desc())
    .limit(1)
)
_FIRST_FROM = (
    select(s.c.first_lsn, s.c.first_ordinal).where(_of_source, s.c.number >= bindparam("number")).order_by(s.c.number).limit(1)
)
_FIRST_OF = select(s.c.first_lsn, s.c.first_ordinal).where(_of_source, s.c.number == bindparam("number"))
_INSERT = insert(s)
_DELETE = delete(s).where(_of_source, s.c.number <= bindparam("upto"))


class Journal(Closing):
    """One source's segments. One process appends, any number read. Methods are thread-safe.

    Every method raises JournalUnavailable if the store does not answer, and JournalGone if its file was removed or replaced.
    """

    def __init__(self, database: Database, source: str, notifier: Notifier) -> None:
        self._database = database
        self._notifier = notifier
        self.source = source

    @classmethod
    def open(cls, url: str, source: str, wake_dir: Path | None = None) -> Journal:
        """Opens the journal, creates or migrates it if needed. `wake_dir`: for SQLite readers' FIFOs; None: beside the file."""
        return cls._of(Database.open(url, KIND), source, wake_dir)

    @classmethod
    def open_to_read(cls, url: str, source: str, wake_dir: Path | None = None) -> Journal:
        """Opens the journal to read, also on a full disk. Creates or migrates it if necessary."""
        return cls._of(Database.open_to_read(url, KIND), source, wake_dir)

    @classmethod
    def _of(cls, database: Database, source: str, wake_dir: Path | None) -> Journal:
        if not database.is_sqlite:
            return cls(database, source, PostgresNotifier(database, source))
        return cls(database, source, FifoNotifier(wake_dir or Path(f"{database.path}.wake"), source))

    def end(self) -> Position | None:
        """`last` of the newest segment, None if nothing was ever appended: trim always keeps the newest segment."""
        with self._database.reading() as connection:
            newest = self._newest(connection)
        return _last_of(newest) if newest else None

    def newest(self) -> Segment | None:
        """The last segment, None if there is none."""
        end = self.end()
        return self.read(Position(end.commit_lsn, end.ordinal - 1), 1)[0] if end else None

    def append(self, segments: Sequence[Segment], *, after: Position | None = ANYWHERE) -> None:
        """Stores the segments in one transaction, durable on return, and wakes every reader. Raises JournalUnavailable.

        After that error the segments may or may not be stored (a connection can break in the middle of COMMIT): append the same
        ones again, which skips those already stored, or ask end().

        `after`: where the journal must end before (None: it must be empty). Raises Fenced if it ends elsewhere: another process
        appends to it, or its database was restored.
        """
        encoded = [(segment, encode(segment)) for segment in segments]
        if not encoded:
            return
        with self._database.writing() as connection:
            rows = self._rows(connection, encoded, after)
            if rows:
                self._insert(connection, rows)
                times.add(connection, self.source, rows)
                self._notifier.announce(connection)
        self._notifier.committed()

    def _insert(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        try:
            connection.execute(_INSERT, rows)
        except IntegrityError as error:  # another process took the number at the same time
            raise Fenced(f"Another process appends to the journal of {self.source}.") from error

    def _rows(self, connection: Connection, encoded: list[tuple[Segment, bytes]], after: Position | None) -> list[dict[str, Any]]:
        newest = self._newest(connection)
        end = _last_of(newest) if newest else None
        if after != ANYWHERE and end not in (after, encoded[-1][0].last):
            raise Fenced(
                f"The journal of {self.source} ends at {end} instead of {after}: another process appends to it, "
                "or its database was restored."
            )
        number, total = (newest.number, newest.total) if newest else (0, 0)
        rows = []
        for segment, data in encoded:
            if end is not None and segment.last <= end:
                self._pass_over(connection, segment, end)
                continue
            number, total, end = number + 1, total + len(data), segment.last
            rows.append(
                {"source": self.source, "number": number, "total": total, **_row(segment), "bytes": len(data), "segment": data}
            )
        return rows

    def _pass_over(self, connection: Connection, segment: Segment, end: Position) -> None:
        """Skips a segment that has no changes or is already stored. Raises Stop for any other: it would be lost."""
        if not segment.changes:
            return
        row = _row(segment)
        same = {name: row[name] for name in _COMPARED}
        if connection.execute(_SAME, self._place(segment.last) | same).first() is None:
            raise Stop(
                f"A segment up to {segment.last} cannot be appended: the journal of {self.source} already ends at {end}.",
                hint="Two workers may be capturing the same source, or the source was restored to an earlier time.",
            )

    def read(self, after: Position, limit: int) -> list[Segment]:
        """The first `limit` segments whose `last` is past the position, in order. The first can also have earlier changes."""
        with self._database.reading() as connection:
            rows = connection.execute(_READ, self._place(after, limit=limit)).all()
        return [decode(row.segment, f"Segment {row.id} of {self.source} in {self._database.place}") for row in rows]

    def back(self, upto: Position, count: int) -> Position | None:
        """The position after which the last `count` segments begin that end at `upto` or before; None if there are none."""
        with self._database.reading() as connection:
            newest = connection.execute(_LAST_UPTO, self._place(upto)).scalar()
            if newest is None:
                return None
            first = connection.execute(_FIRST_FROM, {"source": self.source, "number": newest - count + 1}).first()
        return Position(*first).before if first else None

    def waiting(self, after: Position) -> Waiting:
        """How much the journal has after the position, in bounded time."""
        with self._database.reading() as connection:
            rows = connection.execute(_AFTER, self._place(after, limit=COUNTED)).all()
            newest = self._newest(connection)
        if not rows or newest is None:
            return Waiting()
        held = newest.total - rows[0].total + rows[0].bytes
        return Waiting(sum(row.changes for row in rows), held, rows[0].first_time, newest.number > rows[-1].number)

    def waiter(self, name: str) -> Waiter:
        """Waits for appends. Create it before the first read, or an append can be missed. The caller closes it."""
        return self._notifier.waiter(name)

    def wake(self, name: str | None = None) -> None:
        """Wakes the readers of this name; None: all."""
        self._notifier.wake(name)

    def horizon(self) -> Horizon | None:
        """The journal's extent, None if nothing was ever appended."""
        with self._database.reading() as connection:
            oldest = connection.execute(_OLDEST, {"source": self.source, "limit": 1}).first()
            newest = self._newest(connection)
        if oldest is None or newest is None:
            return None
        return Horizon(
            first=Position(oldest.first_lsn, oldest.first_ordinal),
            first_time=oldest.first_time,
            last=_last_of(newest),
            last_time=newest.last_time,
            segments=newest.number - oldest.number + 1,
            bytes=newest.total - oldest.total + oldest.bytes,
        )

    def locate(self, time_us: int) -> Position:
        """The position before the first segment that has a transaction committed at or after the time.

        The journal's end if no segment has one. For a time before the horizon it is the horizon's start: compare first.
        """
        with self._database.reading() as connection:
            found = self._before(connection, times.first_reaching(connection, self.source, time_us))
        return found or self.end() or START

    def locate_end(self, time_us: int) -> Position:
        """The position before the last segment that has a transaction committed before the time; START if none has."""
        with self._database.reading() as connection:
            return self._before(connection, times.last_before(connection, self.source, time_us)) or START

    def trim(self, *, age_s: float, size: int, keep_after: Position) -> Trimmed:
        """Deletes the oldest segments while they are older than the age or the journal exceeds the size, in small transactions.

        Never deletes a segment whose `last` is past `keep_after`, the lowest checkpoint, or the newest, which marks the
        journal's end.
        """
        before = time.time_ns() // 1000 - int(age_s * 1_000_000)
        deleted = freed = 0
        while True:
            with self._database.reading() as connection:
                newest = self._newest(connection)
                oldest = connection.execute(_OLDEST, {"source": self.source, "limit": TRIM_SEGMENTS}).all() if newest else []
            if newest is None or not oldest:
                return Trimmed(deleted, freed, blocked=False)
            batch = _trimmable(oldest, newest, before, size, keep_after)
            if not batch:
                held = newest.total - oldest[0].total + oldest[0].bytes
                return Trimmed(deleted, freed, blocked=held > size and _last_of(oldest[0]) > keep_after)
            with self._database.writing() as connection:
                times.remove_oldest(connection, self.source, len(batch), batch[-1].number)
                deleted += connection.execute(_DELETE, {"source": self.source, "upto": batch[-1].number}).rowcount
            freed += sum(row.bytes for row in batch)
            if self._database.is_sqlite:
                self._shrink()

    def clear(self) -> None:
        """Deletes every segment of the source."""
        with self._database.writing() as connection:
            connection.execute(delete(s).where(_of_source), {"source": self.source})
            times.clear(connection, self.source)
        self._shrink()

    def _shrink(self) -> None:
        """Returns SQLite's free pages to the disk, few at a time. PostgreSQL has autovacuum."""
        if not self._database.is_sqlite:
            return
        with self._database.reading() as connection:
            while connection.exec_driver_sql("PRAGMA freelist_count").scalar():
                # Only executescript runs the statement to its end: execute() would free one page.
                driver: Any = connection.connection.driver_connection
                driver.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").all()  # truncates the file

    def close(self) -> None:
        self._database.close()

    def _before(self, connection: Connection, number: int | None) -> Position | None:
        """The position before the segment of this number."""
        if number is None:
            return None
        first = connection.execute(_FIRST_OF, {"source": self.source, "number": number}).one()
        return Position(*first).before

    def _place(self, position: Position, **others: int) -> dict[str, Any]:
        return {"source": self.source, "lsn": position.commit_lsn, "ordinal": position.ordinal, **others}

    def _newest(self, connection: Connection) -> Row[Any] | None:
        return connection.execute(_NEWEST, {"source": self.source}).first()


def _trimmable(oldest: Sequence[Row[Any]], newest: Row[Any], before: int, size: int, keep_after: Position) -> list[Row[Any]]:
    batch: list[Row[Any]] = []
    held = 0
    for row in oldest:
        too_many = newest.total - row.total + row.bytes > size
        too_old = row.last_time < before
        held += row.bytes
        if row.number == newest.number or _last_of(row) > keep_after or not (too_many or too_old):
            break
        if batch and held > TRIM_BYTES:
            break
        batch.append(row)
    return batch


def _row(segment: Segment) -> dict[str, Any]:
    return {
        "first_lsn": segment.first.commit_lsn,
        "first_ordinal": segment.first.ordinal,
        "last_lsn": segment.last.commit_lsn,
        "last_ordinal": segment.last.ordinal,
        "first_time": segment.first_time,
        "last_time": segment.last_time,
        "frames": segment.count,
        "changes": segment.changes,
    }


def _last_of(row: Row[Any]) -> Position:
    return Position(row.last_lsn, row.last_ordinal)
