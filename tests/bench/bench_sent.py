"""The sent-ledger: ids stored and looked up a second, and bytes an id, against a table that has a row for each id.

    python -m tests.bench.bench_sent [--ids 1000000] [--batch 500] [--only sqlite|postgres]

Stored in commits of `--batch` ids, each a whole Checkpoints.commit with its checkpoint.
Looked up in batches as large, half of them known.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from cdc_tracker.model import Position
from cdc_tracker.state import Outcomes, State
from cdc_tracker.state.store import KIND
from cdc_tracker.storage.database import Database
from tests.postgres import Servers, fresh_database

LOOKUPS = 20_000
ROWS = "CREATE TABLE one_row_an_id (week_id integer NOT NULL, id {type} NOT NULL, PRIMARY KEY (week_id, id)) {options}"
INSERT = {
    "sqlite": "INSERT INTO one_row_an_id VALUES (1, ?) ON CONFLICT DO NOTHING",
    "postgresql": "INSERT INTO one_row_an_id SELECT 1, unnest(%b::bytea[]) ON CONFLICT DO NOTHING",
}


def batches(ids: int, size: int) -> Iterator[list[bytes]]:
    for _ in range(ids // size):
        noise = os.urandom(size * 16)
        yield [noise[start : start + 16] for start in range(0, len(noise), 16)]


def ledger(url: str, ids: int, size: int) -> dict[str, float]:
    """Through State, with the commit of a checkpoint."""
    with State.open(url) as state:
        state.checkpoints.create("main", "hook", Position(0, -1))
        before, known = stored(url), []
        spent = worst = bare = 0.0
        for number, batch in enumerate(batches(ids, size)):
            begun = time.perf_counter()
            state.checkpoints.commit(
                "main", "hook", Position(number, 0), Outcomes({(3, "Order Paid", "delivered"): size}, sent=batch)
            )
            took = time.perf_counter() - begun
            spent, worst = spent + took, max(worst, took)
            known.append(batch[0])
        for number in range(200):
            begun = time.perf_counter()
            state.checkpoints.commit("main", "hook", Position(ids + number, 0), Outcomes({(3, "Order Paid", "delivered"): size}))
            bare += (time.perf_counter() - begun) / 200
        used, looked = stored(url) - before, 0.0
        for start in range(0, LOOKUPS // 2, size // 2):
            half = [known[(start + number) % len(known)] for number in range(size // 2)]
            asked = half + next(batches(size // 2, size // 2))
            begun = time.perf_counter()
            found = state.sent_ids.find("main", "hook", asked)
            looked += time.perf_counter() - begun
            if found != set(half):
                raise RuntimeError("the ledger does not know what was stored")
        begun = time.perf_counter()
        removed = state.sent_ids.trim("main", "hook", 2**61)
        trimmed = time.perf_counter() - begun
    return {
        "stored/s, with the commits": ids / spent,
        "stored/s, the commits taken off": ids / (spent - bare * (ids // size)),
        "looked up/s": LOOKUPS / looked,
        "bytes an id": used / ids,
        "longest commit, ms": worst * 1000,
        "trimmed/s": removed / trimmed,
    }


def rows(url: str, ids: int, size: int) -> dict[str, float]:
    """The floor to beat: a row for each id in its primary key's B-tree, by one statement a batch, sorted."""
    database = Database(url, KIND)
    try:
        is_sqlite = database.is_sqlite
        with database.writing() as connection:
            options = {"type": "blob", "options": "WITHOUT ROWID"} if is_sqlite else {"type": "bytea", "options": ""}
            connection.execute(text(ROWS.format(**options)))
        before, spent = stored(url), 0.0
        for batch in batches(ids, size):
            begun = time.perf_counter()
            given: Any = [(one,) for one in sorted(batch)] if is_sqlite else (sorted(batch),)
            with database.writing() as connection:
                connection.exec_driver_sql(INSERT["sqlite" if is_sqlite else "postgresql"], given)
            spent += time.perf_counter() - begun
        used = stored(url) - before
    finally:
        database.close()
    return {"stored/s, with the commits": ids / spent, "bytes an id": used / ids}


def stored(url: str) -> int:
    """Bytes in use by the store's database."""
    database = Database(url, KIND)
    try:
        with database.reading() as connection:
            if not database.is_sqlite:
                return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
            return int(pages - free) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    finally:
        database.close()


@contextmanager
def fresh(kind: str) -> Iterator[Callable[[str], str]]:
    """Gives the URL of a new database of this kind by name."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="cdc-tracker-bench-") as folder:
            yield lambda name: f"sqlite:///{Path(folder) / name}.sqlite"
        return
    running = Servers()
    try:
        server = running.get("pg18")
        with fresh_database(server) as one, fresh_database(server) as other:
            yield lambda name: one.url if name == "ledger" else other.url
    finally:
        running.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    given = parser.parse_args()
    for kind in [given.only] if given.only else ["sqlite", "postgres"]:
        with fresh(kind) as url:
            blocks, floor = ledger(url("ledger"), given.ids, given.batch), rows(url("rows"), given.ids, given.batch)
        print(f"{kind}: {given.ids:,} ids in commits of {given.batch}")
        for name, value in blocks.items():
            ratio = f"   {value / floor[name]:5.2f} of one row an id ({floor[name]:,.1f})" if name in floor else ""
            print(f"  {name:34}{value:>14,.1f}{ratio}")


if __name__ == "__main__":
    main()
