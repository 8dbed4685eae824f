"""The worker as /readyz and /metrics report it, and the slot as the server has it now."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from cdc_tracker.capture.monitor import RetentionHolder, retention_holders
from cdc_tracker.config.config import Config
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.journal import Journal
from cdc_tracker.model import format_lsn
from cdc_tracker.monitoring import Finding, Health, Observer
from cdc_tracker.operations.ledger import never_matched
from cdc_tracker.sources.postgres import catalog, slot
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.slot import SlotState
from cdc_tracker.state import JournalLost, SourceRecord, State
from cdc_tracker.units import format_size
from cdc_tracker.worker.assemble import source_record


@dataclass(frozen=True)
class Slot:
    """`state`: None if the server cannot be asked, is another one, or has no such slot; then the rest is empty.

    `confirmed`, `wal_end`: LSNs up to which WAL is confirmed and written. `unconfirmed`: the bytes between them.
    """

    name: str
    plugin: str
    state: SlotState | None = None
    confirmed: str = ""
    wal_end: str = ""
    unconfirmed: int = 0


@dataclass(frozen=True)
class Status:
    """`time`: seconds since the Unix epoch. `last_hours`: by destination, events delivered of this clock hour and the one before.

    `never_matched`: mapping → since when it is in force, in microseconds; no change has matched it since, at any destination.
    `held_by`: unfinished jobs that need what the journal has after a position, lowest first. `findings`: the slot's come first.
    """

    time: float
    record: SourceRecord
    slot: Slot
    health: Health
    findings: list[Finding]
    last_hours: Mapping[str, int]
    held_by: list[RetentionHolder]
    journal_lost: JournalLost | None
    never_matched: Mapping[str, int] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """The errors among the findings, a sentence each."""
        return [str(each) for each in self.findings if each.severity == "error"]

    def rates(self, before: Status) -> dict[str, float]:
        """Events settled a second since an earlier status, by destination."""
        seconds = max(0.001, self.time - before.time)
        earlier = {each.name: each.settled for each in before.health.destinations}
        now = {each.name: each.settled for each in self.health.destinations}
        return {name: (now[name] - earlier[name]) / seconds for name in now if name in earlier}


def look(config: Config, state: State, journal: Journal) -> Status:
    """Everything about the configured source. An unreachable server is a finding like others. Raises StateMissing."""
    record = source_record(config, state)
    health = Observer(state, journal, record.name, list(config.destinations), config.data).look()
    found, findings = _slot(config, record)
    if found.state is not None and found.state.active_pid is None and health.states.get("capture") == "streaming":
        text = "nothing reads from the slot, although capture just reported that it does: it was stopped or is connecting"
        findings.append(Finding("error", "capture", text, "is the worker running? Ask again in some seconds"))
    return Status(
        time=time.time(),
        record=record,
        slot=found,
        health=health,
        findings=findings + health.findings,
        last_hours=state.ledger.delivered_since(record.name, int(time.time()) // 3600 - 1),
        held_by=retention_holders({}, state.jobs.all(record.name, unfinished=True)),
        journal_lost=_lost(health, record),
        never_matched=never_matched(state, record.name, config.destinations),
    )


def _lost(health: Health, record: SourceRecord) -> JournalLost | None:
    if lost := health.capture.journal_lost:
        return lost
    empty = health.horizon is None and record.journaled_lsn
    return JournalLost(0, format_lsn(record.confirmed_lsn)) if empty else None


def _slot(config: Config, record: SourceRecord) -> tuple[Slot, list[Finding]]:
    name, unknown = config.source.slot, Slot(config.source.slot, record.plugin)
    try:
        with closing(connect(config.source.url.get_secret_value())) as connection:
            found = slot.inspect(connection, name)
            identity = catalog.identify(connection)
    except CdcTrackerError as error:
        return unknown, [Finding("error", "", f"the source cannot be asked: {error}", error.hint)]
    if identity.system_id != record.system_id:
        text = f"this is another server (system identifier {identity.system_id}) than the one that was set up"
        return unknown, [
            Finding("error", "", text, "check source.url; `cdc-tracker setup --new-epoch` starts over with this one")
        ]
    if found is None:
        text = f"the slot {name} does not exist on the server: `cdc-tracker repair` creates a new one"
        return unknown, [Finding("error", "", text)]
    confirmed, end = found.confirmed_flush_lsn or 0, identity.wal_lsn
    seen = Slot(name, record.plugin, found, format_lsn(confirmed), format_lsn(end), max(0, end - confirmed))
    return seen, list(_findings(found, config.source.max_wal))


def _findings(found: SlotState, max_wal: int) -> Iterator[Finding]:
    if found.lost:
        why = found.invalidation_reason or found.wal_status
        yield Finding("error", "", f"the server has invalidated the slot ({why}): `cdc-tracker repair`")
    elif found.wal_status == "unreserved":
        text = "the slot is about to be invalidated: it retains more WAL than max_slot_wal_keep_size"
        yield Finding("error", "", text, "start or repair the worker now, or raise max_slot_wal_keep_size")
    if (found.retained_bytes or 0) > max_wal:
        text = f"the slot retains {format_size(found.retained_bytes or 0)} of WAL, more than max_wal"
        yield Finding("error", "", text, "repair the destination that is behind; watch the disk of the journal")
