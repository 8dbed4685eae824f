"""The demo from start to end: a database, a worker, traffic, two kills, and the comparison."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import psycopg

from cdc_tracker.demo import DemoFailed, oracle
from cdc_tracker.demo.folder import DemoFolder
from cdc_tracker.demo.oracle import Verdict
from cdc_tracker.demo.receiver import Receiver
from cdc_tracker.demo.screen import Screen
from cdc_tracker.demo.shopper import Shopper
from cdc_tracker.demo.watch import Watch
from cdc_tracker.demo.worker import Worker, kill
from cdc_tracker.embedded import Server
from cdc_tracker.worker import assemble

DESTINATIONS = ("events", "warehouse", "segment")
_CONNECTIONS = 2
_START_SECONDS = 30.0
_CATCH_UP_SECONDS = 30.0
_LOOK_SECONDS = 0.25


class ScenarioFailed(DemoFailed):
    """Something else than the worker failed: the comparison would prove nothing."""


def play(folder: Path, *, seconds: float, rate: float, seed: int, keep: bool) -> bool:
    """Runs the demo in the folder; whether no event was lost or duplicated. Raises DemoFailed."""
    with DemoFolder(folder) as files, Screen() as screen:
        return Scenario(files, screen, seconds=seconds, rate=rate, seed=seed).run(keep=keep)


class Scenario:
    """One run of the demo."""

    def __init__(self, folder: DemoFolder, screen: Screen, *, seconds: float, rate: float, seed: int) -> None:
        self._folder = folder
        self._screen = screen
        self._seconds = seconds
        self._rate = rate
        self._seed = seed

    def run(self, *, keep: bool) -> bool:
        """Runs it; whether no event was lost or duplicated. Raises ScenarioFailed, ServerFailed or WorkerFailed."""
        self._screen.say("Starting an embedded PostgreSQL 18 with an empty shop in it.")
        server = Server(self._folder.server)
        try:
            with server, Receiver(self._folder.vendor) as receiver, Worker(self._folder.config, self._folder.log) as worker:
                self._open(server, receiver, worker)
                with self._watch(server.url) as (watch, shoppers):
                    self._start(worker, watch)
                    self._trade(worker, watch, shoppers)
                    verdicts = self._settle(server.url, worker, watch)
        finally:
            self._screen.close()
            if not keep:
                server.remove()
        self._screen.verdict(verdicts)
        good = all(verdict.good for verdict in verdicts)
        if not good:
            self._screen.say(f"What was parked: cdc-tracker --config {self._folder.config} dead-letters list")
        self._screen.end(verdicts, self._files(server, keep))
        return good

    def _open(self, server: Server, receiver: Receiver, worker: Worker) -> None:
        schema = resources.files(__package__).joinpath("schema.sql").read_bytes()
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(schema)
        self._folder.write_config(server.url, receiver.endpoint)
        self._screen.say("cdc-tracker setup: outbox, publication, slot.")
        worker.command("setup", "--yes")
        self._screen.say("cdc-tracker check")
        worker.command("check")

    @contextlib.contextmanager
    def _watch(self, url: str) -> Iterator[tuple[Watch, list[Shopper]]]:
        """The shoppers and the observer of their work. Both end with the block."""
        shoppers = [Shopper(url, seed=self._seed * 10 + one, rate=self._rate / _CONNECTIONS) for one in range(_CONNECTIONS)]
        try:
            config = assemble.load_config(self._folder.config)
            with assemble.open_state(config) as state, assemble.open_journal(config) as journal:
                yield Watch(config, state, journal, shoppers), shoppers
        finally:
            _end(shoppers)

    def _start(self, worker: Worker, watch: Watch) -> None:
        self._screen.say("cdc-tracker run")
        worker.start()
        deadline = time.monotonic() + _START_SECONDS
        while not watch.running():
            worker.check_alive()
            if time.monotonic() > deadline:
                raise ScenarioFailed(f"Not all roles of the worker started within {_START_SECONDS:g} s: see {self._folder.log}")
            time.sleep(0.05)

    def _trade(self, worker: Worker, watch: Watch, shoppers: list[Shopper]) -> None:
        """Traffic until the shop closes. Kills the whole worker after a third of the time, and one role after two thirds."""
        for shopper in shoppers:
            shopper.start()
        opened = time.monotonic()
        closes = opened + self._seconds
        kills: list[tuple[float, Callable[[], None]]] = [
            (opened + self._seconds / 3, lambda: self._kill_everything(worker, watch)),
            (opened + self._seconds * 2 / 3, lambda: self._kill_one_role(watch)),
        ]
        # On a slow machine the shop stays open until both kills have hit a running worker.
        while time.monotonic() < closes or (kills and time.monotonic() < closes + _START_SECONDS):
            worker.check_alive()
            _check_shoppers(shoppers)
            if kills and time.monotonic() >= kills[0][0] and watch.running():
                kills.pop(0)[1]()
            self._screen.show(watch.look())
            time.sleep(_LOOK_SECONDS)
        _end(shoppers)
        _check_shoppers(shoppers)
        if kills:
            raise ScenarioFailed(f"The worker did not come back to work after a kill: see {self._folder.log}")

    def _kill_everything(self, worker: Worker, watch: Watch) -> None:
        worker.kill(watch.role_pids().values())
        watch.kills.append("the worker with all its roles")
        self._screen.say("SIGKILL to the worker with all its roles; starting it again.", "yellow")
        worker.start()

    def _kill_one_role(self, watch: Watch) -> None:
        role = ("capture", *(f"deliver:{name}" for name in DESTINATIONS))[self._seed % 4]
        pid = watch.role_pids().get(role)
        if pid is None or not kill(pid):
            raise ScenarioFailed(f"There is no process of the role {role} to kill.")
        watch.kills.append(role)
        self._screen.say(f"SIGKILL to the role {role}; its supervisor starts it again.", "yellow")

    def _settle(self, url: str, worker: Worker, watch: Watch) -> list[Verdict]:
        """Waits until the destinations have every event, stops the worker, and compares."""
        view = watch.look()
        self._screen.say(
            f"The shop is closed: {view.transactions:,} transactions, {view.rows:,} changes, {view.rolled_back:,} rolled back. "
            "Waiting for the destinations, then comparing them with the source tables."
        )
        wanted = oracle.expected(url)
        deadline = time.monotonic() + _CATCH_UP_SECONDS
        while time.monotonic() < deadline and not self._complete(wanted):
            worker.check_alive()
            self._screen.show(watch.look())
            time.sleep(2 * _LOOK_SECONDS)
        self._screen.show(watch.look())
        worker.stop()
        return [oracle.compare(name, wanted, self._held(name)) for name in DESTINATIONS]

    def _complete(self, wanted: oracle.Expected) -> bool:
        """Whether no event is missing. Looks at one destination after the other, to leave the CPU to the worker."""
        return all(not oracle.compare(name, wanted, self._held(name)).lost for name in DESTINATIONS)

    def _held(self, name: str) -> oracle.Held:
        folder = self._folder
        if name == "events":
            return oracle.in_jsonl(folder.event_files())
        return oracle.in_warehouse(folder.warehouse) if name == "warehouse" else oracle.at_vendor(folder.vendor)

    def _files(self, server: Server, keep: bool) -> dict[str, Path]:
        folder = self._folder
        files = {"events, as lines": folder.events, "events, as rows": folder.warehouse, "events, by HTTP": folder.vendor}
        files |= {"the worker's log": folder.log, "its configuration": folder.config}
        return files | ({"the database": server.data} if keep else {})


def _check_shoppers(shoppers: list[Shopper]) -> None:
    for shopper in shoppers:
        if shopper.failure is not None:
            raise ScenarioFailed(f"The shop could not write to the database: {shopper.failure}") from shopper.failure


def _end(shoppers: list[Shopper]) -> None:
    for shopper in shoppers:
        shopper.stop()
    for shopper in shoppers:
        if shopper.ident is not None:
            shopper.join()
