"""Whether a server and its slot are still the ones that we left: invariants 10 and 11. Pure."""

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


class Record(Protocol):
    """What the state store knows of the source."""

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
    """Microseconds since the Unix epoch, 0: not known. They only tell a person when it was."""

    dealt: int = 0  # no change past the lowest checkpoint committed before
    journaled: int = 0  # the commit of the last change that was journaled


_SETUP = "run `cdc-tracker setup`"
_REPAIR = "`cdc-tracker repair` makes a new slot, says from when to when nothing was read, and which tables can fill that"


def verify(
    record: Record | None,
    slot: SlotState | None,
    identity: ServerIdentity,
    *,
    journal_end: Position | None,
    lowest_checkpoint: Position | None,
    times: Callable[[], CommitTimes] = CommitTimes,
) -> None:
    """Nothing, where reading may go on; else the error that says what happened, what it means and what mends it.

    `journal_end`: the end of the journal's newest segment, None where it has none: it keeps that one when it is trimmed. `times`
    is asked for where something is missing. A changed timeline is fine where the old one reached past everything that was read;
    the caller then stores the new one. SlotBusy comes last: it alone may pass by waiting.
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
            hint=f"stop that process, or wait for it with `cdc-tracker run --standby`; if it is no worker of yours: "
            f"SELECT pg_terminate_backend({slot.reader.pid})",
        )


def _unknown(slot: SlotState | None) -> Stop:
    if slot is None:
        return Refusal.NOT_SET_UP.error(
            "this source is not set up: there is neither a slot nor anything about it in the state store", hint=_SETUP
        )
    return Refusal.STATE_MISSING.error(
        f"the replication slot {slot.name} exists, but the state store knows nothing of this source: it is empty or another one",
        hint="mend `state.url` or bring the store back from its backup. If it is lost, `cdc-tracker setup --adopt` goes on from "
        "the slot with empty counts: events after its confirmed position go out again under the same ids",
    )


def _check_server(record: Record, slot: SlotState | None, identity: ServerIdentity, reached: Lsn) -> None:
    """A database that was renamed takes its slots with it, and no two slots of a server have one name."""
    if record.system_id != identity.system_id:
        raise Refusal.OTHER_SERVER.error(
            f"this is another server: its system identifier is {identity.system_id}, and we have read from {record.system_id}",
            hint=f"mend source.url if it points to the wrong server; {NEW_EPOCH}",
        )
    if record.database != identity.database and not (slot and slot.database == identity.database):
        raise Refusal.OTHER_DATABASE.error(
            f"source.url leads to the database {identity.database}, and we have read from {record.database}",
            hint="mend source.url; for a second database, give its source a `name` and a `slot` of its own",
        )
    _check_timeline(record, identity, reached)
    if identity.wal_lsn < reached:
        raise Refusal.WAL_BEHIND.error(
            f"the server's WAL ends at {format_lsn(identity.wal_lsn)}, and we have read up to {format_lsn(reached)}: it was "
            "restored from a backup, or a standby was promoted that had not received everything",
            hint=f"events of changes past that point were delivered although the database has lost them; {NEW_EPOCH}",
        )


def _check_timeline(record: Record, identity: ServerIdentity, reached: Lsn) -> None:
    """A restored server's WAL may have grown past ours since: then only the timelines' history shows where it turned off."""
    for switch in identity.history:
        if switch.timeline >= record.timeline and switch.lsn < reached:
            raise Refusal.TIMELINE_LEFT.error(
                f"the server left timeline {switch.timeline} at {format_lsn(switch.lsn)}, and we have read that timeline up to "
                f"{format_lsn(reached)}: it was restored from a backup, or a standby was promoted that lacked the rest",
                hint=f"what this server has written since that point was not read; {NEW_EPOCH}",
            )
    if identity.timeline < record.timeline:
        raise Refusal.OLD_PRIMARY.error(
            f"the server is on timeline {identity.timeline}, and we have read {record.timeline}: an old primary has come back",
            hint=f"point source.url at the present primary; {NEW_EPOCH}",
        )


def _missing(record: Record) -> Stop:
    return Refusal.SLOT_MISSING.error(
        f"the replication slot {record.slot} is gone: somebody dropped it, or a failover led to a server without it",
        hint=f"changes committed after {format_lsn(record.confirmed_lsn)} and not in the journal cannot be had from it any more. "
        + _REPAIR,
    )


def _check_slot(record: Record, slot: SlotState, database: str, journal_end: Position | None) -> None:
    """A slot may be past what was recorded where the journal is, too: reading goes on at the journal's end."""
    if slot.plugin != record.plugin or slot.database != database:
        kind = f"plugin {slot.plugin}, database {slot.database}" if slot.plugin else "a physical slot"
        raise Refusal.SLOT_FOREIGN.error(
            f"the replication slot {slot.name} is not the one that we made: it is {kind}; ours had plugin {record.plugin}, "
            f"database {database}",
            hint="give `source.slot` a name of its own, or drop that slot if nobody needs it; then run `cdc-tracker repair`",
        )
    if slot.lost:
        reason = f": {slot.invalidation_reason}" if slot.invalidation_reason else ""
        raise Refusal.SLOT_LOST.error(f"the server has invalidated the replication slot {slot.name}{reason}", hint=LOST_HINT)
    confirmed = slot.confirmed_flush_lsn
    if confirmed is not None and confirmed > max(record.confirmed_lsn, journal_end.commit_lsn if journal_end else 0):
        raise Refusal.SLOT_MOVED.error(
            f"the replication slot {slot.name} was moved to {format_lsn(confirmed)}, and we confirmed no more than "
            f"{format_lsn(record.confirmed_lsn)}: it was made anew, or somebody else reads from it"
            + (f", now {slot.reader}" if slot.reader else ""),
            hint="the changes in between were not read by us. Stop the other reader; then `cdc-tracker repair` goes on from the "
            "slot, says from when to when nothing was read, and which tables can fill that",
        )


def _check_gap(
    record: Record,
    slot: SlotState,
    journal_end: Position | None,
    lowest_checkpoint: Position | None,
    times: Callable[[], CommitTimes],
) -> None:
    """The journal must still hold what it held past the lowest checkpoint. What else lies before the slot is none of ours."""
    confirmed = slot.confirmed_flush_lsn
    if lowest_checkpoint is None or confirmed is None or lowest_checkpoint.commit_lsn >= confirmed:
        return
    held = record.journaled_lsn
    if held > lowest_checkpoint.commit_lsn and (journal_end is None or journal_end.commit_lsn < held):
        ends = f"ends at {journal_end}" if journal_end else "is empty"
        when = times()
        raise Refusal.CHECKPOINT_GAP.error(
            f"the journal {ends}, and it held changes up to {format_lsn(held)}{_at(when.journaled)}; a destination has dealt "
            f"with them up to {lowest_checkpoint}{_at(when.dealt)} only, and the slot begins at {format_lsn(confirmed)}: what "
            "committed in between is missing",
            hint="bring the journal back (`journal.url`, or its files in data_dir). If it is lost, `cdc-tracker repair` goes on "
            "from the slot, and says for each destination what is missing and which tables can fill it",
        )


def _at(time_us: int) -> str:
    return f" ({for_display(time_us)})" if time_us else ""


def check_start(requested: Lsn, slot: SlotState) -> None:
    """Invariant 11: a start below `confirmed_flush_lsn` is refused here, because the server would silently begin later.

    Raises Gap. `requested` 0 leaves the choice to the server and is always right.
    """
    confirmed = slot.confirmed_flush_lsn or 0
    if requested and requested < confirmed:
        raise Refusal.START_TOO_LOW.error(
            f"the slot {slot.name} begins at {format_lsn(confirmed)}: what committed before, from {format_lsn(requested)} on, "
            "the server does not give again",
            hint="rewind within the journal instead: `cdc-tracker rewind` says how far back it reaches",
        )
