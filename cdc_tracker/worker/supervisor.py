"""The supervisor of a worker: starts and restarts its roles, passes signals on, and ends them if it loses the source's lock."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import structlog

from cdc_tracker.config.config import Config
from cdc_tracker.delivery.sender import Interrupted
from cdc_tracker.errors import NEEDS_A_PERSON, AlreadyRunning, CdcTrackerError, Fenced, Retry, Stop
from cdc_tracker.monitoring import Observer, fit
from cdc_tracker.monitoring.server import HealthServer
from cdc_tracker.monitoring.worker import WorkerReporter
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.state import Lock, State
from cdc_tracker.worker import assemble
from cdc_tracker.worker.processes import ForkServer
from cdc_tracker.worker.signals import Signals

LONGEST = 30.0  # seconds between two starts of a role that keeps failing
STEADY = 30.0  # seconds that a role must have run for its backoff to be reset
LEAVE = 5.0  # seconds that a role has to end after the signal to give up its work
HUNG = 60.0  # seconds without a look at the roles after which the health probe calls the supervisor dead
GRACE = 3.0  # seconds that a standby waits for a free lock to be taken again: its holder may only have lost the session

log = structlog.get_logger("daemon")


class Role:
    """A process that does what `cdc-tracker run --only ROLE` does."""

    def __init__(self, forks: ForkServer, name: str) -> None:
        self._forks, self.name = forks, name
        self._started = self._again = 0.0
        self._wait = 0.1
        self.running = False
        self.stopped = False  # its last exit code was 3

    def start_if_due(self) -> bool:
        """Starts the role unless it runs or backs off. Returns whether it was started."""
        if self.running or time.monotonic() < self._again:
            return False
        self._forks.start(self.name)
        self.running, self._started = True, time.monotonic()
        return True

    def back_off(self, code: int) -> None:
        """Takes the exit code of the role, and sets the time of its next start."""
        if time.monotonic() - self._started > STEADY:
            self._wait = 0.1
        self.stopped = code == NEEDS_A_PERSON
        self._again = time.monotonic() + (LONGEST if self.stopped else self._wait)
        self._wait = min(self._wait * 2, LONGEST)
        say = log.error if code else log.info
        say("role ended", role=self.name, code=code, again_in=f"{self._again - time.monotonic():.1f}s")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal if the role runs."""
        if self.running:
            self._forks.send(self.name, number)


class Supervisor:
    """Used from the main thread: `run` once. Health probes are answered by a thread of their own."""

    def __init__(self, config: Config, signals: Signals, standby: bool, forks: ForkServer) -> None:
        self._config, self._signals, self._standby, self._forks = config, signals, standby, forks
        self._needs: dict[str, Need] = {}
        names = ["capture", *(f"deliver:{name}" for name in config.destinations)]
        self._roles = {name: Role(forks, name) for name in names}
        self._capture = self._roles["capture"]
        self._looked = time.monotonic()  # when the roles were last looked at

    def _alive(self) -> bool:
        return not self._signals.stop() and time.monotonic() < self._looked + HUNG

    def run(self) -> None:
        """Leads until a signal. A standby that loses its lock, or a store while it takes over, stands by again.

        Raises Interrupted at a signal before it leads; AlreadyRunning; Stop if capture stopped for good.
        """
        while not self._signals.stop():
            try:
                self._lead()
            except (Fenced, Retry) as error:
                if not self._standby:
                    raise
                log.error(str(error), hint="No role runs here. This worker stands by again.")

    def _lead(self) -> None:
        config = self._config
        with ExitStack() as stack:
            state, lock = self._become_leader(stack)
            assemble.source_record(config, state)
            mappings = assemble.load_mappings(config)
            self._needs = assemble.table_needs(config, mappings)
            self._report = WorkerReporter(config, state, mappings)
            stack.callback(self._report.close)
            journal = stack.enter_context(assemble.open_journal(config))
            observer = Observer(state, journal, config.source.name, list(config.destinations), config.data)
            if config.http.port is not None:
                server = HealthServer(config.http.host, config.http.port, observer, self._alive)
                stack.callback(server.close)
                log.info("health and metrics", url=f"http://{config.http.host}:{server.port}")
            self._supervise(lock)

    def _become_leader(self, stack: ExitStack) -> tuple[State, Lock]:
        """Opens the state store and takes the source's lock; a standby waits for both. Raises Interrupted at a signal."""
        name, stop = f"{self._config.source.name}.worker", self._signals.stop
        wait, grace = (1.0, GRACE) if self._standby else (5.0, 0.0)
        state: State | None = None
        said = ""
        deadline = time.monotonic() + wait  # roles of a worker that was killed a moment ago may still run
        while not stop():
            try:
                state = state or stack.enter_context(assemble.open_state(self._config))
                return state, stack.enter_context(state.lock(name, wait, grace=grace, stop=stop))
            except (AlreadyRunning, Retry) as error:
                if not self._standby and not stop() and (isinstance(error, Retry) or time.monotonic() > deadline):
                    raise
                if self._standby and said != str(error):  # it may wait for a store first, and then for a lock
                    log.info("standing by", because=str(error))
                said = str(error)
                time.sleep(0.2 if state or not self._standby else 1.0)
        raise Interrupted([])

    def _supervise(self, lock: Lock) -> None:
        try:
            while not self._signals.stop():
                lock.check()
                for role in self._roles.values():
                    if role.start_if_due():
                        self._report.started(role.name)
                for role, code in self._ended(0.05):
                    role.back_off(code)
                    self._report.ended(role.name, code)
                self._looked = time.monotonic()
                if self._capture.stopped:
                    raise Stop("capture has stopped, and the worker with it", hint="capture's own error says why, and what to do")
                if self._signals.take_reload():
                    self._reload()
        finally:
            self._end(LEAVE if lock.lost else self._config.drain_timeout)

    def _ended(self, seconds: float) -> Iterator[tuple[Role, int]]:
        """Waits so long for roles to end; yields them with their exit codes."""
        for name, code in self._forks.ended(seconds):
            self._roles[name].running = False
            yield self._roles[name], code

    def _reload(self) -> None:
        try:
            mappings = assemble.load_mappings(self._config)
            fit.require(self._config.source.url.get_secret_value(), mappings)
        except CdcTrackerError as error:
            log.error("the mappings do not load: the old ones stay in force", error=str(error), hint=error.hint)
            self._report.reload_failed(error)
            return
        self._report.reloaded(mappings)
        needs = assemble.table_needs(self._config, mappings)
        if needs != self._needs:
            added = sorted(needs.keys() - self._needs.keys())
            log.info("mapped tables, columns or operations changed: restarting capture", added=added)
            self._needs = needs
            self._capture.send(signal.SIGTERM)
        for role in self._roles.values():
            if role is not self._capture:
                role.send(signal.SIGHUP)

    def _end(self, drain: float) -> None:
        """Ends every role. Work in flight has so many seconds to be finished."""
        limit = time.monotonic() + drain + LEAVE
        self._signal(signal.SIGTERM)
        while self._wait() and time.monotonic() < limit and not self._signals.abandon():
            pass
        limit = min(limit, time.monotonic() + LEAVE)
        while self._wait() and time.monotonic() < limit:
            pass
        self._signal(signal.SIGKILL)
        while self._wait():
            pass

    def _signal(self, number: signal.Signals) -> None:
        for role in self._roles.values():
            role.send(number)

    def _wait(self) -> bool:
        """Waits a moment. Returns whether any role still runs."""
        running = any(role.running for role in self._roles.values())
        for _ in self._ended(0.02 if running else 0.0):
            pass
        return running
