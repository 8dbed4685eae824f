"""How fast a point of a long journal is found: by time, by LSN, and the first read from there, against reading all of it.

`python -m tests.bench.bench_journal` makes a SQLite journal of ten million changes. Its segments are what capture makes of a busy
source (2,000 frames each); frames are made once and used again with other positions and times.
"""

from __future__ import annotations

import argparse
import random
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cdc_tracker.delivery.points import Target, located, range_of
from cdc_tracker.journal import Journal
from cdc_tracker.model import START, Position, Segment
from cdc_tracker.sources.postgres import pgoutput
from cdc_tracker.sources.postgres.decoding import walk
from tests.unit.pipeline import frames

ROWS = 19  # of a transaction: with its begin, 100 of them fill a segment
GAP_US = 20_000  # between two commits
APPENDED = 50  # segments at once
TRIES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=10_000_000)
    parser.add_argument("--transactions", type=int, default=100, help="in a segment")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="cdc-bench-") as folder:
        path = Path(folder) / "journal.sqlite"
        with Journal.open(f"sqlite:///{path}", "main") as journal:
            began = time.perf_counter()
            count = made(journal, arguments.changes, arguments.transactions)
            took = time.perf_counter() - began
            horizon = journal.horizon()
            size = path.stat().st_size / 1e6
            print(f"{arguments.changes:,} changes in {count:,} segments, {size:,.0f} MB, written in {took:.0f} s ({horizon})\n")
            measure(journal, arguments.changes, arguments.transactions)


def made(journal: Journal, changes: int, transactions: int) -> int:
    """Write the journal; how many segments it has."""
    templates = [Template(transactions) for _ in range(16)]
    count = -(-changes // (transactions * ROWS))
    for start in range(0, count, APPENDED):
        journal.append([templates[number % 16].segment(number) for number in range(start, min(start + APPENDED, count))])
    return count


_random = random.Random(7)


def _order() -> frames.Order:
    """A row that compresses no better than a real one."""
    number = _random.randrange(1 << 40)
    return frames.Order(number, number % 977_123, "paid", f"{number % 100_000}.50", f"{_random.randbytes(6).hex()}@example.com")


class Template:
    """One segment, to be had again at any later place. Commits are a little out of the order of their times, as in life."""

    def __init__(self, transactions: int) -> None:
        commits = [frames.Commit(frames.at(0), [_order() for _ in range(ROWS)]) for _ in range(transactions)]
        [self._first] = frames.segments(commits, transactions)
        self._transactions = transactions
        self._marks = list(walk(self._first.frames))

    def segment(self, number: int) -> Segment:
        """The n-th: positions and times of its own, the same rows."""
        shift = number * self._transactions * frames.STEP
        data = bytearray(self._first.frames)
        times: list[int] = []
        for lsn, at, _ in self._marks:
            struct.pack_into(">Q", data, at - 8, lsn + shift)
            if data[at] == pgoutput.BEGIN:
                [commit_lsn] = struct.unpack_from(">Q", data, at + 1)
                times.append(commit_time(number * self._transactions + len(times)) - _random.randrange(GAP_US * 2))
                struct.pack_into(">QQ", data, at + 1, commit_lsn + shift, times[-1] - pgoutput.POSTGRES_EPOCH)
        first, last = self._first.first, self._first.last
        return replace(
            self._first,
            frames=bytes(data),
            first=Position(first.commit_lsn + shift, first.ordinal),
            last=Position(last.commit_lsn + shift, last.ordinal),
            first_time=min(times),
            last_time=max(times),
        )


def commit_time(transaction: int) -> int:
    return frames.at(0) + transaction * GAP_US


def measure(journal: Journal, changes: int, per_segment: int) -> None:
    chosen = random.Random(11)
    total = changes // ROWS
    places = [chosen.randrange(per_segment, total - 1) for _ in range(TRIES)]
    times = [commit_time(place) for place in places]
    lsns = [frames.lsn_of(place) for place in places]
    end = journal.end() or START
    hour = 3_600_000_000
    scan = whole(journal, times[0])
    print(f"{'reading all of it':44}{scan[0]:>12,.1f} ms")
    told("the segment of a time", scan[0], timed(journal.locate, times))
    told("the transaction of a time", scan[0], timed(lambda at: located(journal, Target(time_us=at)), times))
    told("a range of an hour, to the transaction", scan[0], timed(lambda at: _hour(journal, at - hour, at, end), times))
    told("the first segment from an LSN, read", scan[0], timed(lambda lsn: journal.read(Position(lsn, -1), 1), lsns))
    told("the first segment from a time, read", scan[0], timed(lambda at: journal.read(journal.locate(at), 1), times))
    found = located(journal, Target(time_us=times[0]))
    if found != scan[1]:
        raise RuntimeError(f"{found} was located, and reading all finds {scan[1]}")


def _hour(journal: Journal, start: int, stop: int, end: Position) -> object:
    first = journal.horizon()
    return range_of(journal, Target(time_us=max(start, first.first_time if first else 0)), Target(time_us=stop), end)


def whole(journal: Journal, time_us: int) -> tuple[float, Position]:
    """Milliseconds of reading every segment for the first commit at or after the time, and where it is."""
    began = time.perf_counter()
    found = None
    for change in everything(journal):
        if found is None and change[0] >= time_us:
            found = Position(change[1], -1)
    return (time.perf_counter() - began) * 1000, found or START


def everything(journal: Journal) -> Iterator[tuple[int, int]]:
    """(commit time, commit LSN) of every change."""
    after, decoder = START, pgoutput.Decoder(lambda _: ((), ()))
    while segments := journal.read(after, 16):
        for segment in segments:
            for change in decoder.changes(segment, after):
                yield change.transaction.committed_at, change.transaction.commit_lsn
            after = segment.last


def timed(call: Callable[[int], object], values: list[int]) -> list[float]:
    """Milliseconds of each call."""
    took = []
    for value in values:
        began = time.perf_counter()
        call(value)
        took.append((time.perf_counter() - began) * 1000)
    return took


def told(what: str, scan: float, took: list[float]) -> None:
    median = statistics.median(took)
    print(f"{what:44}{median:>12,.3f} ms  worst {max(took):>8,.3f} ms  {median / scan:.1e} of reading all of it")


if __name__ == "__main__":
    main()
