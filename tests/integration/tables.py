"""Read a table in chunks, as a backfill does, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cdc_tracker.model import START, Change, Segment
from cdc_tracker.sources.postgres import snapshot
from cdc_tracker.sources.postgres.snapshot import Chunk, TableReader
from tests.integration.stream import every_column
from tests.postgres import Database

Cells = dict[str, object]


def reader(database: Database, table: str, columns: Sequence[str] = (), **options: Any) -> TableReader:
    return TableReader(options.pop("url", database.url), table, columns, **options)


def chunks(given: TableReader, limit: int) -> Iterator[Chunk]:
    """Every chunk to the end, each with at most `limit` rows."""
    after: tuple[str, ...] | None = None
    while True:
        chunk = given.read(after, limit)
        assert chunk.rows <= limit
        assert chunk.low < chunk.high
        yield chunk
        if chunk.end:
            return
        assert chunk.last_key != after, "a chunk that leads nowhere"
        after = chunk.last_key


def decode(segment: Segment) -> list[Change]:
    return list(snapshot.Decoder(every_column).changes(segment, START))


def cells(change: Change) -> Cells:
    assert change.relation is not None and change.new is not None
    return dict(zip((column.name for column in change.relation.columns), change.new, strict=True))


def rows(found: Sequence[Chunk]) -> list[Cells]:
    return [cells(change) for chunk in found if chunk.segment for change in decode(chunk.segment)]


def read_all(database: Database, table: str, columns: Sequence[str] = (), *, limit: int = 3, **options: Any) -> list[Cells]:
    """Every row that a reader gives, in its order."""
    with reader(database, table, columns, **options) as given:
        return rows(list(chunks(given, limit)))
