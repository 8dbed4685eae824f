"""Where slot, state and journal stand to each other, and how `setup` brings them together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import click

from cdc_tracker import envelope
from cdc_tracker.cli import show
from cdc_tracker.config import Config
from cdc_tracker.destinations.base import HoldsCheckpoint
from cdc_tracker.errors import AlreadyRunning, Gap, SlotBusy, SlotForeign, Stop
from cdc_tracker.journal import Journal
from cdc_tracker.model import Position, format_lsn
from cdc_tracker.source import catalog, slot
from cdc_tracker.source.slot import SlotState
from cdc_tracker.source.verify import verify
from cdc_tracker.state import SourceRecord, State


@dataclass(frozen=True)
class Standing:
    """One source: the server through `connection`, and what we know of it."""

    config: Config
    connection: Any
    state: State
    journal: Journal

    @property
    def name(self) -> str:
        return self.config.source.name

    def slot(self) -> SlotState | None:
        return slot.inspect(self.connection, self.config.source.slot)

    def record(self) -> SourceRecord | None:
        return self.state.source(self.name)

    def lowest(self) -> Position | None:
        return min((each.position for each in self.state.checkpoints(self.name).values()), default=None)

    def examine(self) -> None:
        """Nothing where setup may go on as usual: all is well, or nothing is there yet. Raises SourceError and its kin."""
        record, found = self.record(), self.slot()
        if record is None and found is None:
            return
        try:
            self.verify()
        except SlotBusy:
            click.echo(f"(the slot is being read{f' by {found.holder}' if found else ''}: a worker runs, and goes on running)")

    def verify(self) -> None:
        """Raises what `run` would stop with."""
        identity = catalog.identify(self.connection)
        verify(self.record(), self.slot(), identity, journal_end=self.journal.end(), lowest_checkpoint=self.lowest())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no worker of this source runs. Raises AlreadyRunning."""
        roles = ["worker", "capture", *(f"deliver.{name}" for name in self.config.destinations)]
        with ExitStack() as stack:
            try:
                for role in roles:
                    stack.enter_context(self.state.lock(f"{self.name}.{role}"))
            except AlreadyRunning as error:
                hint = "Stop it first: this takes away what it works from. Nothing was changed."
                raise AlreadyRunning(f"A worker of the source {self.name!r} is running: {error}", hint=hint) from None
            yield

    def undelivered(self) -> str:
        """A sentence about what only the journal holds."""
        end, lowest = self.journal.end(), self.lowest()
        if end is None or lowest is None or lowest >= end:
            return "Every destination has everything that was captured."
        behind = [name for name, each in self.state.checkpoints(self.name).items() if each.position < end]
        return f"Not everything that was captured has been delivered to {', '.join(sorted(behind))}: that is lost."

    def confirm(self, mode: str, *, yes: bool) -> None:
        """Whether the mode fits, and whether the person wants it. Raises Stop where it does not fit."""
        record, found = self.record(), self.slot()
        if mode == "adopt":
            if record is not None:
                raise Stop(f"The state store knows the source {self.name!r}: there is nothing to adopt.", hint=_PLAIN)
            if found is None or found.confirmed_flush_lsn is None:
                raise Stop(f"There is no slot {self.config.source.slot} to adopt.", hint=_PLAIN)
            if found.plugin not in ("pgoutput", "wal2json") or found.database != self.connection.info.dbname:
                raise SlotForeign(
                    f"The slot {found.name} is none of ours: plugin {found.plugin or '-'}, database {found.database or '-'}.",
                    hint="Give `source.slot` a name of its own.",
                )
            begin = format_lsn(found.confirmed_flush_lsn)
            question = f"Go on from the slot at {begin}? What came before it is not sent."
        elif record is None:
            raise Stop(f"The source {self.name!r} is not set up yet.", hint=_PLAIN)
        elif mode == "accept_gap":
            question = f"{self._gap(found)} Go on?"
        elif mode == "recreate_slot":
            question = (
                f"Make the slot {record.slot} anew? Changes committed since {format_lsn(record.confirmed_lsn)} that are not in "
                "the journal become no events."
            )
        else:
            question = f"Begin anew with this server? Journal and checkpoints are cleared. {self.undelivered()}"
        show.ask(question, yes=yes)

    def _gap(self, found: SlotState | None) -> str:
        lowest = self.lowest()
        if found is None or found.confirmed_flush_lsn is None or lowest is None or lowest.commit_lsn >= found.confirmed_flush_lsn:
            raise Stop("There is no gap between the checkpoints and the slot.", hint=_PLAIN)
        return f"What committed between {lowest} and {format_lsn(found.confirmed_flush_lsn)} becomes no events."

    def settle(self, mode: str | None) -> None:
        """Bring the slot, the record and the checkpoints to where they belong."""
        record, found = self.record(), self.slot()
        if mode == "new_epoch" and record is not None:
            self.journal.clear()
            self.state.drop_checkpoints(self.name)
            self._make(self._epoch_of(record))
            self._rewind_destinations()
        elif mode == "recreate_slot" and record is not None:
            self._make(record)
        elif mode == "accept_gap" and found is not None:
            self._skip_to(Position(found.confirmed_flush_lsn or 0, -1))
        elif record is None and found is not None:
            self._save(None, found)
        elif record is None:
            self._make(None)
        else:
            click.echo(f"slot          {record.slot}: is there ({record.plugin})")
        self._give_checkpoints()

    def _epoch_of(self, record: SourceRecord) -> SourceRecord:
        return replace(record, epoch=record.epoch + 1, namespace="")

    def _make(self, before: SourceRecord | None) -> None:
        self.drop_slot()
        settings = self.config.source
        plugin = slot.choose_plugin(self.connection, settings, self.config.load_mappings().tables())
        made = slot.create(self.connection, settings.slot, plugin, failover=settings.failover)
        self._save(before, made)

    def _save(self, before: SourceRecord | None, made: SlotState) -> None:
        """The record of a slot that is taken over as it stands. Ids stay those of `before`, if it has a namespace."""
        identity = catalog.identify(self.connection)
        begin = made.confirmed_flush_lsn
        if begin is None:
            raise Gap(f"The slot {made.name} has no position to begin from.")
        epoch = before.epoch if before else 1
        own = str(envelope.namespace(identity.system_id, identity.database, epoch))
        record = SourceRecord(
            name=self.name,
            system_id=identity.system_id,
            database=identity.database,
            slot=made.name,
            plugin=made.plugin,
            namespace=(before.namespace if before else "") or self.config.source.namespace or own,
            epoch=epoch,
            created_lsn=begin,
            confirmed_lsn=begin,
            timeline=identity.timeline,
            journaled_lsn=end.commit_lsn if (end := self.journal.end()) else 0,
        )
        self.state.save_source(record)
        click.echo(f"slot          {made.name} ({made.plugin}), from {format_lsn(begin)} on")

    def _skip_to(self, position: Position) -> None:
        for name, checkpoint in sorted(self.state.checkpoints(self.name).items()):
            if checkpoint.position < position:
                self.state.commit(self.name, name, position, {})
                click.echo(f"checkpoint    {name}: from {checkpoint.position} on to {position}")

    def _give_checkpoints(self) -> None:
        """To destinations that have none: the slot's beginning, or for one that comes later, the journal's end."""
        record, present = self.record(), self.state.checkpoints(self.name)
        if record is None:
            return
        begin = max(Position(record.created_lsn, -1), self.journal.end() or Position(0, -1))
        for name in self.config.destinations:
            if name not in present:
                self.state.create_checkpoint(self.name, name, begin)
                click.echo(f"checkpoint    {name}: at {begin}")

    def _rewind_destinations(self) -> None:
        """A destination that keeps its own checkpoint would take the new server's positions for ones that it has."""
        record = self.record()
        for name in self.config.destinations:
            destination = self.config.open_destination(name)
            try:
                if isinstance(destination, HoldsCheckpoint) and record is not None:
                    destination.rewind(Position(record.created_lsn, -1))
                    click.echo(f"checkpoint    {name}: its own, too")
            finally:
                destination.close()

    def drop_slot(self) -> None:
        if slot.drop(self.connection, self.config.source.slot):
            click.echo(f"slot          {self.config.source.slot} dropped")

    def forget(self) -> None:
        """Remove this source's state and journal."""
        self.journal.clear()
        self.state.forget(self.name)
        click.echo(f"state         of the source {self.name!r} removed, and its journal")


_PLAIN = "Run `cdc-tracker setup` without that option."
