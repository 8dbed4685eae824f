"""The demo from beginning to end: a database, a worker, traffic, two kills, and the count."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from importlib import resources

import psycopg

from cdc_tracker import config
from cdc_tracker.demo import oracle
from cdc_tracker.demo.oracle import Verdict
from cdc_tracker.demo.place import Place
from cdc_tracker.demo.receiver import Receiver
from cdc_tracker.demo.screen import Screen
from cdc_tracker.demo.server import Server
from cdc_tracker.demo.shop import Shopper
from cdc_tracker.demo.watch import Watch
from cdc_tracker.demo.worker import Worker, kill
from cdc_tracker.state import State

DESTINATIONS = ("events", "warehouse", "segment")
_CONNECTIONS = 2
_START_SECONDS = 30.0
_CATCH_UP_SECONDS = 30.0
_LOOK_SECONDS = 0.25


class StoryFailed(Exception):
    """Something other than the worker went wrong, so that the count would mean nothing."""


class Story:
    def __init__(self, place: Place, screen: Screen, *, seconds: float, rate: float, seed: int) -> None:
        self._place = place
        self._screen = screen
        self._seconds = seconds
        self._rate = rate
        self._seed = seed

    def tell(self, *, keep: bool) -> bool:
        """Whether nothing was lost and nothing doubled."""
        self._screen.say("Starting an embedded PostgreSQL 18 with an empty shop in it.")
        server = Server(self._place.server)
        try:
            with server, Receiver(self._place.vendor) as receiver, Worker(self._place.config, self._place.log) as worker:
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
            self._screen.say(f"What was parked: cdc-tracker --config {self._place.config} dead-letters list")
        self._screen.end(verdicts, self._files(server, keep))
        return good

    def _open(self, server: Server, receiver: Receiver, worker: Worker) -> None:
        schema = resources.files(__package__).joinpath("schema.sql").read_bytes()
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(schema)
        self._place.write_config(server.url, receiver.endpoint)
        self._screen.say("cdc-tracker setup: outbox, publication, slot.")
        worker.command("setup", "--yes")
        self._screen.say("cdc-tracker check")
        worker.command("check")

    @contextlib.contextmanager
    def _watch(self, url: str) -> Iterator[tuple[Watch, list[Shopper]]]:
        """The shoppers, and someone who looks on. Both end with the block."""
        shoppers = [Shopper(url, seed=self._seed * 10 + one, rate=self._rate / _CONNECTIONS) for one in range(_CONNECTIONS)]
        try:
            with (
                State.open(config.load(self._place.config).state_url) as state,
                psycopg.connect(url, autocommit=True) as connection,
            ):
                yield Watch(state, connection, DESTINATIONS, shoppers), shoppers
        finally:
            _end(shoppers)

    def _start(self, worker: Worker, watch: Watch) -> None:
        self._screen.say("cdc-tracker run")
        worker.start()
        deadline = time.monotonic() + _START_SECONDS
        while not watch.at_work():
            worker.see_alive()
            if time.monotonic() > deadline:
                raise StoryFailed(f"Not every role of the worker has started within {_START_SECONDS:g} s: see {self._place.log}")
            time.sleep(0.05)

    def _trade(self, worker: Worker, watch: Watch, shoppers: list[Shopper]) -> None:
        """Until the shop closes. Kills the whole worker after a third of the time and one role after two."""
        for shopper in shoppers:
            shopper.start()
        opened = time.monotonic()
        closes = opened + self._seconds
        kills: list[tuple[float, Callable[[], None]]] = [
            (opened + self._seconds / 3, lambda: self._kill_everything(worker, watch)),
            (opened + self._seconds * 2 / 3, lambda: self._kill_one_role(watch)),
        ]
        # A slow machine keeps the shop open until both kills have met a worker at work.
        while time.monotonic() < closes or (kills and time.monotonic() < closes + _START_SECONDS):
            worker.see_alive()
            _see_well(shoppers)
            if kills and time.monotonic() >= kills[0][0] and watch.at_work():
                kills.pop(0)[1]()
            self._screen.show(watch.look())
            time.sleep(_LOOK_SECONDS)
        _end(shoppers)
        _see_well(shoppers)
        if kills:
            raise StoryFailed(f"The worker did not come back to work after a kill: see {self._place.log}")

    def _kill_everything(self, worker: Worker, watch: Watch) -> None:
        worker.kill(watch.role_pids())
        watch.kills.append("the worker with all its roles")
        self._screen.say("SIGKILL to the worker with all its roles; starting it again.", "yellow")
        worker.start()

    def _kill_one_role(self, watch: Watch) -> None:
        role = ("capture", *(f"deliver:{name}" for name in DESTINATIONS))[self._seed % 4]
        pid = watch.role_pid(role)
        if pid is None or not kill(pid):
            raise StoryFailed(f"There is no process of the role {role} to kill.")
        watch.kills.append(role)
        self._screen.say(f"SIGKILL to the role {role}; its supervisor starts it again.", "yellow")

    def _settle(self, url: str, worker: Worker, watch: Watch) -> list[Verdict]:
        """The shop is closed: wait until the destinations have everything, stop the worker, and count once more."""
        view = watch.look()
        self._screen.say(
            f"The shop is closed: {view.transactions:,} transactions, {view.rows:,} changes, {view.rolled_back:,} rolled back. "
            "Waiting for the destinations, then comparing them with the source tables."
        )
        wanted = oracle.expected(url)
        deadline = time.monotonic() + _CATCH_UP_SECONDS
        while time.monotonic() < deadline and not self._complete(wanted):
            worker.see_alive()
            self._screen.show(watch.look())
            time.sleep(2 * _LOOK_SECONDS)
        self._screen.show(watch.look())
        worker.stop()
        return [oracle.compare(name, wanted, self._held(name)) for name in DESTINATIONS]

    def _complete(self, wanted: oracle.Expected) -> bool:
        """Whether nothing is missing any more. One destination after the other: the worker needs the machine more than we do."""
        return all(not oracle.compare(name, wanted, self._held(name)).lost for name in DESTINATIONS)

    def _held(self, name: str) -> oracle.Held:
        place = self._place
        if name == "events":
            return oracle.in_jsonl(place.event_files())
        return oracle.in_warehouse(place.warehouse) if name == "warehouse" else oracle.at_vendor(place.vendor)

    def _files(self, server: Server, keep: bool) -> list[tuple[str, str]]:
        files = [
            ("events, as lines", str(self._place.events)),
            ("events, as rows", str(self._place.warehouse)),
            ("events, by HTTP", str(self._place.vendor)),
            ("the worker's log", str(self._place.log)),
            ("its configuration", str(self._place.config)),
        ]
        return [*files, ("the database", str(server.data))] if keep else files


def _see_well(shoppers: list[Shopper]) -> None:
    for shopper in shoppers:
        if shopper.failure is not None:
            raise StoryFailed(f"The shop could not write to the database: {shopper.failure}") from shopper.failure


def _end(shoppers: list[Shopper]) -> None:
    for shopper in shoppers:
        shopper.stop()
    for shopper in shoppers:
        if shopper.ident is not None:
            shopper.join()
