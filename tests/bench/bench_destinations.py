"""How fast the HTTP destinations are: `python -m tests.bench.bench_destinations [NAME …]`.

Every module of tests.vendors that has `serve` and `settings` runs as a process of its own; `deliver` sends it events, compressed,
four requests in flight. Against jsonl in the same run, so that the ratio holds on a noisy machine.

`cpu` is what this process spends an event, and `pipeline` what that makes of the whole delivery process, which has one core: it
takes about PIPELINE µs an event with jsonl, and the rest of it stays.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cdc_tracker.destinations.base import Destination
from cdc_tracker.destinations.batching import split_by_limits
from cdc_tracker.destinations.registry import load
from cdc_tracker.model import Batch, Event, Position
from tests import vendors

IN_FLIGHT = 4
PIPELINE = 11.0
BODY = """{"type":"track","event":"Order Placed","messageId":"%s","userId":"user-%d","anonymousId":\
"c81e728d-9d4c-4f63-af06-%012d","properties":{"order_id":%d,"revenue":%d.29,"currency":"EUR","email":"user%d@example.com","quantity":3,"paid_at":\
"2026-01-01T00:00:02Z","status":"paid","note":"a note of some length for order %d"},"context":{"source":{"db":"shop","schema":\
"bench","table":"orders","op":"c","lsn":"0/%X","txId":771,"ts_ms":1767225602000},"library":{"name":"cdc-tracker"}},"timestamp":"%s"}"""


class Speed(NamedTuple):
    events_s: float
    cpu_us: float  # of this process, an event


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="modules of tests.vendors; all that can be measured if none is named")
    parser.add_argument("--events", type=int, default=60_000)
    given = parser.parse_args()
    made = events(given.events)
    with tempfile.TemporaryDirectory(prefix="cdc-bench-") as folder:
        floor = measure({"type": "jsonl", "path": "out"}, made, Path(folder), 1)
        print(f"{'destination':14}{'events/s':>10}{'to jsonl':>10}{'cpu µs':>9}{'pipeline':>10}")
        report("jsonl", floor, floor)
        for name in given.names or measurable():
            with served(name) as url:
                settings = importlib.import_module(f"tests.vendors.{name}").settings(url)
                settings = {"type": name, "compression": "gzip", "in_flight": IN_FLIGHT} | settings
                report(name, measure(settings, made, Path(folder), IN_FLIGHT), floor)


def measurable() -> list[str]:
    """What has `serve` and `settings`."""
    found = [module.name for module in pkgutil.iter_modules(vendors.__path__) if module.name != "__main__"]
    modules = {name: importlib.import_module(f"tests.vendors.{name}") for name in found}
    return sorted(name for name, module in modules.items() if hasattr(module, "serve") and hasattr(module, "settings"))


def report(name: str, speed: Speed, floor: Speed) -> None:
    pipeline = PIPELINE / (PIPELINE - floor.cpu_us + speed.cpu_us)
    print(
        f"{name:14}{speed.events_s:>10,.0f}{speed.events_s / floor.events_s:>10.2f}{speed.cpu_us:>9.2f}{pipeline:>10.2f}",
        flush=True,
    )


def events(count: int) -> list[Event]:
    """Of the last hour, so that every vendor takes them as live ones."""
    start = datetime.now(UTC).replace(microsecond=0, tzinfo=None) - timedelta(hours=1)
    made = []
    for n in range(count):
        message_id = f"6cf60b2c-7b07-5d93-9b26-{n:012x}"
        moment = (start + timedelta(milliseconds=50 * n % 3_000_000)).isoformat(timespec="microseconds") + "Z"
        body = BODY % (message_id, n % 5_000, n % 5_000, n, n % 100, n, n, n, moment)
        made.append(Event(message_id, "track", body.encode(), "order_placed", Position(1_000 + n, 0), 1_767_225_602_000_000))
    return made


@contextmanager
def served(name: str) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-m", "tests.vendors", name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        yield url
        with urllib.request.urlopen(url) as answer:
            held = json.loads(answer.read())
        print(f"{'':14}there: {', '.join(f'{key} {value:,}' for key, value in held.items())}")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def measure(settings: dict[str, Any], made: list[Event], folder: Path, threads: int) -> Speed:
    kind = load(settings["type"])
    destination = kind("bench", kind.Settings.model_validate(settings), folder)
    warm, *batches = split_by_limits(made, destination.limits)
    deliver(destination, warm)
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(threads) as pool:
        began, spent = time.perf_counter(), time.process_time()
        for found in pool.map(lambda batch: deliver(destination, batch), batches):
            outcomes += found
        took, spent = time.perf_counter() - began, time.process_time() - spent
    destination.close()
    if set(outcomes) - {"delivered", "assumed"}:
        raise RuntimeError(f"{settings['type']}: {dict(outcomes)}")
    count = len(made) - len(warm)
    return Speed(count / took, spent / count * 1e6)


def deliver(destination: Destination, events: list[Event]) -> Counter[str]:
    return Counter(receipt.outcome.value for receipt in destination.deliver(Batch(events, events[-1].position)))


if __name__ == "__main__":
    main()
