"""The checkpoint of a new destination, from its `start`. A destination that has a checkpoint ignores `start`."""

from __future__ import annotations

import os
from collections.abc import Callable

import structlog

from cdc_tracker.config.destination import Start
from cdc_tracker.delivery.points import Target, located
from cdc_tracker.delivery.sender import Interrupted
from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal
from cdc_tracker.model import START, Position, format_lsn
from cdc_tracker.state import DeliveryReport, State
from cdc_tracker.times import for_display, to_micros, wait

REPORT = 1.0  # seconds between two looks at a journal that has not reached the start yet

log = structlog.get_logger("deliver")


def start_position(journal: Journal, start: Start, *, slot: Position) -> Position | None:
    """The position that `start` stands for. `slot`: the position at which the slot, and so an empty journal, begins.

    For a time: just before the first transaction committed at or after it; None while the journal has no such transaction: the
    server may have older ones that were not read. Raises Stop for a time before the journal's first transaction.
    """
    horizon = journal.horizon()
    if start == "now":
        return max(slot, horizon.last if horizon else START)
    if start == "earliest":
        return horizon.start if horizon else slot
    if horizon is None:
        return None
    time_us = to_micros(start)
    if time_us < horizon.first_time:
        raise Stop(
            f"start: {start.isoformat()} is before the journal begins, at "
            f"{format_lsn(horizon.start.commit_lsn)} ({for_display(horizon.first_time)}). Nothing was sent.",
            hint="Write `start: earliest` to begin there. Older events can only be made from the tables as they are now: "
            "`cdc-tracker backfill` does that for mappings that declare it.",
        )
    found = located(journal, Target(time_us=time_us))
    return found if found < horizon.last else None


def ensure_checkpoint(
    journal: Journal, state: State, source: str, name: str, start: Start, *, slot: Position, stop: Callable[[], bool]
) -> None:
    """Gives a new destination its checkpoint, once the journal has reached `start`. Raises Interrupted when `stop()` is true."""
    if state.checkpoints.get(source, name) is not None:
        return
    said = False
    while (position := start_position(journal, start, slot=slot)) is None:
        waits = f"it begins with the first transaction committed at or after {start}, which the journal does not have yet"
        if not said:
            log.info("new destination: " + waits, name=name)
            said = True
        state.reports.save(source, f"deliver:{name}", os.getpid(), "waiting", DeliveryReport(trouble=waits))
        if wait(REPORT, stop):
            raise Interrupted([])
    state.checkpoints.create(source, name, position)
    log.info("new destination", name=name, start=str(start), position=str(position))
