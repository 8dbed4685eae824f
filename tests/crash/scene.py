"""A worker on tests.crash.items, and the comparison of what its destinations hold with what the source committed."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from cdc_tracker.journal import Journal
from cdc_tracker.state import Checkpoint, State
from tests.crash import items
from tests.crash.items import Truth
from tests.postgres import Database
from tests.vendors.segment import SegmentServer
from tests.worker import Worker, alive, end, roles, until

JSONL: dict[str, Any] = {"type": "jsonl", "path": "out/events.jsonl", "fsync": False}
OUTCOMES = ("delivered", "assumed", "rejected", "suppressed")


class Scene:
    """One database with items, one worker that is set up for it; destinations `events` (jsonl), `sql`, `segment` as asked for."""

    def __init__(
        self, database: Database, folder: Path, plugin: str, destinations: dict[str, dict[str, Any]], **parts: Any
    ) -> None:
        self.database = database
        self.folder = folder
        items.make(database)
        parts = {"mapping": items.MAPPING, "log": {"format": "text"}, **parts}
        url = parts.pop("url", database.url)
        slot = f"s_{database.name}"
        self.worker = Worker(folder, url=url, plugin=plugin, slot=slot, destinations=destinations, **parts)
        self.slot = slot
        self.segment: SegmentServer | None = None
        self.worker.call("setup", "--yes")

    @contextmanager
    def state(self) -> Iterator[State]:
        with State.open(self.worker.settings.state_url) as state:
            yield state

    def checkpoint(self, destination: str) -> Checkpoint:
        with self.state() as state:
            found = state.checkpoints.get("main", destination)
        assert found is not None
        return found

    @contextmanager
    def stores(self) -> Iterator[tuple[State, Journal]]:
        settings = self.worker.settings
        with self.state() as state, Journal.open(settings.journal_url, "main", settings.wake_dir) as journal:
            yield state, journal

    @classmethod
    def beside(cls, other: Scene, folder: Path) -> Scene:
        """A second worker for the same database and slot, with stores of its own, and not set up yet."""
        scene = cls.__new__(cls)
        scene.database, scene.folder, scene.slot, scene.segment = other.database, folder, other.slot, None
        mapping = (other.folder / "mappings" / "events.yml").read_text()
        scene.worker = Worker(folder, url=other.database.url, mapping=mapping, slot=other.slot, destinations={"events": JSONL})
        return scene

    def tune(self, **constants: object) -> None:
        """Run the worker with other constants from now on: {"capture.loop__VITALS": 1.0} for that of cdc_tracker.capture.loop."""
        named = {"cdc_tracker." + name.replace("__", ":"): value for name, value in constants.items()}
        self.worker.module = "tests.crash.failpoint"
        self.worker.environment = {"FAILPOINT_SET": json.dumps(named)}

    @contextmanager
    def running(self, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
        """`run`, ended by SIGKILL: whatever a test then finds was made durable while the worker ran, and roles end with it."""
        process = self.worker.start(*flags)
        started: list[int] = []
        try:
            yield process
        finally:
            started += roles(process.pid).values()
            end(process, signal.SIGKILL)
        until(lambda: not any(map(alive, started)) and not self.streams(), "the worker has ended, and the server knows it")

    def streams(self) -> bool:
        """Whether somebody reads from the slot."""
        query = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{self.slot}'"
        with contextlib.suppress(psycopg.OperationalError):
            return bool(self.database.value(query))
        return False

    # What a destination holds, in its order.

    def bodies(self, destination: str) -> list[dict[str, Any]]:
        kind = self.worker.settings.destinations[destination].type
        if kind == "jsonl":
            return self.worker.events(destination)
        if kind == "sql":
            return list(self._rows(destination))
        assert self.segment is not None
        with self.segment.lock:
            return [json.loads(body) for body in self.segment.events.values()]

    def _rows(self, destination: str) -> Iterator[dict[str, Any]]:
        for message_id, user, text in self._select(
            destination, "SELECT message_id, user_id, properties FROM tracks ORDER BY rowid"
        ):
            yield {"messageId": message_id, "userId": user, "properties": json.loads(text)}

    def _select(self, destination: str, query: str) -> list[Any]:
        with (
            contextlib.suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(self.folder / f"{destination}.db")) as connection,
        ):
            return connection.execute(query).fetchall()
        return []  # not made yet

    def arrived(self, destination: str) -> Truth:
        found: Truth = defaultdict(list)
        for body in self.bodies(destination):
            found[int(body["userId"])].append((body["properties"]["op"], body["properties"]["n"]))
        return dict(found)

    def has(self, destination: str, n: int) -> bool:
        """Whether the change n has arrived, without reading everything."""
        kind = self.worker.settings.destinations[destination].type
        needle = f'"n":{n}}}'
        if kind == "jsonl":
            return any(needle.encode() in path.read_bytes() for path in (self.folder / "out").glob(f"{destination}-*.jsonl"))
        if kind == "sql":
            return bool(self._select(destination, f"SELECT 1 FROM tracks WHERE properties LIKE '%{needle}'"))
        assert self.segment is not None
        with self.segment.lock:
            return any(needle.encode() in body for body in self.segment.events.values())

    # The comparison.

    def await_all(self, *destinations: str, seconds: float = 60.0) -> None:
        """Until everything that was committed so far has arrived at the destinations, and is counted."""
        n = items.mark(self.database)
        expected = sum(map(len, items.truth(self.database).values()))
        for destination in destinations or tuple(self.worker.settings.destinations):
            arrived, counted = partial(self.has, destination, n), partial(self._counted, destination, expected)
            until(arrived, f"{destination} has the mark {n}", seconds=seconds, pause=0.1)
            until(counted, f"the ledger of {destination} has {expected}", seconds=15, pause=0.1)

    def _counted(self, destination: str, number: int) -> bool:
        return self.ledger(destination)["matched"] >= number

    def differences(self, destination: str) -> dict[str, int]:
        """How many changes are lost, doubled, invented or out of order at a destination. Empty: it holds the truth."""
        expected, found = items.truth(self.database), self.arrived(destination)
        wanted = Counter((writer, *change) for writer, changes in expected.items() for change in changes)
        there = Counter((writer, *change) for writer, changes in found.items() for change in changes)
        doubled = sum(number - 1 for number in there.values() if number > 1)
        counts = {
            "lost": (wanted - there).total(),
            "doubled": doubled,
            "invented": len(set(there) - set(wanted)),
            "out of order": int(not doubled and wanted == there and expected != found),
        }
        return {what: number for what, number in counts.items() if number}

    def ledger(self, destination: str) -> Counter[str]:
        """Totals of every outcome, and what is pending."""
        totals: Counter[str] = Counter(matched=0, pending=0)
        with self.state() as state:
            for row in state.ledger.rows("main", destination):
                totals += Counter({name: getattr(row, name) for name in ("matched", "replayed", "pending", *OUTCOMES)})
        return totals

    def check(self, *destinations: str) -> None:
        """Every destination holds the truth, each change once and in order, and the ledger adds up to it exactly."""
        expected = sum(map(len, items.truth(self.database).values()))
        for destination in destinations or tuple(self.worker.settings.destinations):
            assert self.differences(destination) == {}, f"{destination}: {self.differences(destination)}"
            ledger = self.ledger(destination)
            assert ledger["matched"] == expected, f"{destination}: {ledger}, and the source committed {expected}"
            assert sum(ledger[outcome] for outcome in OUTCOMES) == expected and not ledger["pending"], f"{destination}: {ledger}"


def sql(folder: Path, name: str = "sql") -> dict[str, Any]:
    return {"type": "sql", "url": f"sqlite:///{folder / name}.db"}


def segment(server: SegmentServer, **settings: Any) -> dict[str, Any]:
    return {"type": "segment", "endpoint": server.url, "write_key": "key", **settings}


SMALL: dict[str, object] = {"sources.postgres.segments__MAX_FRAMES": 5, "delivery.loop__READ": 1, "delivery.loop__COMMIT": 0}
"""Constants for Scene.tune by which a few rows take many steps."""


def die(scene: Scene, role: str, place: str) -> None:
    """Run the role until it kills itself at the place; see failpoint.py. The scene has been tuned."""
    worker = scene.worker
    worker.environment["FAILPOINT"] = place
    process = worker.start("--only", role)
    try:
        assert process.wait(30) == -signal.SIGKILL, worker.log
    finally:
        end(process)
        del worker.environment["FAILPOINT"]
