"""How fast a backfill is, and what it does to the live stream beside it: `python -m tests.bench.history`.

Backfill: rows a second, as a ratio to COPY (SELECT …) TO STDOUT and mapping its lines in one process, in the same run. The live
stream: commit to delivered of 1,000 single-row commits a second, with and without the job.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from cdc_tracker.mapping import load
from cdc_tracker.model import START, Column, Relation
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.snapshot.rows import Description, segment_of
from tests.bench.__main__ import MAPPING, ROW, SCHEMA, Growth, committed, say
from tests.postgres import Server, launch
from tests.worker import Worker, roles, until

LIVE = "CREATE TABLE bench.clicks (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint NOT NULL);"
CLICKED = """
  - name: Link Clicked
    table: bench.clicks
    user_id: new.user_id
    properties: {n: new.id}
"""
BACKFILL = """
    id: [new.id]
    timestamp: new.paid_at
    backfill: {where: "status = 'paid'"}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--seconds", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cdc-bench-") as folder, launch("pg15", fsync="on", max_wal_size="8GB") as server:
        server.execute(SCHEMA + LIVE)
        server.execute(f"INSERT INTO bench.orders {ROW} FROM generate_series(1, {arguments.rows}) g")
        server.execute("VACUUM ANALYZE bench.orders")
        mapping = MAPPING.rstrip() + BACKFILL + CLICKED
        worker = Worker(
            Path(folder) / "w",
            url=server.url(),
            mapping=mapping,
            destinations={"events": {"type": "jsonl", "path": "out/events.jsonl", "rotate_size": "10GB"}},
            plugin="pgoutput",
            slot="bench_history",
        )
        worker.call("setup")
        cpu = time.process_time()
        floor = copy_and_map(server, worker, arguments.rows)
        cpu = (time.process_time() - cpu) / arguments.rows * 1e6
        say(f"COPY and mapping in one process   {floor:>10,.0f} rows/s   {cpu:.1f} µs of CPU a row")
        with worker.running() as process:
            until(lambda: "deliver:events" in roles(process.pid), "the deliverer")
            pid = roles(process.pid)["deliver:events"]
            before = cpu_seconds(pid)
            rate = backfilled(worker, arguments.rows)
            cpu = (cpu_seconds(pid) - before) / arguments.rows * 1e6
            say(f"backfill, worker otherwise idle   {rate:>10,.0f} rows/s   {cpu:.1f} µs   {rate / floor:.2f}")
            without = latency(server, worker, arguments.seconds)
            say(f"live without a job   p50 {without[0]:.1f} ms, p99 {without[1]:.1f} ms")
            number = begin(worker)
            until(lambda: job(worker, number)["read"] > 0, "the job is at work")
            beside = latency(server, worker, arguments.seconds)
            at_work = job(worker, number)
            say(f"live with the job    p50 {beside[0]:.1f} ms, p99 {beside[1]:.1f} ms   {beside[1] / without[1]:.2f} of that")
            say(f"the job meanwhile: {at_work['state']}, {at_work['read']:,} rows read")


def copy_and_map(server: Server, worker: Worker, rows: int) -> float:
    """The fastest that one process can be: every line of the COPY mapped, nothing sent."""
    mappings = load([worker.folder / "mappings"])
    mapping = next(each for each in mappings.all if each.key == "Order Placed")
    with connect(server.url(), statement_timeout=600.0) as connection:
        names = ", ".join(f"'{name}'" for name in mapping.new_columns)
        found = connection.execute(
            f"SELECT attname, atttypid::int8, attname = 'id' FROM pg_attribute WHERE attrelid = 'bench.orders'::regclass "
            f"AND attname IN ({names}) ORDER BY attnum"
        ).fetchall()
        relation = Relation("bench", "orders", tuple(Column(*row) for row in found))
        described = json.dumps(
            {"schema": "bench", "table": "orders", "identity": "d", "columns": [list(row) for row in found]}
        ).encode()
        assert Description.of(relation).relation() == relation
        pipeline = Pipeline(mappings, outbox=None, namespace=uuid.UUID(int=0), database="b", destination=None)
        columns = ", ".join(name for name, _, _ in found)
        began, events = time.monotonic(), 0
        lines: list[bytes] = []
        with connection.cursor().copy(f"COPY (SELECT {columns} FROM bench.orders ORDER BY id) TO STDOUT") as copy:
            for line in copy:
                lines.append(bytes(line[:-1]))
                if len(lines) == 5_000:
                    events += len(pipeline.results(segment_of(lines, described, 1, 1), START))
                    lines = []
            events += len(pipeline.results(segment_of(lines, described, 1, 1), START)) if lines else 0
    assert events == rows, events
    return rows / (time.monotonic() - began)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def begin(worker: Worker) -> int:
    told = worker.call("backfill", "Order Placed", "--destination", "events", "--yes", "--yes-duplicates", "--detach", "--json")
    return int(json.loads(told)[0]["job"])


def job(worker: Worker, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(worker.call("jobs", "show", str(number), "--json"))
    return found


def backfilled(worker: Worker, rows: int) -> float:
    """By the job's own times."""
    number = begin(worker)
    until(lambda: job(worker, number)["state"] == "done", f"the backfill\n{worker.log}", seconds=300, pause=1.0)
    with_state = worker.settings
    from cdc_tracker.state import State

    with State.open(with_state.state_url) as state:
        found = state.jobs.get(number)
    assert found is not None
    assert found.counts.sent == rows, found.counts
    return rows / ((found.finished_at - found.started_at) / 1e6)


def latency(server: Server, worker: Worker, seconds: int) -> tuple[float, float]:
    """(p50, p99) in milliseconds."""
    script = worker.folder / "one.sql"
    script.write_text("INSERT INTO bench.clicks (user_id) VALUES (7);\n")
    watch = Growth(worker.folder / "out")
    began = time.time()
    watch.start()
    command = [str(server.bindir / "pgbench"), "-n", "-R", "1000", "-c", "8", "-T", str(seconds), "-f", str(script)]
    subprocess.run([*command, server.url()], check=True, capture_output=True)
    time.sleep(2.0)
    watch.stop()
    delays = sorted(watch.delays(lambda line: b'"Link Clicked"' in line and committed(line) > began))
    return delays[len(delays) // 2], delays[len(delays) * 99 // 100]


if __name__ == "__main__":
    main()
