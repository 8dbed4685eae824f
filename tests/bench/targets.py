"""What the benchmark of destinations sends to: vendors' servers, each in a process of its own, and real engines.

A target is a context manager: it brings its server up, and gives the settings of a destination that sends there. Where the
machine has it not, EngineUnavailable.
"""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias, get_args

from cdc_tracker.destinations.registry import load
from tests.postgres import Server, fresh_database
from tests.vendors import kafka, mariadb, nats, rabbitmq, redis

IN_FLIGHT = 4
NAME = "events"  # of the stream, queue or topic: each engine starts empty
HTTP = ("segment", "rudderstack", "jitsu", "mixpanel", "amplitude", "posthog", "ga4", "heap", "snowplow", "webhook")

Settings: TypeAlias = dict[str, Any]
Target: TypeAlias = Callable[[Server], AbstractContextManager[Settings]]
"""Takes the PostgreSQL server that is there anyway."""


@contextmanager
def _vendor(kind: str) -> Iterator[Settings]:
    """A vendor's server; compressed where the vendor takes that."""
    process = subprocess.Popen([sys.executable, "-m", "tests.vendors", kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        try:
            url = process.stdout.readline().strip()
            settings = {"type": kind, **importlib.import_module(f"tests.vendors.{kind}").settings(url)}
            taken = get_args(load(kind).Settings.model_fields["compression"].annotation)
            yield settings | {"compression": "gzip" if "gzip" in taken else "none", "in_flight": IN_FLIGHT}
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def _postgresql(server: Server) -> Iterator[Settings]:
    with fresh_database(server) as database:
        yield {"type": "sql", "url": database.url}


@contextmanager
def _mariadb(server: Server) -> Iterator[Settings]:
    with mariadb.engine() as engine, engine.fresh_database() as name:
        yield {"type": "sql", "url": engine.url(name)}


@contextmanager
def _kafka(server: Server, **more: Any) -> Iterator[Settings]:
    with kafka.engine() as broker:
        broker.make_topic(NAME)
        yield {"type": "kafka", "brokers": broker.url, "topic": NAME, **more}


@contextmanager
def _redis(server: Server) -> Iterator[Settings]:
    with redis.engine() as engine:
        yield {"type": "redis", "url": engine.url, "stream": NAME}


@contextmanager
def _rabbitmq(server: Server) -> Iterator[Settings]:
    with rabbitmq.engine() as node:
        node.make_queue(NAME)
        yield {"type": "rabbitmq", "url": node.url, "routing_key": NAME}


@contextmanager
def _nats(server: Server) -> Iterator[Settings]:
    with nats.engine() as engine:
        engine.make_stream(NAME, f"{NAME}.>")
        yield {"type": "nats", "url": engine.url, "subject": f"{NAME}.{{type}}", "in_flight": IN_FLIGHT}


def _alone(**settings: Any) -> Target:
    """Needs nobody."""
    return lambda server: contextlib.nullcontext(settings)


def _of(kind: str) -> Target:
    return lambda server: _vendor(kind)


TARGETS: dict[str, Target] = {kind: _of(kind) for kind in HTTP} | {
    "kafka": _kafka,
    "kafka (at least once)": lambda server: _kafka(server, transactions=False),
    "redis": _redis,
    "rabbitmq": _rabbitmq,
    "nats": _nats,
    "sql (PostgreSQL)": _postgresql,
    "sql (MariaDB)": _mariadb,
    "sql (SQLite)": _alone(type="sql", url="sqlite:///events.db"),
    "parquet": _alone(type="parquet", path="lake"),
    "warehouse (DuckDB)": _alone(type="warehouse", engine="duckdb", credentials="events.duckdb"),
    "stdout": _alone(type="stdout"),
    "memory": _alone(type="memory"),
}
"""Everything but jsonl, which they are compared with."""
