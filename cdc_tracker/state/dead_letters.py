"""Dead letters: parked rejections. Each change of their state keeps the ledger's count of rejected events right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, delete, func, literal, select, text, tuple_, update

from cdc_tracker.model import Position, Rejection
from cdc_tracker.state import in_hand, ledger, sent_ids
from cdc_tracker.state.records import HOUR, DeadLetter, LetterState
from cdc_tracker.state.tables import dead_letters as t
from cdc_tracker.state.transactions import Aggregate
from cdc_tracker.times import now_micros

CHUNK = 500  # rows that one statement names, and that one transaction changes

_GIVEN = (
    *("source", "destination", "mapping", "lsn", "ordinal", "reason", "field", "value_type", "detail", "event_id", "segment"),
    *("state", "attempts", "counted", "committed_at", "created_at"),
)
_UPDATED = ("reason", "field", "value_type", "detail", "event_id", "segment", "committed_at")
# Conflict: rejected again on a replay. A queued one is about to be sent anyway; a discarded one is parked again.
_PARK = text(
    f"INSERT INTO cdc_tracker_dead_letter ({', '.join(_GIVEN)}) VALUES ({', '.join(f':{name}' for name in _GIVEN)}) "
    "ON CONFLICT (source, destination, mapping, lsn, ordinal) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _UPDATED)
    + ", state = CASE WHEN cdc_tracker_dead_letter.state = 'queued' THEN 'queued' ELSE 'parked' END"
    + ", counted = cdc_tracker_dead_letter.counted OR excluded.counted"
)
_counting = (t.c.source, t.c.destination, t.c.mapping, t.c.committed_at, t.c.counted)
_SETTLE = (
    delete(t)
    .where(t.c.id.in_(bindparam("ids", expanding=True)), t.c.source == bindparam("source"))
    .where(t.c.destination == bindparam("destination"))
    .returning(*_counting, t.c.state, t.c.id)
)
_COUNT = (
    select(t.c.destination, t.c.reason, func.count())
    .where(t.c.source == bindparam("source"), t.c.state.in_(["parked", "queued"]))
    .group_by(t.c.destination, t.c.reason)
)
_QUEUED = (
    select(t)
    .where(t.c.source == bindparam("source"), t.c.destination == bindparam("destination"), t.c.state == "queued")
    .order_by(t.c.id)
    .limit(bindparam("limit"))
)
_SIZES = _QUEUED.with_only_columns(t.c.id, func.length(t.c.segment))
_REPARKED = ("reason", "field", "value_type", "detail", "event_id")
_REPARK = (
    update(t)
    .where(t.c.id == bindparam("of_id"))
    .values(state="parked", attempts=t.c.attempts + 1, **{name: bindparam(f"new_{name}") for name in _REPARKED})
)
_without_segment = [column if column.name != "segment" else literal(b"").label("segment") for column in t.c]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters of a source: all by default."""

    ids: Sequence[int] | None = None
    destination: str | None = None
    mapping: str | None = None
    reason: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL conditions."""
        names = ("destination", "mapping", "reason")
        given = [t.c[name] == getattr(self, name) for name in names if getattr(self, name) is not None]
        return given if self.ids is None else [t.c.id.in_(self.ids), *given]


class DeadLetters(Aggregate):
    """Parked rejections, and what retries and users make of them."""

    def page(
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
        """Up to `limit` of them by id, without segments. The next page begins after the last id."""
        wanted = Selection(None, destination, mapping, reason).conditions()
        query = select(*_without_segment).where(t.c.source == source, t.c.id > after_id, *wanted)
        if state is not None:
            query = query.where(t.c.state == state)
        return self._read(query.order_by(t.c.id).limit(limit))

    def between(self, source: str, destination: str, first: Position, last: Position) -> list[DeadLetter]:
        """Returns the letters of changes from `first` to `last`, both included, without segments."""
        place = tuple_(t.c.lsn, t.c.ordinal)
        query = select(*_without_segment).where(
            t.c.source == source, t.c.destination == destination, place >= tuple_(*first), place <= tuple_(*last)
        )
        return self._read(query.order_by(t.c.id))

    def get(self, letter_id: int) -> DeadLetter | None:
        """The dead letter with its segment; None if there is none."""
        return next(iter(self._read(select(t).where(t.c.id == letter_id))), None)

    def queued(self, source: str, destination: str, limit: int, size: int = 1 << 40) -> list[DeadLetter]:
        """Returns letters to send again, oldest first, with segments: the first, then as many as fit `size` bytes of segments."""
        place = {"source": source, "destination": destination, "limit": limit}
        with self._transactions.reading() as connection:
            sizes = connection.execute(_SIZES, place).all()
            within = sum(total <= size for total in accumulate(length for _, length in sizes))
            rows = connection.execute(_QUEUED, place | {"limit": max(within, 1)}).all() if sizes else []
        return [_letter(row) for row in rows]

    def still_queued(self, ids: Sequence[int]) -> list[DeadLetter]:
        """The queued ones among these ids, with segments."""
        return [
            letter
            for chunk in _chunks(list(ids))
            for letter in self._read(select(t).where(t.c.id.in_(chunk), t.c.state == "queued").order_by(t.c.id))
        ]

    def count(self, source: str) -> dict[tuple[str, str], int]:
        """(destination, reason) → how many, without the discarded."""
        with self._transactions.reading() as connection:
            return {(destination, reason): n for destination, reason, n in connection.execute(_COUNT, {"source": source})}

    def _read(self, query: Select[Any]) -> list[DeadLetter]:
        with self._transactions.reading() as connection:
            return [_letter(row) for row in connection.execute(query)]

    def finish_retry(
        self,
        source: str,
        destination: str,
        outcomes: Mapping[int, Sequence[str]],
        again: Mapping[int, Rejection],
        sent: Mapping[int, bytes],
    ) -> None:
        """Stores what became of dead letters that were sent again, by id: ledger outcomes, or why they are parked again.

        `sent`: ids for the sent-ledger. Nothing of theirs is in hand afterwards. Idempotent. One that was discarded meanwhile and
        was rejected again stays discarded.
        """
        with self._transactions.fenced() as connection:
            found = _finish(connection, source, destination, outcomes, again)
            sent_ids.add(connection, source, destination, [one for letter, one in sent.items() if letter in found])
            in_hand.save_letters(connection, source, destination, [])

    def queue(self, source: str, wanted: Selection) -> int:
        """Marks parked ones, and discarded ones given by id, to be sent again. Returns how many. Wake the delivery afterwards."""
        moved = self._move(source, wanted, "parked", "queued")
        return moved + (self._move(source, wanted, "discarded", "queued") if wanted.ids is not None else 0)

    def discard(self, source: str, wanted: Selection) -> int:
        """Marks parked and queued ones as discarded: they stay readable and counted as rejected. Returns how many."""
        return self._move(source, wanted, "parked", "discarded") + self._move(source, wanted, "queued", "discarded")

    def _move(self, source: str, wanted: Selection, origin: LetterState, target: LetterState) -> int:
        """Works in transactions of up to CHUNK rows, so that no delivery waits for long."""
        moved, after = 0, 0
        change = (target != "queued") - (origin != "queued")  # of the ledger's rejected, which leaves out queued ones
        where = (t.c.source == source, t.c.state == origin, *wanted.conditions())
        while True:
            with self._transactions.writing() as connection:
                picked = select(t.c.id).where(*where, t.c.id > after).order_by(t.c.id).limit(CHUNK)
                ids = connection.execute(picked).scalars().all()
                if not ids:
                    return moved
                changed = update(t).where(t.c.id.in_(ids), t.c.state == origin).values(state=target)
                rows = connection.execute(changed.returning(*_counting)).all()
                if change:
                    _count_rejected(connection, rows, change, moved=True)
            moved, after = moved + len(rows), ids[-1]


def park(connection: Connection, source: str, destination: str, letters: Sequence[DeadLetter]) -> None:
    """Insert dead letters, or replace those of the same mapping and position."""
    if letters:
        connection.execute(_PARK, [_row(source, destination, letter) for letter in letters])


def settle(connection: Connection, source: str, destination: str, ids: Sequence[int]) -> None:
    """Removes dead letters whose events were dealt with. One that is not queued leaves the ledger's count of rejected, too."""
    for chunk in _chunks(list(ids)):
        gone = connection.execute(_SETTLE, {"ids": chunk, "source": source, "destination": destination}).all()
        _count_rejected(connection, [row for row in gone if row.state != "queued"], -1)


def _finish(
    connection: Connection, source: str, destination: str, outcomes: Mapping[int, Sequence[str]], again: Mapping[int, Rejection]
) -> set[int]:
    """Removes those with outcomes, parks those that were rejected again. Returns the ids that were found.

    Only found ones are counted, which makes a second call with the same arguments change nothing.
    """
    found: set[int] = set()
    counts: Counter[tuple[int, str, str]] = Counter()
    for ids in _chunks(list(outcomes)):
        gone = connection.execute(_SETTLE, {"ids": ids, "source": source, "destination": destination}).all()
        found |= {row.id for row in gone}
        counts.update(
            (row.committed_at // HOUR, row.mapping, outcome) for row in gone if row.counted for outcome in outcomes[row.id]
        )
        _count_rejected(connection, [row for row in gone if row.state != "queued"], -1)
    for ids in _chunks(list(again)):
        there = select(t.c.id, t.c.event_id, *_counting).where(t.c.id.in_(ids), t.c.state == "queued").with_for_update()
        rows = connection.execute(there).all()
        found |= {row.id for row in rows}
        if rows:
            connection.execute(_REPARK, [_reparked(row, again[row.id]) for row in rows])
        _count_rejected(connection, rows, 1)
    ledger.add(connection, source, destination, counts)
    return found


def _chunks(ids: list[int]) -> Iterator[list[int]]:
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))


def _reparked(row: Any, rejection: Rejection) -> dict[str, Any]:
    given = {name: getattr(rejection, name) for name in _REPARKED} | {"event_id": rejection.event_id or row.event_id}
    return {"of_id": row.id, **{f"new_{name}": _storable(value) for name, value in given.items()}}


def _storable(value: Any) -> Any:
    """An event id may contain a zero character, which PostgreSQL cannot store."""
    return value.replace("\0", "\\0") if isinstance(value, str) else value


def _count_rejected(connection: Connection, rows: Sequence[Any], change: int, *, moved: bool = False) -> None:
    by_place: dict[tuple[str, str], Counter[tuple[int, str, str]]] = {}
    for row in rows:
        if row.counted:
            counts = by_place.setdefault((row.source, row.destination), Counter())
            counts[row.committed_at // HOUR, row.mapping, "rejected"] += change
    for source, destination in sorted(by_place):
        ledger.add(connection, source, destination, by_place[source, destination], moved=moved)


def _row(source: str, destination: str, letter: DeadLetter) -> dict[str, Any]:
    same = ("mapping", "reason", "field", "value_type", "detail", "event_id", "segment", "counted", "committed_at")
    return {
        "source": source,
        "destination": destination,
        "lsn": letter.position.commit_lsn,
        "ordinal": letter.position.ordinal,
        "state": "parked",
        "attempts": 0,
        "created_at": now_micros(),
        **{name: _storable(getattr(letter, name)) for name in same},
    }


_same_named = [field.name for field in fields(DeadLetter) if field.name != "position"]


def _letter(row: Row[Any]) -> DeadLetter:
    found = row._mapping
    return DeadLetter(position=Position(row.lsn, row.ordinal), **{name: found[name] for name in _same_named})
