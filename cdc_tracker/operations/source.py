"""One source as it is set up: what server, slot, state store and journal say of it, and whether they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from cdc_tracker import envelope
from cdc_tracker.capture import gaps
from cdc_tracker.capture.gaps import Missing
from cdc_tracker.config.config import Config
from cdc_tracker.errors import AlreadyRunning, Gap, Problem
from cdc_tracker.journal import Journal
from cdc_tracker.mapping import Mappings
from cdc_tracker.model import Lsn, Position, format_lsn, parse_lsn
from cdc_tracker.refusals import NEW_EPOCH, Refusal
from cdc_tracker.sources.postgres import catalog, faults, plugins, slot
from cdc_tracker.sources.postgres.catalog import ServerIdentity
from cdc_tracker.sources.postgres.connection import Connection, connect
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.session import options, published
from cdc_tracker.sources.postgres.slot import SlotState
from cdc_tracker.sources.postgres.verify import verify
from cdc_tracker.state import CAPTURE, CaptureReport, SourceRecord, State
from cdc_tracker.worker.assemble import load_mappings, open_journal, open_state, table_needs

STATEMENT_TIMEOUT = 60.0  # seconds: adding a table to a publication waits for its lock
_MET_WHILE_STREAMING = {
    Refusal.PUBLICATION_LOST.name: faults.verdict_of(faults.When.STREAMING, code="42704").hint,
    Refusal.UNDECODABLE.name: faults.verdict_of(faults.When.STREAMING, code="XX000").hint,
    Refusal.OTHER_HISTORY.name: NEW_EPOCH,
}


Part = Literal["outbox", "publication", "slot", "database", "checkpoint", "state", "warning"]


class Step(NamedTuple):
    """A step that an operation has done, or a warning."""

    part: Part
    text: str


@dataclass(frozen=True)
class SourceSetup:
    """The source of a configuration, with everything opened. Operations call `report` with each step that they have done."""

    config: Config
    mappings: Mappings
    connection: Connection
    state: State
    journal: Journal
    report: Callable[[Step], None] | None = None

    @property
    def name(self) -> str:
        return self.config.source.name

    @cached_property
    def needs(self) -> dict[str, Need]:
        """What mappings and destinations use of each captured table."""
        return table_needs(self.config, self.mappings)

    def done(self, part: Part, text: str) -> None:
        """Reports a step."""
        if self.report is not None:
            self.report(Step(part, text))

    # What is known.

    def slot(self) -> SlotState | None:
        """The slot as the server has it now; None if there is none."""
        return slot.inspect(self.connection, self.config.source.slot)

    def record(self) -> SourceRecord | None:
        """What the state store knows of the source; None before `setup`, and after the store was lost."""
        return self.state.sources.get(self.name)

    def lowest_checkpoint(self) -> Position | None:
        """The lowest checkpoint of the configured destinations; None if none of them has one."""
        checkpoints = self.state.checkpoints.all(self.name)
        return min((checkpoints[name].position for name in self.config.destinations if name in checkpoints), default=None)

    def capture_report(self) -> CaptureReport:
        """What the role `capture` last reported; only defaults if it never ran."""
        return self.state.reports.last(self.name, CAPTURE, CaptureReport)

    def verify(self) -> None:
        """Raises the Stop that `run` would end with. SlotBusy: everything else is right, and a worker reads from the slot."""
        found = self.slot()
        verify(
            self.record(),
            found,
            catalog.identify(self.connection),
            journal_end=self.journal.end(),
            lowest_checkpoint=self.lowest_checkpoint(),
            times=lambda: gaps.times_of(self.state, self.name),
        )
        if found is not None:
            self._verify_streaming(found)
            publications = published(self.connection, self.config.source) if found.plugin == "pgoutput" else []
            slot.probe(self.connection, found, options(found.plugin, publications))

    def _verify_streaming(self, found: SlotState) -> None:
        """Raises what capture ended with if only streaming meets it: a change ahead of the slot that cannot be decoded."""
        reported = self.capture_report()
        refusal = reported.refusal
        if refusal in _MET_WHILE_STREAMING and parse_lsn(reported.confirmed) >= (found.confirmed_flush_lsn or 0):
            raise Refusal[refusal].error(reported.trouble, hint=_MET_WHILE_STREAMING[refusal])

    def plugin_problem(self) -> Problem | None:
        """Why `setup` has to change the slot's plugin, or finish doing so, before anything else; None if it need not."""
        settings, found = self.config.source, self.slot()
        if slot.inspect(self.connection, plugins.spare(settings.slot)) is not None:
            return plugins.interrupted(settings.slot)
        return plugins.refusal(self.connection, settings, self.needs, found) if found else None

    def missing(self, slot_begins: Lsn) -> list[Missing]:
        """What each destination lacks if the slot gives everything from `slot_begins` on. Empty before there is a record."""
        record = self.record()
        if record is None:
            return []
        now = slot.clock(self.connection)
        return gaps.missing(self.state, record, self.config.destinations, self.journal.horizon(), slot_begins, now)

    def undelivered(self) -> str:
        """A sentence on what only the journal holds, and is lost with it."""
        end, lowest = self.journal.end(), self.lowest_checkpoint()
        if end is None or lowest is None or lowest >= end:
            return "Every destination has everything that was captured."
        behind = [name for name, each in self.state.checkpoints.all(self.name).items() if each.position < end]
        return f"Changes that were captured and not yet delivered to {', '.join(sorted(behind))} are lost."

    # What operations share.

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the locks of every role of this source. Raises AlreadyRunning while a worker runs."""
        roles = ["worker", "capture", *(f"deliver.{name}" for name in self.config.destinations)]
        with ExitStack() as stack:
            try:
                for role in roles:
                    stack.enter_context(self.state.lock(f"{self.name}.{role}"))
            except AlreadyRunning as error:
                hint = "Stop it first: this removes what it works from. Nothing was changed."
                raise AlreadyRunning(f"A worker of the source {self.name!r} is running: {error}", hint=hint) from None
            yield

    def create_slot(self) -> SlotState:
        """Creates the slot in place of any other of that name, with the plugin that fits the mapped tables."""
        self.drop_slot()
        settings = self.config.source
        plugins.drop_spare(self.connection, settings.slot)
        plugin = plugins.choose(self.connection, settings, self.needs)
        return slot.create(self.connection, settings.slot, plugin, failover=settings.failover)

    def drop_slot(self) -> None:
        """Drops the slot if there is one. Raises SlotBusy while it is being read."""
        if slot.drop(self.connection, self.config.source.slot):
            self.done("slot", f"{self.config.source.slot} dropped")

    def adopt(self, before: SourceRecord | None, found: SlotState) -> None:
        """Stores a record that begins where the slot is: what lies before it and is not in the journal is given up.

        `before`: see `new_record`. Raises Gap for a slot without a position.
        """
        if found.confirmed_flush_lsn is None:
            raise Gap(f"The slot {found.name} has no position to begin from.")
        identity, end = catalog.identify(self.connection), self.journal.end()
        record = new_record(self.config, identity, found.plugin, found.confirmed_flush_lsn, before)
        record = replace(record, journaled_lsn=end.commit_lsn if end else 0)
        self.state.sources.save(record)
        self.done("slot", f"{found.name} ({found.plugin}), from {format_lsn(record.created_lsn)} on")


def new_record(
    config: Config, identity: ServerIdentity, plugin: str, begin: Lsn, before: SourceRecord | None = None
) -> SourceRecord:
    """A record of the configured source that begins at `begin`. Event ids stay those of `before` if it has a namespace."""
    epoch = before.epoch if before else 1
    own = str(envelope.namespace(identity.system_id, identity.database, epoch))
    return SourceRecord(
        name=config.source.name,
        system_id=identity.system_id,
        database=identity.database,
        slot=config.source.slot,
        plugin=plugin,
        namespace=(before.namespace if before else "") or config.source.namespace or own,
        epoch=epoch,
        created_lsn=begin,
        confirmed_lsn=begin,
        timeline=identity.timeline,
    )


@contextmanager
def opened(config: Config, report: Callable[[Step], None] | None = None, *, mapped: bool = True) -> Iterator[SourceSetup]:
    """The source with mappings, server and stores. Raises what they raise if they cannot be opened.

    `mapped`: False leaves the mappings out, for an operation that needs none and must not fail because they do not load.
    """
    mappings = load_mappings(config) if mapped else Mappings(())
    with closing(connect_source(config)) as connection, open_state(config) as state, open_journal(config) as journal:
        yield SourceSetup(config, mappings, connection, state, journal, report)


def connect_source(config: Config) -> Connection:
    """A connection to the source database, for statements that wait for locks. The caller closes it."""
    return connect(config.source.url.get_secret_value(), statement_timeout=STATEMENT_TIMEOUT)
