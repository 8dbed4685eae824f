"""A slot goes on with another output plugin, and nothing is missed: for tables that wal2json does not give exactly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from cdc_tracker.capture.loop import Capture
from cdc_tracker.cli import output
from cdc_tracker.cli.standing import Standing
from cdc_tracker.errors import SlotMissing
from cdc_tracker.model import START, Lsn, format_lsn
from cdc_tracker.sources.postgres import plugins, slot
from cdc_tracker.sources.postgres.snapshot import emit
from cdc_tracker.worker import assemble

_LOOK = 0.2  # seconds between two looks at how far the journal is


def due(place: Standing) -> bool:
    """Whether `run` has to be called, with no worker running; also where it was interrupted."""
    record, settings = place.record(), place.config.source
    if record is None:
        return False
    if slot.inspect(place.connection, plugins.spare(record.slot)) is not None:
        return True
    found = slot.inspect(place.connection, record.slot)
    needs = assemble.table_needs(place.config, assemble.load_mappings(place.config))
    return found is not None and plugins.choose_next(place.connection, settings, needs, found) != found.plugin


def run(place: Standing) -> None:
    """Read with the old plugin past a mark, from where the publications are as they are now; then change the slot's plugin.

    Raises what `run` would stop with. May be run again where it was interrupted.
    """
    record = place.record()
    if record is None:
        raise SlotMissing("this source is not set up", hint="run `cdc-tracker setup`")
    found = slot.inspect(place.connection, record.slot)
    if found is not None and found.plugin != plugins.EXACT:
        mark = emit(place.connection, 0, "low")
        output.say(f"slot          {record.slot}: read on with {record.plugin} to {format_lsn(mark)}")
        _read(place, mark)
    end = place.journal.end() or START
    made = plugins.change(place.connection, record.slot, end.commit_lsn)
    record = place.record() or record  # reading has confirmed more
    confirmed = max(record.confirmed_lsn, made.confirmed_flush_lsn or 0)
    place.state.sources.save(replace(record, plugin=made.plugin, confirmed_lsn=confirmed, journaled_lsn=end.commit_lsn))
    plugins.drop_spare(place.connection, record.slot)
    output.say(f"slot          {record.slot}: goes on with {made.plugin} from there, and nothing is missed")


def _read(place: Standing, upto: Lsn) -> None:
    config = place.config
    Capture(
        settings=config.source,
        needs=assemble.table_needs(config, assemble.load_mappings(config)),
        journal=place.journal,
        state=place.state,
        destinations=list(config.destinations),
        retention=config.journal.retention,
        stop=_journaled(place, upto),
        verify=lambda: None,
        to_its_end=True,
    ).run()


def _journaled(place: Standing, upto: Lsn) -> Callable[[], bool]:
    """Whether the mark is in the journal. Asked for each frame, so that it looks now and then only."""
    due_at, found = 0.0, False

    def journaled() -> bool:
        nonlocal due_at, found
        if not found and time.monotonic() >= due_at:
            due_at, end = time.monotonic() + _LOOK, place.journal.end()
            found = end is not None and end.commit_lsn > upto
        return found

    return journaled
