"""Segments for tests."""

from __future__ import annotations

from cdc_tracker.model import OpenTransaction, Position, Segment, Transaction

SECOND = 1_000_000


def segment(number: int, *, frames: bytes = b"frames", changes: int = 10, at: int | None = None) -> Segment:
    """One transaction of ten changes at LSN number * 1000, committed `number` seconds after the epoch."""
    time = number * SECOND if at is None else at
    return Segment(
        plugin="pgoutput",
        frames=frames,
        count=changes + 2,
        changes=changes,
        first=Position(number * 1000, 0),
        last=Position(number * 1000 + 500, -1),
        first_time=time,
        last_time=time,
        relations=(b"relation a", b"relation b"),
    )


def in_the_middle(number: int, ordinal: int) -> Segment:
    """Ten changes of a transaction that began before and goes on after."""
    opened = OpenTransaction(Transaction(77, number * 1000, number * SECOND), ordinal, lsn=number * 1000 - 5, index=2)
    return Segment(
        plugin="wal2json",
        frames=b"\0more frames\xff",
        count=10,
        changes=10,
        first=Position(number * 1000, ordinal),
        last=Position(number * 1000, ordinal + 9),
        first_time=number * SECOND,
        last_time=number * SECOND,
        open=opened,
    )
