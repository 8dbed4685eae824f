"""The SQL destination's databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import psycopg

from tests.postgres import fresh_database
from tests.vendors.kit import Kit, OpenKit, Place, decoded, made

_POSTGRESQL_HELD = """
    SELECT message_id, type, event, user_id, anonymous_id, group_id, previous_id, properties::text, traits::text, context::text,
           to_char(timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM tracks ORDER BY timestamp"""
_SQLITE_HELD = """
    SELECT message_id, type, event, user_id, anonymous_id, group_id, previous_id, properties, traits, context, timestamp
    FROM tracks ORDER BY timestamp"""


@contextmanager
def _sqlite(place: Place, typed: bool) -> Iterator[Kit]:
    def rows() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(place.folder / "events.db")) as connection:
            return connection.execute(_SQLITE_HELD).fetchall()

    file = place.folder / "events.db"

    def remove() -> None:
        for each in place.folder.glob("events.db*"):
            each.unlink()

    def keep() -> Callable[[], None]:
        backup = place.folder / "backup"
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)

        def bring_back() -> None:
            remove()
            backup.rename(file)

        return bring_back

    yield replace(_kit(place, "sqlite:///events.db", rows, typed), keep=keep, remove=remove)


@contextmanager
def _postgresql(place: Place, typed: bool) -> Iterator[Kit]:
    with fresh_database(place.postgres.get("pg18")) as database:

        def rows() -> list[tuple[Any, ...]]:
            with psycopg.connect(database.url) as connection:
                return connection.execute(_POSTGRESQL_HELD).fetchall()

        def run(statement: str) -> list[str]:
            with psycopg.connect(database.url, autocommit=True) as connection:
                found = connection.execute(statement)
                return [row[0] for row in found] if found.description else []

        listed = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        made = _kit(place, database.url, rows, typed, takes_nul=False)
        yield replace(made, keep=lambda: kept(run, listed), remove=lambda: dropped(run, listed))


def _kit(place: Place, url: str, rows: Callable[[], list[tuple[Any, ...]]], typed: bool, *, takes_nul: bool = True) -> Kit:
    opened = made("sql", place.folder, url=url, table_per_event=typed)
    return Kit(opened, lambda: [call_of_row(row) for row in rows()], keeps_repeats=False, takes_nul=takes_nul, exactly_once=True)


def kept(run: Callable[[str], list[str]], listed: str) -> Callable[[], None]:
    """Copies of all tables; the function brings back what they hold, and removes the tables that came after."""
    tables = run(listed)
    for table in tables:
        run(f'CREATE TABLE "backup_{table}" AS SELECT * FROM "{table}"')

    def bring_back() -> None:
        for table in tables:
            run(f'DELETE FROM "{table}"')
            run(f'INSERT INTO "{table}" SELECT * FROM "backup_{table}"')
        for table in set(run(listed)) - set(tables):
            run(f'DROP TABLE "{table}"')

    return bring_back


def dropped(run: Callable[[str], list[str]], listed: str) -> None:
    for table in run(listed):
        run(f'DROP TABLE "{table}"')


def call_of_row(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row of `tracks` in the shape of the call that it was."""
    message_id, kind, event, user, anonymous, group, previous, properties, traits, context, timestamp = row
    call = {
        "type": kind,
        "name" if kind in ("page", "screen") else "event": event,
        "messageId": message_id,
        "userId": user,
        "anonymousId": anonymous,
        "groupId": group,
        "previousId": previous,
        "timestamp": timestamp,
    }
    call |= {key: decoded(text) for key, text in (("properties", properties), ("traits", traits), ("context", context)) if text}
    return {key: value for key, value in call.items() if value is not None}


KITS: dict[str, OpenKit] = {
    "sqlite": lambda place: _sqlite(place, typed=False),
    "sqlite-typed": lambda place: _sqlite(place, typed=True),
    "postgresql": lambda place: _postgresql(place, typed=False),
    "postgresql-typed": lambda place: _postgresql(place, typed=True),
}
HOLDERS = list(KITS)
