"""Invariants 10 and 11: a slot or server that is not the one we left stops us, with the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from cdc_tracker.errors import Gap, SlotBusy, SlotForeign, SlotLost, SlotMissing, SourceRestored, StateMissing
from cdc_tracker.model import Position
from cdc_tracker.sources.postgres.catalog import ServerIdentity, Switch
from cdc_tracker.sources.postgres.slot import SlotReader, SlotState
from cdc_tracker.sources.postgres.verify import CommitTimes, check_start, verify
from tests.unit.sources.slots import SLOT


@dataclass(frozen=True)
class Known:
    system_id: str = "77"
    database: str = "shop"
    slot: str = "cdc_tracker"
    plugin: str = "pgoutput"
    created_lsn: int = 1000
    confirmed_lsn: int = 5000
    timeline: int = 1
    journaled_lsn: int = 5400


SERVER = ServerIdentity("77", 1, 6000, "shop", 180004, False)


def look(record: Known | None = Known(), slot: SlotState | None = SLOT, server: ServerIdentity = SERVER, **given: Any) -> None:
    positions: dict[str, Any] = {"journal_end": Position(5500, -1), "lowest_checkpoint": Position(5200, 3), **given}
    verify(record, slot, server, **positions)


def test_a_slot_as_we_left_it_passes() -> None:
    look()
    look(slot=replace(SLOT, confirmed_flush_lsn=3000))  # the server forgot the last confirmations in a crash
    look(journal_end=None, lowest_checkpoint=None)


def test_a_journal_that_is_empty_because_nothing_ever_came_passes_however_far_the_slot_was_confirmed_idle() -> None:
    look(Known(journaled_lsn=0), journal_end=None, lowest_checkpoint=Position(1000, -1))
    look(Known(journaled_lsn=0), journal_end=None, lowest_checkpoint=Position(1200, -1))  # a destination that came later


def test_a_slot_confirmed_idle_past_a_journal_that_is_all_delivered_passes() -> None:
    look(Known(journaled_lsn=2000), journal_end=Position(2000, -1), lowest_checkpoint=Position(2000, -1))


def test_an_adopted_slot_confirmed_idle_past_an_old_journal_passes() -> None:
    look(Known(journaled_lsn=3000), journal_end=Position(3000, -1), lowest_checkpoint=Position(4000, -1))


def test_a_slot_confirmed_by_max_wal_past_a_lagging_destination_passes_while_the_journal_has_it() -> None:
    look(journal_end=Position(5500, -1), lowest_checkpoint=Position(1200, 0))


def test_a_slot_past_what_was_recorded_passes_where_the_journal_is_past_it() -> None:
    look(slot=replace(SLOT, confirmed_flush_lsn=5500))  # confirmed above max_wal while the state store was away


@pytest.mark.parametrize(
    ("error", "command", "given"),
    [
        (SlotMissing, "cdc-tracker setup", {"record": None, "slot": None}),
        (StateMissing, "cdc-tracker setup --adopt", {"record": None}),
        (SlotMissing, "cdc-tracker repair", {"slot": None}),
        (SlotLost, "cdc-tracker repair", {"slot": replace(SLOT, wal_status="lost")}),
        (SlotLost, "max_slot_wal_keep_size", {"slot": replace(SLOT, invalidation_reason="idle_timeout")}),
        (SlotForeign, "source.slot", {"slot": replace(SLOT, plugin="wal2json")}),
        (SlotForeign, "source.slot", {"slot": replace(SLOT, database="other")}),
        (SlotForeign, "source.slot", {"slot": replace(SLOT, plugin="", database="")}),
        (SlotForeign, "cdc-tracker repair", {"slot": replace(SLOT, confirmed_flush_lsn=5501)}),
        (SlotForeign, "source.url", {"server": replace(SERVER, database="other")}),
        (SlotBusy, "cdc-tracker run --standby", {"slot": replace(SLOT, reader=SlotReader(4711, "other worker", "10.0.0.7"))}),
        (SourceRestored, "cdc-tracker setup --new-epoch", {"server": replace(SERVER, system_id="78")}),
        (SourceRestored, "cdc-tracker setup --new-epoch", {"server": replace(SERVER, wal_lsn=4999)}),
        (SourceRestored, "cdc-tracker setup --new-epoch", {"server": replace(SERVER, wal_lsn=5400)}),
        (SourceRestored, "cdc-tracker setup --new-epoch", {"server": replace(SERVER, wal_lsn=4999), "slot": None}),
        (SourceRestored, "source.url", {"record": Known(timeline=2)}),
        (Gap, "cdc-tracker repair", {"journal_end": None, "lowest_checkpoint": Position(4000, 0)}),
        (Gap, "cdc-tracker repair", {"journal_end": None, "lowest_checkpoint": Position(1000, -1)}),
        (Gap, "journal.url", {"journal_end": Position(3000, -1), "lowest_checkpoint": Position(4000, 0)}),
    ],
)
def test_whatever_is_not_as_we_left_it_stops_with_what_mends_it(
    error: type[Exception], command: str, given: dict[str, Any]
) -> None:
    with pytest.raises(error) as caught:
        look(**given)
    assert command in getattr(caught.value, "hint", "")


def test_a_gap_is_named_by_position_and_where_it_is_known_by_time() -> None:
    times = CommitTimes(dealt=1_790_000_000_000_000, journaled=1_790_000_060_500_000)
    with pytest.raises(Gap) as caught:
        look(journal_end=None, lowest_checkpoint=Position(4000, 0), times=lambda: times)
    assert "up to 0/1518 (2026-09-21 14:14:20Z)" in str(caught.value)
    assert "up to 0/FA0+0 (2026-09-21 14:13:20Z)" in str(caught.value)
    with pytest.raises(Gap) as caught:
        look(journal_end=None, lowest_checkpoint=Position(4000, 0))
    assert "Z)" not in str(caught.value)


def test_a_busy_slot_names_its_reader() -> None:
    with pytest.raises(SlotBusy, match=r"pid 4711 \(other worker, from 10.0.0.7\)"):
        look(slot=replace(SLOT, reader=SlotReader(4711, "other worker", "10.0.0.7")))


def test_a_promoted_standby_that_had_everything_is_the_same_server() -> None:
    look(server=replace(SERVER, timeline=2, history=(Switch(1, 5600),)))


def test_a_restored_server_is_found_out_even_when_its_wal_has_grown_past_ours() -> None:
    with pytest.raises(SourceRestored, match="left timeline 1 at 0/1130"):
        look(server=replace(SERVER, timeline=2, wal_lsn=900_000, history=(Switch(1, 0x1130),)))


def test_timelines_from_before_our_time_do_not_matter() -> None:
    look(record=Known(timeline=3), server=replace(SERVER, timeline=3, history=(Switch(1, 100), Switch(2, 900))))


@pytest.mark.invariant(11)
def test_a_start_below_what_the_server_still_gives_is_refused() -> None:
    check_start(0, SLOT)
    check_start(5000, SLOT)
    with pytest.raises(Gap, match="0/1388"):
        check_start(4999, SLOT)
