"""`setup` brings outbox, publications, slot, state and checkpoints to where they belong; `teardown` removes them."""

from __future__ import annotations

from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Literal, NamedTuple

from cdc_tracker.delivery.start import start_position
from cdc_tracker.destinations.base import Cursor, HoldsCheckpoint, KeyedCheckpoint
from cdc_tracker.errors import SlotBusy, SlotForeign, SourceError, Stop
from cdc_tracker.model import Position, format_lsn
from cdc_tracker.operations import publications
from cdc_tracker.operations.source import SourceSetup
from cdc_tracker.refusals import Refusal
from cdc_tracker.sources.postgres import publication, scripts
from cdc_tracker.state import SourceRecord
from cdc_tracker.worker.assemble import open_destination

Mode = Literal["recreate_slot", "new_epoch", "adopt", "accept_gap"]
"""What to do about a source that cannot continue as it is."""

_PLAIN = "Run `cdc-tracker setup` without that option."


class SetupPlan(NamedTuple):
    """What `apply` does. `consequence`: what the user has to agree to; empty if nothing is given up."""

    mode: Mode | None = None
    changes_plugin: bool = False
    consequence: str = ""

    @property
    def exclusive(self) -> bool:
        """No worker may run meanwhile."""
        return self.mode is not None or self.changes_plugin


def plan(source: SourceSetup, mode: Mode | None = None) -> SetupPlan:
    """What `setup` has to do. Changes nothing.

    With a mode, raises Stop if it does not apply, and AlreadyRunning while a worker runs. Without one, raises the Stop that `run`
    would end with, unless `setup` corrects its cause.
    """
    if mode is not None:
        with source.exclusive():
            return SetupPlan(mode, consequence=_consequence(source, mode))
    if publications.plugin_change_due(source):
        return SetupPlan(changes_plugin=True)
    _verify(source)
    return SetupPlan()


def apply(source: SourceSetup, planned: SetupPlan) -> None:
    """Carries the plan out and verifies the result. May be called again after an interruption.

    Raises AlreadyRunning, with nothing changed, if the plan is exclusive and a worker runs; SourceError for mapped tables that
    cannot be captured, before the slot is touched.
    """
    with source.exclusive() if planned.exclusive else nullcontext():
        publications.create_outbox(source)
        publications.publish(source, new_slot=planned.mode in ("recreate_slot", "new_epoch"))
        if planned.changes_plugin:
            publications.change_plugin(source)
        _settle(source, planned.mode)
        if reading := _verify(source):
            source.done("slot", reading)


def _verify(source: SourceSetup) -> str:
    """Raises what `run` would end with and `setup` does not correct. Returns a sentence on who reads from the slot, or ''."""
    if source.record() is None and source.slot() is None:  # before the first setup
        return ""
    try:
        source.verify()
    except SlotBusy as error:
        return f"{error}; that worker keeps running"
    except SourceError as error:
        if error.refusal != Refusal.PUBLICATION_MISSING.name:  # setup creates them
            raise
    return ""


# What a mode gives up.


def _consequence(source: SourceSetup, mode: Mode) -> str:
    record, found = source.record(), source.slot()
    if mode == "adopt":
        if record is not None:
            raise Stop(f"The state store knows the source {source.name!r}: there is nothing to adopt.", hint=_PLAIN)
        if found is None or found.confirmed_flush_lsn is None:
            raise Stop(f"There is no slot {source.config.source.slot} to adopt.", hint=_PLAIN)
        if found.plugin not in ("pgoutput", "wal2json") or found.database != source.connection.info.dbname:
            raise SlotForeign(
                f"The slot {found.name} was not made by cdc-tracker for this database: it has plugin {found.plugin or '-'}, "
                f"database {found.database or '-'}.",
                hint="Give `source.slot` a name of its own.",
            )
        return f"Adopts the slot {found.name} at {format_lsn(found.confirmed_flush_lsn)}: changes before it are not sent."
    if record is None:
        raise Stop(f"The source {source.name!r} is not set up yet.", hint=_PLAIN)
    if mode == "accept_gap":
        begins = found.confirmed_flush_lsn if found else None
        missing = [] if begins is None or begins > record.confirmed_lsn else source.missing(begins)
        if not missing:
            raise Stop("There is no gap between the checkpoints and the slot.", hint=_PLAIN)
        return " ".join(map(str, missing))
    if mode == "recreate_slot":
        return (
            f"Recreates the slot {record.slot}: changes committed after {format_lsn(record.confirmed_lsn)} that are not in the "
            "journal produce no events."
        )
    return (
        "Starts over with this server: new slot, new event ids; the journal and the checkpoints are cleared. "
        f"{source.undelivered()}"
    )


# The steps.


def _settle(source: SourceSetup, mode: Mode | None) -> None:
    """Brings slot, record and checkpoints to where they belong."""
    record, found = source.record(), source.slot()
    if mode == "new_epoch" and record is not None:
        source.journal.clear()
        source.state.checkpoints.drop(source.name)
        source.adopt(replace(record, epoch=record.epoch + 1, namespace=""), source.create_slot())
        _rewind_destinations(source)
    elif mode == "recreate_slot" and record is not None:
        source.adopt(record, source.create_slot())
    elif mode == "accept_gap" and found is not None:
        source.adopt(record, found)
    elif record is None:
        source.adopt(None, found or source.create_slot())
    else:
        _follow_rename(source, record)
        source.done("slot", f"{record.slot}: exists ({record.plugin})")
    _create_checkpoints(source, new=mode == "new_epoch" or record is None)


def _follow_rename(source: SourceSetup, record: SourceRecord) -> None:
    """Events carry a renamed database's new name from now on; their ids do not change."""
    name = source.connection.info.dbname
    if record.database != name:
        source.state.sources.save(replace(record, database=name))
        source.done("database", f"{record.database} is called {name} now")


def _create_checkpoints(source: SourceSetup, *, new: bool) -> None:
    """For destinations that have none: at their `start`; at a `new` source, all of them where the slot begins."""
    record, present = source.record(), source.state.checkpoints.all(source.name)
    if record is None:
        return
    slot_begins = Position(record.created_lsn, -1)
    for name in [name for name in source.config.destinations if name not in present]:
        start = source.config.destinations[name].start
        begin = start_position(source.journal, "now" if new else start, slot=slot_begins)
        if begin is None:
            source.done("checkpoint", f"{name}: with the first transaction at or after {start}, once that is captured")
            continue
        source.state.checkpoints.create(source.name, name, begin)
        source.done("checkpoint", f"{name}: at {begin}")


def _rewind_destinations(source: SourceSetup) -> None:
    """A destination that keeps its own checkpoint would take the new server's positions for ones that it has."""
    record = source.record()
    if record is None:
        return
    for name in source.config.destinations:
        with closing(open_destination(source.config, name)) as destination:
            if isinstance(destination, KeyedCheckpoint):
                destination.bind(Cursor(source.name, name, origin=record.namespace), lambda found: True)
            if isinstance(destination, HoldsCheckpoint):
                destination.rewind(Position(record.created_lsn, -1))
                source.done("checkpoint", f"{name}: reset in the destination, too")


def teardown_consequence(source: SourceSetup, *, drop_outbox: bool = False) -> str:
    """What `teardown` removes, and what is lost with it. Raises AlreadyRunning while a worker runs."""
    settings = source.config.source
    outbox = f", the outbox {settings.outbox.table} with its rows" if drop_outbox and settings.outbox else ""
    with source.exclusive():
        return (
            f"Removes the slot {settings.slot}, the publications {' and '.join(publication.names(settings))}{outbox}, and the "
            f"state and journal of the source {source.name!r}. {source.undelivered()}"
        )


def teardown(source: SourceSetup, *, drop_outbox: bool = False) -> None:
    """Removes slot, publications, this source's state and journal; the outbox, too, if asked. Destinations keep what they have.

    Raises AlreadyRunning, with nothing changed, while a worker runs. May be called again after an interruption.
    """
    settings = source.config.source
    with source.exclusive():
        source.drop_slot()
        removal = publication.removal(source.connection, settings)
        publication.apply(source.connection, removal + (scripts.teardown(settings) if drop_outbox else []))
        source.done("publication", "dropped" if removal else "none")
        if drop_outbox and settings.outbox:
            source.done("outbox", f"{settings.outbox.table} dropped")
        source.journal.clear()
        source.state.forget(source.name)
        source.done("state", f"of the source {source.name!r} removed, and its journal")
