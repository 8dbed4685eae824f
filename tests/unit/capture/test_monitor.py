"""What capture sees beside the stream, and the alarms that follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

from cdc_tracker.capture import monitor as module
from cdc_tracker.capture.monitor import CaptureMonitor
from cdc_tracker.config.settings import Retention, SourceSettings
from cdc_tracker.journal import Journal
from cdc_tracker.sources.postgres.slot import SlotReader, Vitals
from cdc_tracker.state import State
from tests.unit.sources.slots import SLOT

MB = 1_000_000
GB = 1000 * MB


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[CaptureMonitor]:
    settings = SourceSettings.model_validate({"url": "postgresql://u@h/d", "max_wal": "10GB"})
    with (
        State.open(f"sqlite:///{tmp_path}/state.sqlite") as state,
        Journal.open(f"sqlite:///{tmp_path}/journal.sqlite", "main") as journal,
    ):
        yield CaptureMonitor(settings, Retention(age=3600, size=GB), state, journal)


WELL = replace(SLOT, reader=SlotReader(7), confirmed_flush_lsn=900, retained_bytes=100)


def vitals(wal_end: int = 1000, *, exists: bool = True, **changes: Any) -> Vitals:
    return Vitals(wal_end, replace(WELL, **changes) if exists else None)


def alarms(monitor: CaptureMonitor) -> list[str]:
    return [alarm["what"] for alarm in said(monitor)["alarms"]]


def said(monitor: CaptureMonitor) -> dict[str, Any]:
    monitor.write(force=True)
    [role] = monitor.stores.reports.all("main")
    found: dict[str, Any] = to_builtins(role.report)
    return found


@pytest.mark.parametrize("limit", [32 * MB, 64 * MB, 256 * MB, 512 * MB, 100 * GB])
def test_an_idle_slot_is_well_whatever_max_slot_wal_keep_size_is(monitor: CaptureMonitor, limit: int) -> None:
    monitor.look(vitals(retained_bytes=100_000, safe_wal_size=limit - 100_000))
    assert alarms(monitor) == []


@pytest.mark.parametrize("limit", [32 * MB, 256 * MB, 100 * GB])
def test_a_slot_that_holds_most_of_what_it_may_is_told_of_before_it_is_lost(monitor: CaptureMonitor, limit: int) -> None:
    monitor.settings = monitor.settings.model_copy(update={"max_wal": 1000 * GB})
    monitor.look(vitals(retained_bytes=limit // 2, safe_wal_size=limit // 2))
    assert alarms(monitor) == []
    monitor.look(vitals(retained_bytes=limit * 8 // 10, safe_wal_size=limit * 2 // 10))
    assert alarms(monitor) == ["the slot is close to max_slot_wal_keep_size, above which the server invalidates it"]
    monitor.look(vitals(retained_bytes=limit, safe_wal_size=-1, wal_status="unreserved"))
    assert alarms(monitor) == ["the slot is unreserved: the server removes WAL that has not been read yet"]


def test_an_alarm_says_since_when_it_holds_and_what_to_do(monitor: CaptureMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000_000, 10_000_000, 1_000_000))
    monkeypatch.setattr(module, "now_micros", lambda: next(clock))
    since = []
    for gone in (True, True, False, True):
        monitor.look(vitals(exists=not gone))
        since += [alarm["since"] for alarm in said(monitor)["alarms"] if alarm["hint"]]
    assert len(since) == 3 and since[0] == since[1] < since[2]


def test_what_is_known_of_the_server_grows_old_while_nothing_is_seen_of_it(
    monitor: CaptureMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000]
    monkeypatch.setattr(module, "now_micros", lambda: now[0])
    monitor.seen = 1000
    monitor.look(vitals(wal_end=1000))
    assert said(monitor)["current_at"] == 1_000
    now[0] = 2_000
    monitor.look(vitals(wal_end=5000))  # capture has not seen that yet
    assert said(monitor)["current_at"] == 1_000
    now[0] = 3_000
    monitor.seen = 6000
    assert said(monitor)["current_at"] == 2_000  # all that was written until then
    now[0] = 9_000
    found = said(monitor)
    assert (found["current_at"], found["asked_at"]) == (2_000, 2_000)


def test_a_stream_that_moves_is_told_from_one_that_stands_still(monitor: CaptureMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000]
    monkeypatch.setattr(module, "now_micros", lambda: now[0])
    monitor.seen = 500
    monitor.look(vitals(wal_end=1000))
    assert said(monitor)["moved_at"] == 1_000
    now[0] = 2_000
    assert said(monitor)["moved_at"] == 1_000  # nothing came, although there is more
    monitor.report.frames += 10
    assert said(monitor)["moved_at"] == 2_000  # in the middle of a large transaction
    now[0] = 3_000
    monitor.seen = 1000
    assert said(monitor)["moved_at"] == 3_000
    now[0] = 4_000
    assert said(monitor)["moved_at"] == 4_000  # there is nothing more


def test_the_time_of_a_state_is_that_of_its_beginning(monitor: CaptureMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5_000]
    monkeypatch.setattr(module, "now_micros", lambda: now[0])
    monitor.enter("reconnecting", "refused", "is it running?")
    now[0] = 6_000
    monitor.enter("reconnecting", "refused again", "is it running?")
    found = said(monitor)
    assert (found["since"], found["trouble"], found["hint"]) == (5_000, "refused again", "is it running?")
