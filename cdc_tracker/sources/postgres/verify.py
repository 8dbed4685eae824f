"""Whether server and slot are still as the worker left them: invariants 10 and 11. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from cdc_tracker.errors import Stop
from cdc_tracker.model import Lsn, Position, format_lsn
from cdc_tracker.refusals import NEW_EPOCH, Refusal
from cdc_tracker.sources.postgres.catalog import ServerIdentity
from cdc_tracker.sources.postgres.faults import LOST_HINT
from cdc_tracker.sources.postgres.slot import SlotState
from cdc_tracker.times import for_display


class RecordedSource(Protocol):
    """What the state store records of the source."""

    @property
    def system_id(self) -> str: ...
    @property
    def database(self) -> str: ...
    @property
    def slot(self) -> str: ...
    @property
    def plugin(self) -> str: ...
    @property
    def created_lsn(self) -> Lsn: ...
    @property
    def confirmed_lsn(self) -> Lsn: ...
    @property
    def timeline(self) -> int: ...
    @property
    def journaled_lsn(self) -> Lsn: ...


class CommitTimes(NamedTuple):
    """Commit times for messages, in microseconds since the Unix epoch; 0: unknown."""

    dealt: int = 0  # no change past the lowest checkpoint committed before this
    journaled: int = 0  # the commit of the last change that was journaled


_SETUP = "run `cdc-tracker setup`"
_REPAIR = "`cdc-tracker repair` makes a new slot, and says which period is missing and which tables can fill it"


def verify(
    record: RecordedSource | None,
    slot: SlotState | None,
    identity: ServerIdentity,
    *,
    journal_end: Position | None,
    lowest_checkpoint: Position | None,
    times: Callable[[], CommitTimes] = CommitTimes,
) -> None:
    """Returns if reading may continue; else raises the error that says what happened, what it means and how to repair it.

    `journal_end`: the end of the journal's newest segment, which trimming keeps; None if there is none. `times` is called only if
    changes are missing. A changed timeline is accepted if the old one reached past everything that was read; the caller then
    stores the new one. SlotBusy is checked last, because it alone may pass by waiting.
    """
    if record is None:
        raise _unknown(slot)
    _check_server(record, slot, identity, max(record.confirmed_lsn, journal_end.commit_lsn if journal_end else 0))
    if slot is None:
        raise _missing(record)
    _check_slot(record, slot, identity.database, journal_end)
    _check_gap(record, slot, journal_end, lowest_checkpoint, times)
    if slot.reader:
        raise Refusal.SLOT_BUSY.error(
            f"the replication slot {slot.name} is being read by {slot.reader}",
            hint=f"stop that process, or wait for it with `cdc-tracker run --standby`; if it is not a worker of yours: "
            f"SELECT pg_terminate_backend({slot.reader.pid})",
        )


def _unknown(slot: SlotState | None) -> Stop:
    if slot is None:
        return Refusal.NOT_SET_UP.error(
            "this source is not set up: it has no slot, and the state store has no record of it", hint=_SETUP
        )
    return Refusal.STATE_MISSING.error(
        f"the replication slot {slot.name} exists, but the state store knows nothing of this source: it is empty or another one",
        hint="correct `state.url` or restore the store from its backup. If it is lost, `cdc-tracker setup --adopt` continues "
        "from the slot with empty counts: events after its confirmed position are sent again under the same ids",
    )


def _check_server(record: RecordedSource, slot: SlotState | None, identity: ServerIdentity, reached: Lsn) -> None:
    """A renamed database keeps its slots, and a server has no two slots of one name."""
    if record.system_id != identity.system_id:
        raise Refusal.OTHER_SERVER.error(
            f"this is another server: its system identifier is {identity.system_id}, but {record.system_id} was read before",
            hint=f"correct source.url if it points to the wrong server; {NEW_EPOCH}",
        )
    if record.database != identity.database and not (slot and slot.database == identity.database):
        raise Refusal.OTHER_DATABASE.error(
            f"source.url leads to the database {identity.database}, but {record.database} was read before",
            hint="correct source.url; for a second database, give its source a `name` and a `slot` of its own",
        )
    _check_timeline(record, identity, reached)
    if identity.wal_lsn < reached:
        raise Refusal.WAL_BEHIND.error(
            f"the server's WAL ends at {format_lsn(identity.wal_lsn)}, but it was read up to {format_lsn(reached)}: the server "
            "was restored from a backup, or a standby was promoted that had not received everything",
            hint=f"events of changes past that point were delivered although the database has lost them; {NEW_EPOCH}",
        )


def _check_timeline(record: RecordedSource, identity: ServerIdentity, reached: Lsn) -> None:
    """Checks the timelines' history: the WAL of a restored server may since have grown past what was read."""
    for switch in identity.history:
        if switch.timeline >= record.timeline and switch.lsn < reached:
            raise Refusal.TIMELINE_LEFT.error(
                f"the server left timeline {switch.timeline} at {format_lsn(switch.lsn)}, but that timeline was read up to "
                f"{format_lsn(reached)}: it was restored from a backup, or a standby was promoted that lacked the rest",
                hint=f"changes that this server made since that point were not read; {NEW_EPOCH}",
            )
    if identity.timeline < record.timeline:
        raise Refusal.OLD_PRIMARY.error(
            f"the server is on timeline {identity.timeline}, but {record.timeline} was read before: an old primary has come back",
            hint=f"point source.url at the present primary; {NEW_EPOCH}",
        )


def _missing(record: RecordedSource) -> Stop:
    return Refusal.SLOT_MISSING.error(
        f"the replication slot {record.slot} is gone: it was dropped, or a failover led to a server without it",
        hint=f"changes that committed after {format_lsn(record.confirmed_lsn)} and are not in the journal can no longer be read. "
        + _REPAIR,
    )


def _check_slot(record: RecordedSource, slot: SlotState, database: str, journal_end: Position | None) -> None:
    """A slot may be past its recorded position if the journal is, too: reading continues at the journal's end."""
    if slot.plugin != record.plugin or slot.database != database:
        kind = f"plugin {slot.plugin}, database {slot.database}" if slot.plugin else "a physical slot"
        raise Refusal.SLOT_FOREIGN.error(
            f"the replication slot {slot.name} is not the one that setup made: it is {kind}; that one had plugin "
            f"{record.plugin}, database {database}",
            hint="give `source.slot` a name of its own, or drop that slot if it is not needed; then run `cdc-tracker repair`",
        )
    if slot.lost:
        reason = f": {slot.invalidation_reason}" if slot.invalidation_reason else ""
        raise Refusal.SLOT_LOST.error(f"the server has invalidated the replication slot {slot.name}{reason}", hint=LOST_HINT)
    confirmed = slot.confirmed_flush_lsn
    if confirmed is not None and confirmed > max(record.confirmed_lsn, journal_end.commit_lsn if journal_end else 0):
        raise Refusal.SLOT_MOVED.error(
            f"the replication slot {slot.name} was moved to {format_lsn(confirmed)}, but this worker confirmed only "
            f"{format_lsn(record.confirmed_lsn)}: it was recreated, or another process reads from it"
            + (f", now {slot.reader}" if slot.reader else ""),
            hint="the changes in between were not read. Stop the other reader; then `cdc-tracker repair` continues from the "
            "slot, and says which period is missing and which tables can fill it",
        )


def _check_gap(
    record: RecordedSource,
    slot: SlotState,
    journal_end: Position | None,
    lowest_checkpoint: Position | None,
    times: Callable[[], CommitTimes],
) -> None:
    """Raises Gap if the journal lost changes past the lowest checkpoint. Other changes before the slot do not matter."""
    confirmed = slot.confirmed_flush_lsn
    if lowest_checkpoint is None or confirmed is None or lowest_checkpoint.commit_lsn >= confirmed:
        return
    journaled = record.journaled_lsn
    if journaled > lowest_checkpoint.commit_lsn and (journal_end is None or journal_end.commit_lsn < journaled):
        ends = f"ends at {journal_end}" if journal_end else "is empty"
        when = times()
        raise Refusal.CHECKPOINT_GAP.error(
            f"the journal {ends}, but it contained changes up to {format_lsn(journaled)}{_at(when.journaled)}; a destination has "
            f"dealt with them only up to {lowest_checkpoint}{_at(when.dealt)}, and the slot starts at {format_lsn(confirmed)}: "
            "changes that committed in between are missing",
            hint="restore the journal (`journal.url`, or its files in data_dir). If it is lost, `cdc-tracker repair` continues "
            "from the slot, and says for each destination what is missing and which tables can fill it",
        )


def _at(time_us: int) -> str:
    return f" ({for_display(time_us)})" if time_us else ""


def check_start(requested: Lsn, slot: SlotState) -> None:
    """Invariant 11: raises Gap for a start below `confirmed_flush_lsn`, where the server would silently start later.

    `requested` 0 lets the server choose.
    """
    confirmed = slot.confirmed_flush_lsn or 0
    if requested and requested < confirmed:
        raise Refusal.START_TOO_LOW.error(
            f"the slot {slot.name} starts at {format_lsn(confirmed)}: the server does not send again what committed before, from "
            f"{format_lsn(requested)} on",
            hint="rewind within the journal instead: `cdc-tracker rewind` says how far back it reaches",
        )
