"""Dead letters, on a connection in a transaction that the caller owns. What they do to the ledger is in ledger.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, func, literal, select, text, tuple_, update

from cdc_tracker.model import Position, Rejection
from cdc_tracker.state import ledger
from cdc_tracker.state.checkpoints import now
from cdc_tracker.state.records import HOUR, DeadLetter, LetterState
from cdc_tracker.state.tables import dead_letters as t

CHUNK = 500  # rows that one statement names, and that one transaction changes

_GIVEN = (
    *("source", "destination", "mapping", "lsn", "ordinal", "reason", "field", "value_type", "detail", "event_id", "segment"),
    *("state", "attempts", "counted", "committed_at", "created_at"),
)
_UPDATED = ("reason", "field", "value_type", "detail", "event_id", "segment", "committed_at")
# Met again on a replay. One that is queued is about to be sent anyway; one that was discarded has been rejected anew.
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
    """Which dead letters of a source: all where nothing is given."""

    ids: Sequence[int] | None = None
    destination: str | None = None
    mapping: str | None = None
    reason: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        names = ("destination", "mapping", "reason")
        given = [t.c[name] == getattr(self, name) for name in names if getattr(self, name) is not None]
        return given if self.ids is None else [t.c.id.in_(self.ids), *given]


def park(connection: Connection, source: str, destination: str, letters: Sequence[DeadLetter]) -> None:
    if letters:
        connection.execute(_PARK, [_row(source, destination, letter) for letter in letters])


def settle(connection: Connection, source: str, destination: str, ids: Sequence[int]) -> None:
    """Remove them: their events were dealt with. One that was not queued (any more) leaves the ledger's rejected, too."""
    for chunk in _chunks(list(ids)):
        gone = connection.execute(_SETTLE, {"ids": chunk, "source": source, "destination": destination}).all()
        _count_rejected(connection, [row for row in gone if row.state != "queued"], -1)


def listed(
    connection: Connection, source: str, state: LetterState | None, wanted: Selection, limit: int, after: int
) -> list[DeadLetter]:
    query = select(*_without_segment).where(t.c.source == source, t.c.id > after, *wanted.conditions())
    if state is not None:
        query = query.where(t.c.state == state)
    return [_letter(row) for row in connection.execute(query.order_by(t.c.id).limit(limit))]


def between(connection: Connection, source: str, destination: str, first: Position, last: Position) -> list[DeadLetter]:
    place = tuple_(t.c.lsn, t.c.ordinal)
    query = select(*_without_segment).where(
        t.c.source == source, t.c.destination == destination, place >= tuple_(*first), place <= tuple_(*last)
    )
    return [_letter(row) for row in connection.execute(query.order_by(t.c.id))]


def one(connection: Connection, letter_id: int) -> DeadLetter | None:
    row = connection.execute(select(t).where(t.c.id == letter_id)).first()
    return _letter(row) if row else None


def queued(connection: Connection, source: str, destination: str, limit: int, size: int) -> list[DeadLetter]:
    """As many as have `size` bytes of segments together, and the first in any case."""
    place = {"source": source, "destination": destination, "limit": limit}
    sizes = connection.execute(_SIZES, place).all()
    within = sum(total <= size for total in accumulate(length for _, length in sizes))
    return [_letter(row) for row in connection.execute(_QUEUED, place | {"limit": max(within, 1)})] if sizes else []


def still_queued(connection: Connection, ids: Sequence[int]) -> list[DeadLetter]:
    """Those of them, by id."""
    rows: list[Row[Any]] = []
    for chunk in _chunks(list(ids)):
        rows += connection.execute(select(t).where(t.c.id.in_(chunk), t.c.state == "queued").order_by(t.c.id)).all()
    return [_letter(row) for row in rows]


def count(connection: Connection, source: str) -> dict[tuple[str, str], int]:
    return {(destination, reason): n for destination, reason, n in connection.execute(_COUNT, {"source": source})}


def move(
    connection: Connection, source: str, wanted: Selection, origin: LetterState, target: LetterState, after: int
) -> tuple[int, int]:
    """Change the state of the next CHUNK of the wanted ones. Returns how many, and the highest id (0: there are no more)."""
    picked = (
        select(t.c.id).where(t.c.source == source, t.c.state == origin, t.c.id > after, *wanted.conditions()).order_by(t.c.id)
    )
    ids = connection.execute(picked.limit(CHUNK)).scalars().all()
    if not ids:
        return 0, 0
    changed = update(t).where(t.c.id.in_(ids), t.c.state == origin).values(state=target)
    rows = connection.execute(changed.returning(*_counting)).all()
    change = _effect(origin, target)
    if change:
        _count_rejected(connection, rows, change, moved=True)
    return len(rows), ids[-1]


def finish(
    connection: Connection,
    source: str,
    destination: str,
    outcomes: Mapping[int, Sequence[str]],
    again: Mapping[int, Rejection],
) -> set[int]:
    """Letters that were sent again: remove those with outcomes, park those that were rejected. Returns which were there.

    What is counted is what is found, so that the same once more changes nothing.
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
    """An event's id may have a zero character, which PostgreSQL does not keep."""
    return value.replace("\0", "\\0") if isinstance(value, str) else value


def _effect(origin: LetterState, target: LetterState) -> int:
    """On the ledger's count of rejected ones, which leaves out those that are queued."""
    return (target != "queued") - (origin != "queued")


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
        "created_at": now(),
        **{name: _storable(getattr(letter, name)) for name in same},
    }


_same_named = [field.name for field in fields(DeadLetter) if field.name != "position"]


def _letter(row: Row[Any]) -> DeadLetter:
    found = row._mapping
    return DeadLetter(position=Position(row.lsn, row.ordinal), **{name: found[name] for name in _same_named})
