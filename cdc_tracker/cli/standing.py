"""Where slot, state and journal stand to each other, and how `setup` brings them together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from cdc_tracker import envelope
from cdc_tracker.capture import gaps
from cdc_tracker.capture.gaps import Missing
from cdc_tracker.cli import output
from cdc_tracker.config.config import Config
from cdc_tracker.delivery.start import beginning
from cdc_tracker.destinations.base import Cursor, HoldsCheckpoint, KeyedCheckpoint
from cdc_tracker.errors import AlreadyRunning, Gap, Problem, SlotBusy, SlotForeign, SourceError, Stop
from cdc_tracker.journal import Journal
from cdc_tracker.model import Lsn, Position, format_lsn, parse_lsn
from cdc_tracker.refusals import NEW_EPOCH, Refusal
from cdc_tracker.sources.postgres import catalog, faults, plugins, slot
from cdc_tracker.sources.postgres.session import options, published
from cdc_tracker.sources.postgres.slot import SlotState
from cdc_tracker.sources.postgres.verify import verify
from cdc_tracker.state import SourceRecord, State
from cdc_tracker.worker import assemble


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
        return self.state.sources.get(self.name)

    def lowest(self) -> Position | None:
        checkpoints = self.state.checkpoints.all(self.name)
        return min((checkpoints[name].position for name in self.config.destinations if name in checkpoints), default=None)

    def examine(self) -> None:
        """Nothing where setup may go on as usual: all is well, or nothing is there yet. Raises SourceError and its kin."""
        record, found = self.record(), self.slot()
        if record is None and found is None:
            return
        try:
            self.verify()
        except SlotBusy:
            output.say(f"(the slot is being read{f' by {found.holder}' if found else ''}: a worker runs, and goes on running)")
        except SourceError as error:
            if error.refusal != Refusal.PUBLICATION_MISSING.name:  # setup makes them
                raise

    def verify(self) -> None:
        """Raises what `run` would stop with."""
        identity, found = catalog.identify(self.connection), self.slot()
        verify(
            self.record(),
            found,
            identity,
            journal_end=self.journal.end(),
            lowest_checkpoint=self.lowest(),
            times=lambda: gaps.times_of(self.state, self.name),
        )
        if found is not None:
            self._last_word(found)
            publications = published(self.connection, self.config.source) if found.plugin == "pgoutput" else []
            slot.probe(self.connection, found, options(found.plugin, publications))

    def _last_word(self, found: SlotState) -> None:
        """Raises what the worker stopped with where only it came to the change that the server cannot decode."""
        said = self.said()
        refusal = str(said.get("refusal", ""))
        if refusal in _MET and parse_lsn(said["confirmed"]) >= (found.confirmed_flush_lsn or 0):
            raise Refusal[refusal].error(said["trouble"], hint=_MET[refusal])

    def said(self) -> dict[str, Any]:
        """What the role `capture` last said of itself."""
        return next((role.detail for role in self.state.reports.all(self.name) if role.role == "capture"), {})

    def of_plugin(self) -> Problem | None:
        """What `setup` has to do about the slot's plugin before anything else."""
        source, found = self.config.source, self.slot()
        if slot.inspect(self.connection, plugins.spare(source.slot)) is not None:
            return plugins.interrupted(source.slot)
        needs = assemble.table_needs(self.config, assemble.load_mappings(self.config))
        return plugins.refusal(self.connection, source, needs, found) if found else None

    def missing(self, slot_begins: Lsn) -> list[Missing]:
        """What each destination lacks, where the slot gives everything from there on. Empty before there is a record."""
        record = self.record()
        if record is None:
            return []
        now = slot.clock(self.connection)
        return gaps.missing(self.state, record, self.config.destinations, self.journal.horizon(), slot_begins, now)

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
        behind = [name for name, each in self.state.checkpoints.all(self.name).items() if each.position < end]
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
        output.ask(question, yes=yes)

    def _gap(self, found: SlotState | None) -> str:
        record, begins = self.record(), found.confirmed_flush_lsn if found else None
        lacking = [] if record is None or begins is None or begins > record.confirmed_lsn else self.missing(begins)
        if not lacking:
            raise Stop("There is no gap between the checkpoints and the slot.", hint=_PLAIN)
        return " ".join(told(each) for each in lacking)

    def settle(self, mode: str | None) -> None:
        """Bring the slot, the record and the checkpoints to where they belong."""
        record, found = self.record(), self.slot()
        if mode == "new_epoch" and record is not None:
            self.journal.clear()
            self.state.checkpoints.drop(self.name)
            self.save(self._epoch_of(record), self.make_slot())
            self._rewind_destinations()
        elif mode == "recreate_slot" and record is not None:
            self.save(record, self.make_slot())
        elif mode == "accept_gap" and found is not None:
            self.save(record, found)
        elif record is None:
            self.save(None, found or self.make_slot())
        else:
            self._take_name(record)
            output.say(f"slot          {record.slot}: is there ({record.plugin})")
        self._give_checkpoints(new=mode == "new_epoch" or record is None)

    def _take_name(self, record: SourceRecord) -> None:
        """Of a database that was renamed: from now on its events say so; their ids go on as they are."""
        name = self.connection.info.dbname
        if record.database != name:
            self.state.sources.save(replace(record, database=name))
            output.say(f"database      {record.database} is called {name} now")

    def _epoch_of(self, record: SourceRecord) -> SourceRecord:
        return replace(record, epoch=record.epoch + 1, namespace="")

    def make_slot(self) -> SlotState:
        """A new one, in place of any other of that name."""
        self.drop_slot()
        plugins.drop_spare(self.connection, self.config.source.slot)
        settings = self.config.source
        plugin = plugins.choose(self.connection, settings, assemble.load_mappings(self.config).tables())
        return slot.create(self.connection, settings.slot, plugin, failover=settings.failover)

    def save(self, before: SourceRecord | None, made: SlotState, *, quiet: bool = False) -> None:
        """The record of a slot that is taken over as it stands: what lies before it, and is not in the journal, is given up.

        Ids stay those of `before`, if it has a namespace.
        """
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
        self.state.sources.save(record)
        if not quiet:
            output.say(f"slot          {made.name} ({made.plugin}), from {format_lsn(begin)} on")

    def _give_checkpoints(self, *, new: bool) -> None:
        """To destinations that have none: where their `start` says; at a `new` source, all of them where the slot begins."""
        record, present = self.record(), self.state.checkpoints.all(self.name)
        if record is None:
            return
        slot_begins = Position(record.created_lsn, -1)
        for name in [name for name in self.config.destinations if name not in present]:
            start = self.config.destinations[name].start
            begin = beginning(self.journal, "now" if new else start, slot=slot_begins)
            if begin is None:
                output.say(f"checkpoint    {name}: with the first transaction at or after {start}, once that is captured")
                continue
            self.state.checkpoints.create(self.name, name, begin)
            output.say(f"checkpoint    {name}: at {begin}")

    def _rewind_destinations(self) -> None:
        """A destination that keeps its own checkpoint would take the new server's positions for ones that it has."""
        record = self.record()
        for name in self.config.destinations:
            destination = assemble.open_destination(self.config, name)
            try:
                if isinstance(destination, KeyedCheckpoint) and record is not None:
                    destination.bind(Cursor(self.name, name, origin=record.namespace), lambda found: True)
                if isinstance(destination, HoldsCheckpoint) and record is not None:
                    destination.rewind(Position(record.created_lsn, -1))
                    output.say(f"checkpoint    {name}: its own, too")
            finally:
                destination.close()

    def drop_slot(self) -> None:
        if slot.drop(self.connection, self.config.source.slot):
            output.say(f"slot          {self.config.source.slot} dropped")

    def forget(self) -> None:
        """Remove this source's state and journal."""
        self.journal.clear()
        self.state.forget(self.name)
        output.say(f"state         of the source {self.name!r} removed, and its journal")


def told(gap: Missing) -> str:
    """For a person: what a destination lacks."""
    since = output.moment(gap.since_time) if gap.since_time else "a time that is not known"
    return (
        f"{gap.destination}: nothing was read that committed between {gap.since} ({since}) and {format_lsn(gap.upto)} "
        f"({output.moment(gap.upto_time)})."
    )


_MET = {
    Refusal.PUBLICATION_LOST.name: faults.verdict_of(faults.When.STREAMING, code="42704").hint,
    Refusal.UNDECODABLE.name: faults.verdict_of(faults.When.STREAMING, code="XX000").hint,
    Refusal.OTHER_HISTORY.name: NEW_EPOCH,
}
_PLAIN = "Run `cdc-tracker setup` without that option."
