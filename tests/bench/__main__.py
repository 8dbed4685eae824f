"""`make bench`: throughput against pg_recvlogical, latency and memory, on a PostgreSQL 15 of its own with fsync on; then what
each destination makes of it, against jsonl.

Everything is measured in one run, so that the ratios hold on a noisy machine. Prints tables and writes bench.json.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.postgres import Server, launch
from tests.worker import Worker, end, peak_memory, roles, until

PLUGINS = ("pgoutput", "wal2json")
SCENARIOS = ("floor", "capture", "end_to_end_jsonl", "end_to_end_http")
BLOCK = 500  # rows a transaction
QUIET = 2.0  # seconds without growth after which everything counts as written

MAPPING = """\
version: 1
events:
  - name: Order Placed
    table: bench.orders
    on: [insert, update]
    when: new.status == 'paid' and new.quantity > 0
    user_id: new.user_id
    anonymous_id: new.anonymous_id
    properties:
      order_id: {value: new.id, type: integer, required: true}
      revenue: {value: new.amount, type: number, required: true, minimum: 0}
      currency: {value: new.currency, type: string, enum: [EUR, USD, GBP]}
      email: {value: new.email, type: string, max_length: 200}
      quantity: {value: new.quantity, type: integer, minimum: 1, maximum: 1000}
      paid_at: {value: new.paid_at, type: timestamp}
      status: {value: new.status, type: string}
      note: {value: new.note, type: string}
"""
SCHEMA = """
CREATE SCHEMA bench;
CREATE TABLE bench.orders (
    id bigint PRIMARY KEY, user_id bigint, anonymous_id uuid, status text, amount numeric(12,2), currency text,
    email text, paid_at timestamptz, note text, quantity int);
"""
ROW = """SELECT g, g % 10000, md5(g::text)::uuid, 'paid', (g % 100000) / 100.0, 'EUR', 'user' || g || '@example.com',
    '2026-01-01'::timestamptz + g * interval '1 second', 'a note of some length for order ' || g, 1 + g % 7"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--big", type=int, default=1_000_000, help="rows of the one large transaction; 0 leaves it out")
    parser.add_argument("--seconds", type=int, default=10, help="of the latency measurement; 0 leaves it out")
    parser.add_argument("--events", type=int, default=100_000, help="sent to each destination; 0 leaves them out")
    parser.add_argument("--plugins", nargs="+", default=list(PLUGINS), choices=PLUGINS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cdc-bench-") as folder, launch("pg15", fsync="on", max_wal_size="8GB") as server:
        bench = Bench(server, Path(folder), arguments.rows)
        try:
            result = bench.throughput(arguments.plugins)
            if arguments.seconds:
                result["latency_ms"] = bench.latency(arguments.seconds)
            if arguments.big:
                bench.large_transaction(arguments.big)
            if arguments.events:
                from tests.bench import bench_destinations  # it builds on this module

                result["destinations"] = bench_destinations.measured(server, Path(folder), arguments.events)
            result["peak_rss_mb"] = {role: round(peak, 1) for role, peak in sorted(bench.peaks.items())}
        finally:
            bench.close()
    print_tables(result)
    if "destinations" in result:
        bench_destinations.print_table(result["destinations"])
    Path("bench.json").write_text(json.dumps(result, indent=2) + "\n")


class Bench:
    def __init__(self, server: Server, folder: Path, rows: int) -> None:
        self.server, self.folder, self.rows = server, folder, rows
        self.url = server.url()
        self.peaks: dict[str, float] = {}
        self._started: list[subprocess.Popen[bytes]] = []
        server.execute(SCHEMA)

    def worker(self, name: str, plugin: str, destination: dict[str, Any] | None = None) -> Worker:
        destination = destination or {"type": "jsonl", "path": "out/events.jsonl"}
        worker = Worker(
            self.folder / name,
            url=self.url,
            mapping=MAPPING,
            destinations={"events": destination},
            plugin=plugin,
            slot=f"bench_{name}",
        )
        worker.call("setup")
        return worker

    def start(self, worker: Worker, *flags: str) -> subprocess.Popen[bytes]:
        self._started.append(worker.start(*flags))
        return self._started[-1]

    def close(self) -> None:
        """End what a failure may have left running."""
        for process in self._started:
            end(process)

    def throughput(self, plugins: list[str]) -> dict[str, Any]:
        """All slots are made before the backlog, so that every scenario reads the same WAL."""
        workers = {}
        segment = Segment()
        self._started.append(segment.process)
        for plugin in plugins:
            for scenario in SCENARIOS[1:]:
                target = {"type": "segment", "write_key": "key", "endpoint": segment.url} if scenario.endswith("http") else None
                workers[plugin, scenario] = self.worker(f"{plugin}_{scenario}", plugin, target)
            self.server.execute(f"SELECT pg_create_logical_replication_slot('floor_{plugin}', '{plugin}')")
        say(f"writing a backlog of {self.rows:,} rows, {BLOCK} a transaction")
        self.server.execute(
            f"DO $$ BEGIN FOR i IN 0..{self.rows // BLOCK - 1} LOOP INSERT INTO bench.orders {ROW} "
            f"FROM generate_series(i * {BLOCK} + 1, (i + 1) * {BLOCK}) g; COMMIT; END LOOP; END $$"
        )
        result: dict[str, Any] = {}
        for plugin in plugins:
            rates = result[plugin] = {}
            rates["floor"] = self.floor(plugin)
            rates["capture"] = self.capture(workers[plugin, "capture"])
            rates["deliver"] = self.deliver(workers[plugin, "capture"])
            rates["end_to_end_jsonl"] = self.end_to_end(workers[plugin, "end_to_end_jsonl"], None)
            rates["end_to_end_http"] = self.end_to_end(workers[plugin, "end_to_end_http"], segment)
            for name, rate in rates.items():
                say(f"{plugin:9} {name:17} {rate:>9,.0f} rows/s   {rate / rates['floor']:.2f} of the floor")
        segment.stop()
        return result

    def floor(self, plugin: str) -> float:
        """pg_recvlogical into a file, the fastest that can be."""
        options = ["-o", "proto_version=1", "-o", "publication_names=bench_pgoutput_capture", "-o", "messages=true"]
        if plugin == "wal2json":
            wanted = (
                "format-version=2",
                "include-lsn=true",
                "include-xids=true",
                "include-timestamp=true",
                "include-types=false",
            )
            options = [word for option in (*wanted, "include-type-oids=true") for word in ("-o", option)]
        end_lsn = str(self.server.value("SELECT pg_current_wal_lsn()"))
        command = [str(self.server.bindir / "pg_recvlogical"), "-d", self.url, "--slot", f"floor_{plugin}", "--start", "-f"]
        began = time.monotonic()
        subprocess.run([*command, str(self.folder / "floor"), "--endpos", end_lsn, *options], check=True)
        rate = self.rows / (time.monotonic() - began)
        (self.folder / "floor").unlink()
        self.server.execute(f"SELECT pg_drop_replication_slot('floor_{plugin}')")
        return rate

    def capture(self, worker: Worker) -> float:
        """Capture alone, until the journal holds the backlog. The clock starts when the slot is being read."""
        journal = worker.folder / "data" / "journal.sqlite"
        process = self.start(worker, "--only", "capture")
        began = self.slot_active(worker)
        until(lambda: journaled(journal) >= self.rows, "the backlog in the journal", seconds=300, pause=0.1)
        took = time.monotonic() - began
        self.peak("capture", process.pid)
        end(process)
        return self.rows / took

    def deliver(self, worker: Worker) -> float:
        """Delivery alone, of what capture has journaled. The clock starts when the first events are there."""
        process = self.start(worker, "--only", "deliver:events")
        until(lambda: size_of(worker) > 0, "the first event", pause=0.001)
        began, first = time.monotonic(), count_of(worker)
        took = self.grown(worker, self.rows) - began
        self.peak("deliver (jsonl)", process.pid)
        end(process)
        return (self.rows - first) / took

    def grown(self, worker: Worker, rows: int) -> float:
        """When the files had grown to `rows` events. Looks at sizes only while they grow, to leave the cores alone."""
        size, last = -1, time.monotonic()
        while time.monotonic() < last + (QUIET if size > 0 else 60.0):
            if size_of(worker) != size:
                size, last = size_of(worker), time.monotonic()
            time.sleep(0.02)
        if count_of(worker) != rows:
            raise RuntimeError(f"{count_of(worker):,} events, expected {rows:,}\n{worker.log}")
        return last

    def end_to_end(self, worker: Worker, segment: Segment | None) -> float:
        """The whole worker on the backlog. The clock starts when the slot is being read."""
        process = self.start(worker)
        began = self.slot_active(worker)
        if segment is None:
            took = self.grown(worker, self.rows) - began
        else:
            before = segment.received
            until(lambda: segment.received - before >= self.rows, "the backlog delivered", seconds=300, pause=0.2)
            took = time.monotonic() - began
        for role, pid in roles(process.pid).items():
            self.peak(role.replace("deliver:events", "deliver (http)" if segment else "deliver (jsonl)"), pid)
        self.peak("supervisor", process.pid)
        end(process)
        worker.call("teardown", "--yes")
        return self.rows / took

    def latency(self, seconds: int) -> dict[str, float]:
        """Commit to delivered, at 1,000 single-row commits a second: when the file grew, against each event's commit time."""
        worker = self.worker("latency", "pgoutput")
        script = self.folder / "one.sql"
        insert = f"INSERT INTO bench.orders {ROW} FROM (SELECT :id::bigint AS g) one ON CONFLICT DO NOTHING;"
        script.write_text(f"\\set id random(10000000, 900000000)\n{insert}\n")
        with worker.running() as process:
            self.slot_active(worker)
            time.sleep(1.0)
            watch = Growth(worker.folder / "out")
            watch.start()
            subprocess.run(
                [
                    str(self.server.bindir / "pgbench"),
                    "-n",
                    "-R",
                    "1000",
                    "-c",
                    "8",
                    "-T",
                    str(seconds),
                    "-f",
                    str(script),
                    self.url,
                ],
                check=True,
                capture_output=True,
            )
            time.sleep(1.0)
            watch.stop()
            for role, pid in roles(process.pid).items():
                self.peak(role.replace("deliver:events", "deliver (jsonl)"), pid)
        delays = sorted(watch.delays())
        say(f"latency of {len(delays):,} events")
        return {"p50": round(delays[len(delays) // 2], 2), "p99": round(delays[len(delays) * 99 // 100], 2)}

    def large_transaction(self, rows: int) -> None:
        """One transaction of many rows: what matters is the memory."""
        worker = self.worker("large", "pgoutput")
        base = 1_000_000_000
        self.server.execute(f"INSERT INTO bench.orders {ROW} FROM generate_series({base}, {base + rows - 1}) g")
        with worker.running() as process:
            self.grown(worker, rows)
            for role, pid in roles(process.pid).items():
                self.peak(role.replace("deliver:events", "deliver (jsonl)"), pid)

    def slot_active(self, worker: Worker) -> float:
        slot = f"bench_{worker.folder.name}"
        with self.server.connect() as connection:
            query = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
            until(lambda: connection.execute(query, [slot]).fetchone() == (True,), f"{slot} read\n{worker.log}", pause=0.005)
        return time.monotonic()

    def peak(self, role: str, pid: int) -> None:
        self.peaks[role] = max(self.peaks.get(role, 0.0), peak_memory(pid))


class Segment:
    """A server that speaks Segment's contract, in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.vendors", "segment"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        if self.process.stdout is None:
            raise RuntimeError("no output to read the server's URL from")
        self.url = self.process.stdout.readline().decode().strip()

    @property
    def received(self) -> int:
        with urllib.request.urlopen(self.url) as answer:
            counts = json.load(answer)
        return int(counts["events"] + counts["repeated"])  # both plugins give the same ids for the same WAL

    def stop(self) -> None:
        end(self.process, signal.SIGINT)


class Growth(threading.Thread):
    """Notes when a jsonl destination's file had grown to which size."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._seen: list[tuple[float, int]] = []
        self._done = threading.Event()
        self._path: Path | None = None

    def run(self) -> None:
        while not self._done.wait(0.0005):
            if self._path is None:
                self._path = next(iter(self._folder.glob("*.jsonl")), None)
                continue
            size = self._path.stat().st_size
            if not self._seen or size > self._seen[-1][1]:
                self._seen.append((time.time(), size))

    def stop(self) -> None:
        self._done.set()
        self.join()

    def delays(self, wanted: Callable[[bytes], bool] = lambda line: True) -> list[float]:
        """Milliseconds from the wanted events' commits to the moment at which the file was seen to hold them."""
        if self._path is None:
            raise RuntimeError("nothing was delivered")
        found, at, step = [], 0, 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            at += len(line)
            while step < len(self._seen) and self._seen[step][1] < at:
                step += 1
            if step == len(self._seen):
                break  # written after the watch ended
            if wanted(line):
                found.append((self._seen[step][0] - committed(line)) * 1000)
        return found


def committed(line: bytes) -> float:
    from datetime import datetime

    return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()


def size_of(worker: Worker) -> int:
    return sum(path.stat().st_size for path in (worker.folder / "out").glob("*.jsonl"))


def count_of(worker: Worker) -> int:
    """Events in the files."""
    return sum(path.read_bytes().count(b"\n") for path in (worker.folder / "out").glob("*.jsonl"))


def journaled(path: Path) -> int:
    """Changes in the journal's file."""
    import sqlite3

    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        row = connection.execute("SELECT sum(changes) FROM cdc_tracker_segment").fetchone()
    finally:
        connection.close()
    return int(row[0] or 0)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_tables(result: dict[str, Any]) -> None:
    for plugin in PLUGINS:
        if plugin in result:
            floor = result[plugin]["floor"]
            print(f"\n{plugin}")
            for name, rate in result[plugin].items():
                print(f"  {name:18}{rate:>10,.0f} rows/s  {rate / floor:5.2f}")
    if "latency_ms" in result:
        latency = result["latency_ms"]
        print(f"\nlatency at 1,000 commits/s: p50 {latency['p50']} ms, p99 {latency['p99']} ms")
    print("\npeak memory")
    for role, peak in result["peak_rss_mb"].items():
        print(f"  {role:18}{peak:>8.1f} MB")


if __name__ == "__main__":
    main()
