"""The composition root: puts the roles together from the configuration, and supervises them as processes."""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import structlog

from cdc_tracker import logs, mapping
from cdc_tracker.capture import Capture
from cdc_tracker.config import Config
from cdc_tracker.deliver import Delivery, Translation
from cdc_tracker.destinations.base import Destination
from cdc_tracker.destinations.faults import Fault
from cdc_tracker.destinations.send import Interrupted
from cdc_tracker.destinations.shaping import Shaping
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, Fenced, MappingError, Retry, Stop
from cdc_tracker.health import Observer
from cdc_tracker.health.server import HealthServer
from cdc_tracker.health.worker import WorkerReport, failed
from cdc_tracker.history.beginning import begin
from cdc_tracker.history.jobs import Jobs
from cdc_tracker.journal import Journal
from cdc_tracker.model import Position
from cdc_tracker.processes import ForkServer, name_process
from cdc_tracker.refusals import Refusal
from cdc_tracker.signals import Signals
from cdc_tracker.source.needs import Need
from cdc_tracker.state import Lock, SourceRecord, State

FAILED, NEEDS_A_PERSON = 1, 3
LONGEST = 30.0  # seconds between two starts of a role that keeps failing
STEADY = 30.0  # seconds that a role must have run for its backoff to start anew
COLLECT = 1_000  # objects after which a role looks for cycles: HTTP requests are some, and hold a batch's bytes
SWITCH = 0.0005  # seconds in which a delivery's threads take turns: an answer is not to wait Python's 5 ms to be read
LEAVE = 5.0  # seconds that a role has to leave what it does once it is to be abandoned
HUNG = 60.0  # seconds without a look at the roles after which the supervisor is not alive any more
TAKEOVER = 15.0  # seconds that a role waits for its predecessor, killed a moment ago, to be gone
GRACE = 3.0  # seconds that a standby leaves a lock alone that has become free: its holder may only have lost the session

log = structlog.get_logger("daemon")


def run(config: Config, only: str | None = None, standby: bool = False) -> int:
    """Run every role, or only `capture` or `deliver:NAME`, until told to stop; the exit code: 3 where a person is needed."""
    logs.set_up(config.log, secrets=config.secrets())
    name_process(only or "cdc-tracker")
    os.umask(config.umask)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    signals = Signals(config.drain_timeout)
    try:
        if only is None:
            _freeze(COLLECT)
            with closing(ForkServer(lambda name: run(config, name, standby))) as forks:
                Supervisor(config, signals, standby, forks).run()
        elif only == "capture":
            _freeze(20 * COLLECT)  # it makes three buffers a frame and no cycles
            run_capture(config, signals, standby)
        else:
            run_delivery(config, only.removeprefix("deliver:"), signals, standby)
    except Interrupted:
        log.info("stopped before it began")
    except CdcTrackerError as error:
        log.error(str(error), hint=error.hint)
        if not isinstance(error, AlreadyRunning | Fenced):  # then the report is that of the other one
            failed(config, only, str(error), error.hint)
        return NEEDS_A_PERSON if isinstance(error, Stop) else FAILED
    except Exception as error:
        log.exception("a fault in cdc-tracker: the role is started again and goes on from its checkpoint")
        failed(config, only, f"a fault in cdc-tracker ({type(error).__name__})", "the log has the traceback")
        return FAILED
    return 0


def _freeze(threshold: int) -> None:
    """What is there when a role begins stays: to look through all of it for cycles stops every thread for some 50 ms."""
    gc.freeze()
    gc.set_threshold(threshold, 5, 5)


def run_capture(config: Config, signals: Signals, standby: bool = False) -> None:
    with _opened(config, "capture", signals, standby) as (state, lock, journal):
        _known(config, state)
        state.claim(lock, config.source.name)
        Capture(
            settings=config.source,
            needs=_needs(config),
            journal=journal,
            state=state,
            destinations=list(config.destinations),
            retention=config.journal.retention,
            stop=_stopping(signals, lock),
            verify=lock.check,
            standby=standby,
        ).run()
        lock.check()


def run_delivery(config: Config, name: str, signals: Signals, standby: bool = False) -> None:
    with _opened(config, f"deliver.{name}", signals, standby) as (state, lock, journal), ExitStack() as stack:
        record = _known(config, state)
        slot, settings = Position(record.created_lsn, -1), config.destinations[name]
        destination = config.open_destination(name, dry_run=settings.dry_run)
        stack.callback(_close, destination)
        shaping = Shaping.of(settings)
        if settings.dry_run:
            log.warning("dry run: events are made and counted as suppressed, and nothing is sent", name=name)
        begin(journal, state, record.name, name, settings.start, slot=slot, stop=_stopping(signals, lock))
        state.claim(lock, record.name, name)
        abandon = partial(_abandoned, signals, lock)
        jobs = Jobs(
            settings=config.source,
            name=name,
            limits=destination.limits,
            shaping=shaping,
            state=state,
            journal=journal,
            translators=partial(config.translator, record, name),
            keep_ids=settings.sent_ledger is not None,
            abandon=abandon,
        )
        delivery = Delivery(
            source=config.source.name,
            name=name,
            destination=destination,
            shaping=shaping,
            dry_run=settings.dry_run,
            translator=_translators(config, name, record),
            made_by=lambda texts: config.translator(record, name, mapping.load_texts(texts)),
            journal=journal,
            state=state,
            jobs=jobs,
            sent_ledger=settings.sent_ledger,
            stop=_stopping(signals, lock),
            abandon=abandon,
            reload=signals.take_reload,
            origin=record.namespace,
        )
        _freeze(COLLECT)
        sys.setswitchinterval(SWITCH)
        delivery.run()
        lock.check()


def _close(destination: Destination) -> None:
    """At the end of the role: what it raises then changes nothing about what was delivered."""
    try:
        destination.close()
    except Exception as error:
        log.error("the destination fails at closing", error=Fault(error).place, traceback=Fault(error).trace)


def _stopping(signals: Signals, lock: Lock) -> Callable[[], bool]:
    return lambda: signals.stop() or signals.orphaned() or lock.lost is not None


def _abandoned(signals: Signals, lock: Lock) -> bool:
    """Whether to give up what is in flight. Asked before each call to a destination: waits while the lock may be another's."""
    while True:
        if lock.lost is not None or signals.abandon() or signals.orphaned():
            return True
        if lock.held():
            return False
        time.sleep(0.02)


def _translators(config: Config, destination: str | None, record: SourceRecord) -> Callable[[], Translation]:
    """Makes a Translator of the mappings as they are on disk now; keeps the last good one where they do not load."""
    last: list[Translation] = []

    def make() -> Translation:
        try:
            texts = mapping.texts(config.mapping_paths)
            translation = (config.translator(record, destination), texts)
        except MappingError as error:
            if not last:
                raise
            log.error("the mappings do not load: the old ones stay in force", error=str(error))
            return last[0]
        if last:
            log.info("mappings loaded anew", destination=destination)
        last[:] = [translation]
        return translation

    return make


def _needs(config: Config) -> dict[str, Need]:
    return config.needs(config.load_mappings())


@contextmanager
def _opened(config: Config, role: str, signals: Signals, standby: bool) -> Iterator[tuple[State, Lock, Journal]]:
    """The stores, with the role's lock held. A standby's role waits for it as long as it takes."""
    with ExitStack() as stack:
        state = stack.enter_context(State.open(config.state_url))
        wait = math.inf if standby else TAKEOVER
        lock = state.lock(f"{config.source.name}.{role}", wait, stop=lambda: signals.stop() or signals.orphaned())
        try:
            stack.enter_context(lock)
        except AlreadyRunning as error:
            if signals.stop():
                raise Interrupted([]) from error
            raise
        journal = stack.enter_context(Journal.open(config.journal_url, config.source.name, config.wake_dir))
        yield state, lock, journal


def _known(config: Config, state: State) -> SourceRecord:
    record = state.source(config.source.name)
    if record is None:
        raise Refusal.STATE_MISSING.error(
            f"the state store knows nothing of the source {config.source.name!r}",
            hint="run `cdc-tracker setup`; if it was set up before, the state store was lost: restore it, or see `setup --help`",
        )
    return record


class Role:
    """One process: what `cdc-tracker run --only ROLE` does."""

    def __init__(self, forks: ForkServer, name: str) -> None:
        self._forks, self.name = forks, name
        self._started = self._again = 0.0
        self._wait = 0.1
        self.running = False
        self.stopped = False  # a person is needed

    def tend(self) -> bool:
        """Start the role if it is time to. Whether it was."""
        if self.running or time.monotonic() < self._again:
            return False
        self._forks.start(self.name)
        self.running, self._started = True, time.monotonic()
        return True

    def back_off(self, code: int) -> None:
        """It has ended, and is to be started again after a while."""
        if time.monotonic() - self._started > STEADY:
            self._wait = 0.1
        self.stopped = code == NEEDS_A_PERSON
        self._again = time.monotonic() + (LONGEST if self.stopped else self._wait)
        self._wait = min(self._wait * 2, LONGEST)
        say = log.error if code else log.info
        say("role ended", role=self.name, code=code, again_in=f"{self._again - time.monotonic():.1f}s")

    def send(self, number: signal.Signals) -> None:
        if self.running:
            self._forks.send(self.name, number)


class Supervisor:
    """Starts the roles, restarts those that end, answers health probes, and passes signals on."""

    def __init__(self, config: Config, signals: Signals, standby: bool, forks: ForkServer) -> None:
        self._config, self._signals, self._standby, self._forks = config, signals, standby, forks
        self._needs: dict[str, Need] = {}
        names = ["capture", *(f"deliver:{name}" for name in config.destinations)]
        self._roles = {name: Role(forks, name) for name in names}
        self._capture = self._roles["capture"]
        self._looked = time.monotonic()  # when we last looked after the roles

    def _alive(self) -> bool:
        return not self._signals.stop() and time.monotonic() < self._looked + HUNG

    def run(self) -> None:
        """Lead until told to stop. A standby that loses the lead, or its stores while it takes over, stands by again."""
        while not self._signals.stop():
            try:
                self._work()
            except (Fenced, Retry) as error:
                if not self._standby:
                    raise
                log.error(str(error), hint="No role runs here. This worker stands by again.")

    def _work(self) -> None:
        config = self._config
        with ExitStack() as stack:
            state, lock = self._lead(stack)
            _known(config, state)
            mappings = config.load_mappings()
            self._needs = config.needs(mappings)
            self._report = WorkerReport(config, state, mappings)
            stack.callback(self._report.close)
            journal = stack.enter_context(Journal.open(config.journal_url, config.source.name, config.wake_dir))
            observer = Observer(state, journal, config.source.name, list(config.destinations), config.data)
            if config.http.port is not None:
                server = HealthServer(config.http.host, config.http.port, observer, self._alive)
                stack.callback(server.close)
                log.info("health and metrics", url=f"http://{config.http.host}:{server.port}")
            self._supervise(lock)

    def _lead(self, stack: ExitStack) -> tuple[State, Lock]:
        """The state store, with the source's lock held; a standby waits for both. Raises Interrupted when told to stop."""
        name, stop = f"{self._config.source.name}.worker", self._signals.stop
        wait, grace = (1.0, GRACE) if self._standby else (5.0, 0.0)
        state: State | None = None
        said = False
        while not stop():
            try:
                state = state or stack.enter_context(State.open(self._config.state_url))
                return state, stack.enter_context(state.lock(name, wait, grace=grace, stop=stop))
            except (AlreadyRunning, Retry) as error:
                if not self._standby and not stop():
                    raise
                if not said:
                    log.info("standing by", holder=str(error))
                said = True
                time.sleep(0.2)
        raise Interrupted([])

    def _supervise(self, lock: Lock) -> None:
        try:
            while not self._signals.stop():
                lock.check()
                for role in self._roles.values():
                    if role.tend():
                        self._report.started(role.name)
                for role, code in self._ended(0.05):
                    role.back_off(code)
                    self._report.ended(role.name, code)
                self._looked = time.monotonic()
                if self._capture.stopped:
                    raise Stop("capture has stopped: see the error above", hint="the destinations have what was captured so far")
                if self._signals.take_reload():
                    self._reload()
        finally:
            self._end(LEAVE if lock.lost else self._config.drain_timeout)

    def _ended(self, seconds: float) -> Iterator[tuple[Role, int]]:
        """Wait so long for roles that end, with their exit codes."""
        for name, code in self._forks.ended(seconds):
            self._roles[name].running = False
            yield self._roles[name], code

    def _reload(self) -> None:
        try:
            mappings = self._config.load_mappings()
        except CdcTrackerError as error:
            log.error("the mappings do not load: the old ones stay in force", error=str(error), hint=error.hint)
            self._report.reload_failed(error)
            return
        self._report.reloaded(mappings)
        needs = self._config.needs(mappings)
        if needs != self._needs:
            added = sorted(needs.keys() - self._needs.keys())
            log.info("other tables, columns or operations are mapped now: capture starts anew", added=added)
            self._needs = needs
            self._capture.send(signal.SIGTERM)
        for role in self._roles.values():
            if role is not self._capture:
                role.send(signal.SIGHUP)

    def _end(self, drain: float) -> None:
        """What is in flight has so many seconds."""
        limit = time.monotonic() + drain + LEAVE
        self._tell(signal.SIGTERM)
        while self._wait() and time.monotonic() < limit and not self._signals.abandon():
            pass
        limit = min(limit, time.monotonic() + LEAVE)
        while self._wait() and time.monotonic() < limit:
            pass
        self._tell(signal.SIGKILL)
        while self._wait():
            pass

    def _tell(self, number: signal.Signals) -> None:
        for role in self._roles.values():
            role.send(number)

    def _wait(self) -> bool:
        """A moment; whether any role still runs."""
        running = any(role.running for role in self._roles.values())
        for _ in self._ended(0.02 if running else 0.0):
            pass
        return running
