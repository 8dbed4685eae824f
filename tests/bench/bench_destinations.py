"""How fast each destination is, as a ratio to jsonl: `python -m tests.bench.bench_destinations [NAME …]`; part of `make bench`.

A backlog is captured once. Its journal and state are copied for each destination, and a worker's delivery process takes it from
there, as it would take a live stream: decoding, mapping, checking, sending, checkpoint. Beside every destination jsonl is
measured again, so that the ratio holds on a machine whose speed changes.

Servers and engines share the machine with the worker. So there are two ratios: of events a second, and of the CPU that the
delivery process itself spends an event, in which no server has a part.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tests.bench.__main__ import BLOCK, MAPPING, SCHEMA, journaled, say
from tests.bench.history import cpu_seconds
from tests.bench.targets import HTTP, TARGETS, Settings
from tests.postgres import Server, launch
from tests.vendors.kit import EngineUnavailable
from tests.worker import Worker, end, until

EVENTS = 100_000
ROUNDS = 3  # of each, of which the middle one counts
SECONDS = 10.0  # for which a slow destination is watched
JSONL: Settings = {"type": "jsonl", "path": "out/events.jsonl"}
ROWS = """INSERT INTO bench.orders
    SELECT g, u, md5(u::text)::uuid, 'paid', (g % 100000) / 100.0, 'EUR', 'user' || u || '@example.com',
           now() - g % 3600 * interval '1 second', 'a note of some length for order ' || g, 1 + g % 7
    FROM generate_series({first}, {last}) g, LATERAL (SELECT 1 + (hashint8(g) & 2147483647) % 10000 AS u) who"""
"""Of 10,000 users, who come again."""
SETTLED = """SELECT updated_at, (SELECT sum(delivered + assumed) FROM cdc_tracker_ledger),
    (SELECT sum(rejected) FROM cdc_tracker_ledger) FROM cdc_tracker_checkpoint"""


class Sample(NamedTuple):
    """What the state store said after a commit."""

    at: float
    events: int
    cpu: float  # seconds of the delivery process so far


class Speed(NamedTuple):
    events_s: float
    cpu_us: float  # an event


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"all if none is named; of {', '.join(TARGETS)}")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cdc-bench-") as folder, launch("pg15", fsync="on", max_wal_size="8GB") as server:
        server.execute(SCHEMA)
        print_table(measured(server, Path(folder), given.events, given.rounds, given.names))


def measured(
    server: Server, folder: Path, events: int, rounds: int = ROUNDS, names: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Of all destinations, or those named, the middle of the rounds; what the machine has not is left out, and said."""
    backlog = captured(server, folder / "backlog", events)
    floors: list[Speed] = []
    found: dict[str, dict[str, float]] = {}
    for name in names or TARGETS:
        speeds: list[tuple[Speed, Speed]] = []
        try:
            for _ in range(rounds):
                with TARGETS[name](server) as settings:
                    floor = delivered(backlog, folder / "jsonl", JSONL, events)
                    speeds.append((floor, delivered(backlog, folder / "measured", settings, events)))
        except EngineUnavailable as error:
            say(f"{name} left out: {error}")
            continue
        floors += [floor for floor, _ in speeds]
        found[name] = line(speeds)
        say(f"{name:24}{found[name]['events_s']:>9,.0f} events/s   {found[name]['to_jsonl']:.2f} of jsonl")
    return {"jsonl": line([(floor, floor) for floor in floors]), **found}


def line(rounds: Sequence[tuple[Speed, Speed]]) -> dict[str, float]:
    """As it goes into bench.json: of each figure the middle of the rounds, each compared with the jsonl beside it."""
    middle = statistics.median
    return {
        "events_s": round(middle(speed.events_s for _, speed in rounds)),
        "to_jsonl": round(middle(speed.events_s / floor.events_s for floor, speed in rounds), 3),
        "cpu_us": round(middle(speed.cpu_us for _, speed in rounds), 2),
        "cpu_to_jsonl": round(middle(floor.cpu_us / speed.cpu_us for floor, speed in rounds), 3),
    }


def captured(server: Server, folder: Path, events: int) -> Worker:
    """A worker whose journal holds the backlog, and whose destination has had nothing of it."""
    worker = Worker(folder, url=server.url(), mapping=MAPPING, destinations={"events": JSONL}, slot="bench_destinations")
    server.execute("TRUNCATE bench.orders")
    worker.call("setup")
    blocks = [ROWS.format(first=first + 1, last=min(first + BLOCK, events)) for first in range(0, events, BLOCK)]
    with server.connect() as connection:
        for block in blocks:
            connection.execute(block.encode())
    with worker.running("--only", "capture"):
        journal = folder / "data" / "journal.sqlite"
        until(lambda: journal.exists() and journaled(journal) >= events, "the backlog in the journal", seconds=300, pause=0.1)
    server.execute("SELECT pg_drop_replication_slot('bench_destinations')")
    return worker


def delivered(backlog: Worker, folder: Path, settings: Settings, events: int) -> Speed:
    """The backlog sent by a delivery process of its own."""
    destinations = {"events": settings}
    worker = Worker(folder, url=backlog.settings.source.url.get_secret_value(), mapping=MAPPING, destinations=destinations)
    shutil.copytree(backlog.folder / "data", folder / "data")
    process = worker.start("--only", "deliver:events")
    try:
        samples = watched(worker, process, events)
    finally:
        end(process)
    shutil.rmtree(folder)
    return speed(samples, events)


def watched(worker: Worker, process: subprocess.Popen[bytes], events: int) -> list[Sample]:
    """A sample for every commit seen, until everything is settled or SECONDS after the first.

    Where one commit settles everything, the start of the process comes before it, and counts against the destination.
    """
    samples: list[Sample] = []
    started = Sample(time.time(), 0, 0.0)
    deadline = started.at + 60.0
    state = worker.folder / "data" / "state.sqlite"
    with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as connection:
        while (not samples or samples[-1].events < events) and time.time() < deadline:
            at, settled, rejected = connection.execute(SETTLED).fetchone()
            if rejected or process.poll() is not None:
                raise RuntimeError(f"{rejected} rejected, exit code {process.poll()}:\n{worker.log[-3000:]}")
            if settled and (not samples or at / 1e6 > samples[-1].at):
                samples.append(Sample(at / 1e6, settled, cpu_seconds(process.pid)))
                deadline = samples[0].at + SECONDS
            time.sleep(0.01)
    if not samples:
        raise RuntimeError(f"nothing was delivered within a minute\n{worker.log[-3000:]}")
    return samples if len(samples) > 1 else [started, *samples]


def speed(samples: list[Sample], events: int) -> Speed:
    """From the first commit on: the start of a process is no part of it.

    To the last one behind which more was waiting, where there are several: the very last may come a little after what it counts.
    """
    first, last = samples[0], samples[-1]
    before = [sample for sample in samples if sample.events < events]
    if before[-1].events - first.events > (events - first.events) / 2:
        last = before[-1]
    count = last.events - first.events
    return Speed(count / (last.at - first.at), (last.cpu - first.cpu) / count * 1e6)


def print_table(found: dict[str, dict[str, float]]) -> None:
    print(f"\n{'destination':24}{'events/s':>10}{'to jsonl':>10}{'CPU µs':>9}{'to jsonl':>10}")
    for name, each in found.items():
        rate, cpu = f"{each['events_s']:>10,.0f}{each['to_jsonl']:>10.2f}", f"{each['cpu_us']:>9.1f}{each['cpu_to_jsonl']:>10.2f}"
        print(f"{name:24}{rate}{cpu}{'  HTTP' if name in HTTP else ''}")


if __name__ == "__main__":
    main()
