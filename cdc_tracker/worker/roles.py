"""The roles of a worker, each a process: capture, `deliver:NAME`, and the supervisor that starts them."""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import structlog

from cdc_tracker import logs, mapping
from cdc_tracker.capture.loop import Capture
from cdc_tracker.config.config import Config
from cdc_tracker.delivery.faults import Fault
from cdc_tracker.delivery.jobs.runner import Jobs
from cdc_tracker.delivery.loop import Delivery
from cdc_tracker.delivery.mapping_versions import LoadedMappings, MappingVersions
from cdc_tracker.delivery.sender import Interrupted
from cdc_tracker.delivery.start import ensure_checkpoint
from cdc_tracker.destinations.base import Cursor, Destination
from cdc_tracker.errors import NEEDS_A_PERSON, AlreadyRunning, CdcTrackerError, Fenced, Stop
from cdc_tracker.journal import Journal
from cdc_tracker.model import Position
from cdc_tracker.monitoring.worker import failed
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import Lock, SourceRecord, State
from cdc_tracker.worker import assemble
from cdc_tracker.worker.processes import ForkServer, name_process
from cdc_tracker.worker.signals import Signals
from cdc_tracker.worker.supervisor import Supervisor

FAILED = 1
COLLECT = 1_000  # objects until the next garbage collection: an HTTP request is a cycle that keeps a batch's bytes
SWITCH = 0.0005  # seconds until a delivery's threads switch: with Python's 5 ms an answer waits too long to be read
TAKEOVER = 15.0  # seconds that a role waits for the lock of its predecessor, which may have been killed a moment ago

log = structlog.get_logger("daemon")


def run(config: Config, only: str | None = None, standby: bool = False) -> int:
    """Runs every role, or only `capture` or `deliver:NAME`, until a signal. Returns the exit code; 3: the user is needed."""
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
            _freeze(20 * COLLECT)  # capture creates three buffers per frame and no cycles
            run_capture(config, signals, standby)
        else:
            run_delivery(config, only.removeprefix("deliver:"), signals, standby)
    except Interrupted:
        log.info("stopped before the start was complete")
    except CdcTrackerError as error:
        log.error(str(error), hint=error.hint)
        if not isinstance(error, AlreadyRunning | Fenced):  # the report then belongs to the other process
            report_end(config, only, str(error), error.hint)
        return NEEDS_A_PERSON if isinstance(error, Stop) else FAILED
    except Exception as error:
        log.exception("a fault in cdc-tracker: the role restarts and continues from its checkpoint")
        report_end(config, only, f"a fault in cdc-tracker ({type(error).__name__})", "the log has the traceback")
        return FAILED
    return 0


def report_end(config: Config, role: str | None, trouble: str, hint: str) -> None:
    """Reports what ended a role, if the state store can be written."""
    try:
        with assemble.open_state(config) as state:
            failed(state, config.source.name, role, logs.hide(trouble, config.secrets()), hint)
    except CdcTrackerError as error:
        log.warning("the report could not be stored", error=str(error))


def _freeze(threshold: int) -> None:
    """Exempts the loaded program from garbage collection, which would stop every thread for some 50 ms to look through it."""
    gc.freeze()
    gc.set_threshold(threshold, 5, 5)


def run_capture(config: Config, signals: Signals, standby: bool = False) -> None:
    """Runs the role `capture` until a signal."""
    with _opened(config, "capture", signals, standby) as (state, lock, journal):
        assemble.source_record(config, state)
        state.claim(lock, config.source.name)
        Capture(
            settings=config.source,
            needs=assemble.table_needs(config, assemble.load_mappings(config)),
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
    """Runs the role `deliver:NAME` until a signal."""
    with _opened(config, f"deliver.{name}", signals, standby) as (state, lock, journal), ExitStack() as stack:
        record = assemble.source_record(config, state)
        slot, settings = Position(record.created_lsn, -1), config.destinations[name]
        destination = assemble.open_destination(config, name, dry_run=settings.dry_run)
        stack.callback(_close, destination)
        if settings.dry_run:
            log.warning("dry run: events are counted as suppressed, and nothing is sent", name=name)
        ensure_checkpoint(journal, state, record.name, name, settings.start, slot=slot, stop=_stopping(signals, lock))
        state.claim(lock, record.name, name)
        abandon = partial(_abandoned, signals, lock)
        jobs = Jobs(
            settings=config.source,
            name=name,
            destination=destination,
            state=state,
            journal=journal,
            pipelines=partial(assemble.build_pipeline, config, record, name),
            keep_ids=settings.sent_ledger is not None,
            abandon=abandon,
        )
        delivery = Delivery(
            cursor=Cursor(record.name, name, origin=record.namespace),
            destination=destination,
            dry_run=settings.dry_run,
            mappings=_mapping_versions(config, record, name),
            journal=journal,
            state=state,
            jobs=jobs,
            sent_ledger=settings.sent_ledger,
            stop=_stopping(signals, lock),
            abandon=abandon,
            reload=signals.take_reload,
        )
        _freeze(COLLECT)
        sys.setswitchinterval(SWITCH)
        delivery.run()
        lock.check()


def _mapping_versions(config: Config, record: SourceRecord, destination: str) -> MappingVersions:
    def load() -> LoadedMappings:
        texts = mapping.texts(config.mapping_paths)
        loaded = assemble.load_mappings(config, texts)
        raw = config.destinations[destination].requirements.raw
        keys = [each.key for each in loaded.all if each.goes_to(destination) and not raw]
        return LoadedMappings(assemble.build_pipeline(config, record, destination, loaded), texts, keys)

    def build(texts: Mapping[str, str]) -> Pipeline:
        return assemble.build_pipeline(config, record, destination, mapping.load_texts(texts))

    return MappingVersions(destination, load, build)


def _close(destination: Destination) -> None:
    """Closes the destination at the end of the role. An error is logged only: it changes nothing that was delivered."""
    try:
        destination.close()
    except Exception as error:
        log.error("the destination fails at closing", error=Fault(error).place, traceback=Fault(error).trace)


def _stopping(signals: Signals, lock: Lock) -> Callable[[], bool]:
    return lambda: signals.stop() or signals.orphaned() or lock.lost is not None


def _abandoned(signals: Signals, lock: Lock) -> bool:
    """Whether to give up what is in flight. Asked before each call to a destination: waits while the lock may be lost."""
    while True:
        if lock.lost is not None or signals.abandon() or signals.orphaned():
            return True
        if lock.held():
            return False
        time.sleep(0.02)


@contextmanager
def _opened(config: Config, role: str, signals: Signals, standby: bool) -> Iterator[tuple[State, Lock, Journal]]:
    """Opens the stores and holds the role's lock. In a standby, waits for the lock without limit. Raises AlreadyRunning."""
    with ExitStack() as stack:
        state = stack.enter_context(assemble.open_state(config))
        wait = math.inf if standby else TAKEOVER
        lock = state.lock(f"{config.source.name}.{role}", wait, stop=lambda: signals.stop() or signals.orphaned())
        try:
            stack.enter_context(lock)
        except AlreadyRunning as error:
            if signals.stop():
                raise Interrupted([]) from error
            raise
        journal = stack.enter_context(assemble.open_journal(config))
        yield state, lock, journal
