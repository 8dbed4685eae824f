"""Transactions as pgoutput's frames → segments, by the builder that capture uses."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cdc_tracker.mapping import load_texts
from cdc_tracker.model import START, UNCHANGED, Segment, Text
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.pipeline.steps import Step
from cdc_tracker.sources.postgres import pgoutput

COLUMNS = (("id", 20), ("user_id", 20), ("status", 25), ("amount", 1700), ("email", 25))
BASE = 1_767_225_600_000_000  # 2026-01-01 in microseconds since the Unix epoch
START_LSN = 0x1000
STEP = 0x1000  # between two transactions
EVERY_ROWS = 1000  # rows after which a segment closes within a transaction
SPACE = uuid.UUID(int=7)


class Order(NamedTuple):
    """A row of shop.orders."""

    id: int
    user_id: int = 3
    status: str = "paid"
    amount: str = "9.50"
    email: str = "a@example.com"


class Written(NamedTuple):
    """An update (both rows, or only the new one), a delete (the old row) or a truncate. A cell can be None or UNCHANGED."""

    new: Sequence[Text] | None = None
    old: Sequence[Text] | None = None


class Commit(NamedTuple):
    """A transaction, committed at a time in microseconds since the Unix epoch. An Order is inserted."""

    at: int
    rows: Sequence[Order | Written] = (Order(1),)


def segments(commits: Sequence[Commit], each: int = 1) -> list[Segment]:
    """Segments of `each` transactions. The n-th commits at START_LSN + n * STEP."""
    builder = pgoutput.Builder(START)
    _add(builder, START_LSN, _relation())
    found: list[Segment | None] = []
    for number, commit in enumerate(commits):
        lsn = START_LSN + number * STEP
        time = commit.at - pgoutput.POSTGRES_EPOCH
        _add(builder, lsn - STEP + 0x10, struct.pack(">cQqI", b"B", lsn, time, 700 + number))
        for place, row in enumerate(commit.rows):
            _add(builder, lsn - STEP + 0x20 + place, _insert(row) if isinstance(row, Order) else _written(row))
            if place % EVERY_ROWS == EVERY_ROWS - 1:
                found.append(builder.close())
        _add(builder, lsn, struct.pack(">cxQQq", b"C", lsn, lsn + 0x8, time))
        if number % each == each - 1:
            found.append(builder.close())
    found.append(builder.close())
    return [segment for segment in found if segment is not None]


def at(seconds: float) -> int:
    """So many seconds after 2026 began."""
    return BASE + int(seconds * 1_000_000)


def lsn_of(number: int) -> int:
    """Where the n-th transaction commits."""
    return START_LSN + number * STEP


def pipeline(
    mapping: str, destination: str | None = None, *, route: Step | None = None, only: Sequence[str] | None = None
) -> Pipeline:
    mappings = load_texts({"events.yml": mapping})
    return Pipeline(mappings, outbox=None, namespace=SPACE, database="shop", destination=destination, steps=[route], only=only)


def _add(builder: pgoutput.Builder, lsn: int, payload: bytes) -> None:
    builder.add(memoryview(struct.pack(">cQQQ", b"w", lsn, lsn, 0) + payload))


def _relation() -> bytes:
    columns = b"".join(b"\1" + name.encode() + b"\0" + struct.pack(">Ii", oid, -1) for name, oid in COLUMNS)
    return b"R" + struct.pack(">I", 7) + b"shop\0orders\0f" + struct.pack(">H", len(COLUMNS)) + columns


def _insert(row: Order) -> bytes:
    return b"I" + struct.pack(">I", 7) + b"N" + _tuple(row)


def _written(row: Written) -> bytes:
    old = b"O" + _tuple(row.old) if row.old is not None else b""
    if row.new is not None:
        return b"U" + struct.pack(">I", 7) + old + b"N" + _tuple(row.new)
    return b"D" + struct.pack(">I", 7) + old if old else b"T" + struct.pack(">IBI", 1, 0, 7)


def _tuple(row: Iterable[object]) -> bytes:
    return struct.pack(">H", len(COLUMNS)) + b"".join(map(_cell, row))


def _cell(value: object) -> bytes:
    if value is None or value is UNCHANGED:
        return b"n" if value is None else b"u"
    text = str(value).encode()
    return b"t" + struct.pack(">I", len(text)) + text
