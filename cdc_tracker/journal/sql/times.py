"""Finds segments by commit time, on a connection that the caller owns. Times are microseconds since the Unix epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select

from cdc_tracker.journal.sql.tables import times as t

_OF_SEGMENT = ("source", "number", "first_time", "last_time")

_of_source = t.c.source == bindparam("of_source")
_LATEST = select(t.c.reached, t.c.setback).where(_of_source).order_by(t.c.reached.desc(), t.c.number.desc()).limit(1)
_FROM = (
    select(t.c.number)
    .where(_of_source, t.c.reached >= bindparam("time"), t.c.last_time >= bindparam("time"))
    .order_by(t.c.reached, t.c.number)
    .limit(1)
)
_BEFORE = (
    select(t.c.number)
    .where(_of_source, t.c.reached < bindparam("bound"), t.c.first_time < bindparam("time"))
    .order_by(t.c.reached.desc(), t.c.number.desc())
    .limit(1)
)
_INSERT = insert(t)
_NTH = select(t.c.reached).where(_of_source).order_by(t.c.reached, t.c.number).offset(bindparam("offset")).limit(1)
_DELETE = delete(t).where(_of_source, t.c.reached <= bindparam("upto_reached"), t.c.number <= bindparam("upto_number"))
_CLEAR = delete(t).where(_of_source)


def add(connection: Connection, source: str, segments: Sequence[dict[str, Any]]) -> None:
    """Inserts the rows of new segments, in order."""
    latest = connection.execute(_LATEST, {"of_source": source}).first()
    reached, setback = latest if latest else (segments[0]["last_time"], 0)
    rows = []
    for segment in segments:
        reached = max(reached, segment["last_time"])
        setback = max(setback, reached - segment["first_time"])
        rows.append({name: segment[name] for name in _OF_SEGMENT} | {"reached": reached, "setback": setback})
    connection.execute(_INSERT, rows)


def first_reaching(connection: Connection, source: str, time_us: int) -> int | None:
    """The number of the first segment with a commit at or after the time."""
    number: int | None = connection.execute(_FROM, {"of_source": source, "time": time_us}).scalar()
    return number


def last_before(connection: Connection, source: str, time_us: int) -> int | None:
    """The number of the last segment with a commit before the time.

    Commit times are not in order. `reached` is the latest commit time up to a segment, `setback` the most that a commit was
    behind it: the segment sought has reached less than the time plus the setback.
    """
    latest = connection.execute(_LATEST, {"of_source": source}).first()
    if latest is None:
        return None
    place = {"of_source": source, "time": time_us, "bound": time_us + latest.setback}
    number: int | None = connection.execute(_BEFORE, place).scalar()
    return number


def remove_oldest(connection: Connection, source: str, count: int, upto: int) -> None:
    """Deletes the rows of the `count` oldest segments, the last of which has the number `upto`."""
    reached = connection.execute(_NTH, {"of_source": source, "offset": count - 1}).scalar()
    connection.execute(_DELETE, {"of_source": source, "upto_reached": reached, "upto_number": upto})


def clear(connection: Connection, source: str) -> None:
    """Deletes the rows of every segment of the source."""
    connection.execute(_CLEAR, {"of_source": source})
