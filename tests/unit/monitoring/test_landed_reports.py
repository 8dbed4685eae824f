"""Role reports as an earlier release stored them: a worker may still run while another version reads what it reports."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.cli.status import snapshot
from cdc_tracker.journal import Journal
from cdc_tracker.monitoring import Observer
from cdc_tracker.monitoring.metrics import exposition
from cdc_tracker.operations.status import Slot, Status
from cdc_tracker.state import SourceRecord, State
from cdc_tracker.state.tables import roles

LANDED: dict[str, Any] = json.loads(Path(__file__).with_name("landed_reports.json").read_text())
RECORD = SourceRecord("main", "1", "shop", "slot", "pgoutput", "", 1, 0, 0, 1)


NEWER: dict[str, Any] = {"never_matched": {}}
"""What `status` says beyond what the landed version did."""


@pytest.fixture
def observer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observer]:
    """As of when the reports were written."""
    monkeypatch.setattr(time, "time", lambda: LANDED["now"] / 1e6)
    monkeypatch.setattr(time, "time_ns", lambda: LANDED["now"] * 1000)
    with (
        State.open(f"sqlite:///{tmp_path}/state.sqlite") as state,
        Journal.open(f"sqlite:///{tmp_path}/journal.sqlite", "main") as journal,
    ):
        yield Observer(state, journal, "main", ["events", "lake"], tmp_path)


def stored(observer: Observer, rows: list[dict[str, Any]]) -> None:
    with observer._state._database.writing() as connection:
        connection.execute(roles.insert(), rows)


def status(observer: Observer) -> dict[str, Any]:
    health = observer.look()
    seen = Status(0.0, RECORD, Slot("slot", "pgoutput"), health, health.findings, {}, [], None)
    shown: dict[str, Any] = json.loads(json.dumps(snapshot(seen)))
    return shown


def metrics(observer: Observer) -> list[str]:
    lines = exposition(observer).decode().splitlines()
    return [line for line in lines if not line.startswith("#") and "data_dir_free" not in line]


@pytest.mark.parametrize("case", LANDED["cases"])
def test_status_readiness_and_metrics_say_of_landed_reports_what_they_said(observer: Observer, case: str) -> None:
    rows, said = (LANDED["cases"][case][key] for key in ("rows", "said"))
    stored(observer, rows)
    assert status(observer) == said["status"] | NEWER
    assert observer.look().problems == said["problems"]
    assert metrics(observer) == said["metrics"]


def changed(role: str, **fields: Any) -> list[dict[str, Any]]:
    """The landed reports of a running worker, with other fields in one of them."""
    rows = LANDED["cases"]["running"]["rows"]
    return [{**row, "detail": json.dumps(json.loads(row["detail"]) | fields)} if row["role"] == role else row for row in rows]


@pytest.mark.parametrize("role", ["supervisor", "capture", "deliver:events", "deliver:lake"])
def test_a_newer_version_s_report_is_read_without_what_only_that_one_knows(observer: Observer, role: str) -> None:
    stored(observer, changed(role, version=99, fingerprint={"a": [1]}))
    assert status(observer) == LANDED["cases"]["running"]["said"]["status"] | NEWER


UNREADABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "supervisor": ("worker", {"roles": {"capture": 3}}),
    "capture": ("capture", {"alarms": ["the slot is unreserved"]}),
    "deliver:events": ("events", {"recent": {"7": {"delivered": "many"}}}),
    "deliver:lake": ("lake", {"since": "yesterday"}),
}


@pytest.mark.parametrize("role", UNREADABLE)
def test_a_report_that_cannot_be_read_makes_the_worker_unready(observer: Observer, role: str) -> None:
    who, fields = UNREADABLE[role]
    stored(observer, changed(role, **fields))
    assert f"{who}: its last report cannot be read: Expected" in "\n".join(observer.look().problems)
    assert "cdc_tracker_ready 0.0" in metrics(observer)
    assert "cannot be read" in json.dumps(status(observer)["findings"])


def test_a_report_that_is_no_json_is_not_taken_for_one_in_which_all_is_well(observer: Observer) -> None:
    rows = LANDED["cases"]["running"]["rows"]
    stored(observer, [{**row, "detail": "{" if row["role"] == "capture" else "{}"} for row in rows])
    [problem] = [each for each in observer.look().problems if each.startswith("capture")]
    assert "its last report cannot be read" in problem
