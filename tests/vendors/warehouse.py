"""DuckDB, filled through dlt."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb

from tests.vendors.kit import Kit, OpenKit, Place, made
from tests.vendors.sql import call_of_row

HELD = """
    SELECT message_id, type, event, user_id, anonymous_id, group_id, previous_id, properties, traits, context,
           strftime(timezone('UTC', timestamp), '%Y-%m-%dT%H:%M:%S.%fZ') FROM analytics.tracks ORDER BY timestamp"""


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    file = place.folder / "events.duckdb"

    def held() -> list[dict[str, Any]]:
        with duckdb.connect(str(file)) as connection:
            found = connection.execute("SELECT 1 FROM information_schema.tables WHERE table_name = 'tracks'").fetchone()
            return [call_of_row(row) for row in connection.execute(HELD).fetchall()] if found else []

    opened = made("warehouse", place.folder, engine="duckdb", credentials="events.duckdb")

    def keep() -> Callable[[], None]:
        backup = place.folder / "backup.duckdb"
        shutil.copy(file, backup)

        def bring_back() -> None:
            backup.replace(file)

        return bring_back

    yield Kit(opened, held, keeps_repeats=False, exactly_once=True, merges=True, keep=keep, remove=file.unlink)


KITS: dict[str, OpenKit] = {"warehouse-duckdb": _kit}
HOLDERS = list(KITS)
