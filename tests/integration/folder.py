"""A folder in which a person works with the command line, and what the tests read there."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from click.testing import Result

from cdc_tracker.state import SourceRecord, State
from cdc_tracker.worker import assemble

SCHEMA = """
CREATE SCHEMA shop;
CREATE TYPE shop.plan AS ENUM ('basic', 'pro');
CREATE TABLE shop.users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text,
                         plan shop.plan NOT NULL DEFAULT 'basic');
ALTER TABLE shop.users REPLICA IDENTITY FULL;
CREATE TABLE shop.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint NOT NULL,
                          status text NOT NULL DEFAULT 'pending', total numeric(12, 2) NOT NULL, placed timestamptz);
CREATE TABLE shop.tags (name text PRIMARY KEY);
"""
Run = Callable[..., Result]


@contextlib.contextmanager
def running_worker() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "cdc_tracker", "run"], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def events(place: Path) -> list[dict[str, Any]]:
    files = sorted(place.glob("events-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def opened(place: Path) -> State:
    return assemble.open_state(assemble.load_config(place / "cdc-tracker.yml"))


def record_of(place: Path) -> SourceRecord:
    with opened(place) as state:
        record = state.sources.get("main")
    assert record is not None
    return record


def deliver_everything(place: Path, count: int) -> None:
    """Run the worker until so many events have arrived and their checkpoint is stored."""
    with running_worker():
        wait_for(lambda: len(events(place)) >= count)
