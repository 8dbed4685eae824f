"""Gives a slot another output plugin without missing a change: for tables that wal2json does not give exactly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from cdc_tracker.capture.loop import Capture
from cdc_tracker.errors import SlotMissing
from cdc_tracker.model import START, Lsn, format_lsn
from cdc_tracker.operations.source import SourceSetup
from cdc_tracker.sources.postgres import plugins, slot
from cdc_tracker.sources.postgres.snapshot import write_watermark

_POLL = 0.2  # seconds between two looks at how far the journal is


def due(source: SourceSetup) -> bool:
    """Whether the slot needs another plugin, or a change of it was interrupted. False before `setup`."""
    record, settings = source.record(), source.config.source
    if record is None:
        return False
    if slot.inspect(source.connection, plugins.spare(record.slot)) is not None:
        return True
    found = slot.inspect(source.connection, record.slot)
    return found is not None and plugins.choose_next(source.connection, settings, source.needs, found) != found.plugin


def apply(source: SourceSetup) -> None:
    """Reads with the old plugin up to a mark that follows the publications' last change, then changes the slot's plugin.

    The caller holds `source.exclusive()` and has made the publications. May be called again after an interruption. Raises the
    Stop that `run` would end with.
    """
    record = source.record()
    if record is None:
        raise SlotMissing("this source is not set up", hint="run `cdc-tracker setup`")
    found = slot.inspect(source.connection, record.slot)
    if found is not None and found.plugin != plugins.EXACT:
        mark = write_watermark(source.connection, 0, "low")
        source.done("slot", f"{record.slot}: reading on with {record.plugin} up to {format_lsn(mark)}")
        _capture(source, mark)
    end = source.journal.end() or START
    changed = plugins.change(source.connection, record.slot, end.commit_lsn)
    record = source.record() or record  # capture has confirmed more
    confirmed = max(record.confirmed_lsn, changed.confirmed_flush_lsn or 0)
    source.state.sources.save(replace(record, plugin=changed.plugin, confirmed_lsn=confirmed, journaled_lsn=end.commit_lsn))
    plugins.drop_spare(source.connection, record.slot)
    source.done("slot", f"{record.slot}: continues with {changed.plugin} from there, and nothing is missed")


def _capture(source: SourceSetup, upto: Lsn) -> None:
    Capture(
        settings=source.config.source,
        needs=source.needs,
        journal=source.journal,
        state=source.state,
        destinations=list(source.config.destinations),
        retention=source.config.journal.retention,
        stop=_journaled(source, upto),
        verify=lambda: None,
        to_its_end=True,
    ).run()


def _journaled(source: SourceSetup, upto: Lsn) -> Callable[[], bool]:
    """Whether the mark is in the journal. Capture asks for each frame, so the journal is looked at every _POLL seconds only."""
    next_look, found = 0.0, False

    def journaled() -> bool:
        nonlocal next_look, found
        if not found and time.monotonic() >= next_look:
            next_look, end = time.monotonic() + _POLL, source.journal.end()
            found = end is not None and end.commit_lsn > upto
        return found

    return journaled
