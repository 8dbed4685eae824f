"""What the supervisor tells of itself and of the roles that it starts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import to_builtins

from cdc_tracker.config.config import Config
from cdc_tracker.errors import StateUnavailable, Stop
from cdc_tracker.monitoring import worker as worker_module
from cdc_tracker.monitoring.worker import WorkerReporter
from cdc_tracker.state import SUPERVISOR, State, SupervisorReport
from cdc_tracker.worker import assemble
from cdc_tracker.worker.roles import report_end
from tests.ports import free_ports
from tests.worker import until

MAPPING = """
version: 1
events:
  - {name: Item Added, table: shop.items, on: [insert], user_id: new.id}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of a server that is away."""
    source = {"url": f"postgresql://nobody@127.0.0.1:{free_ports(1)[0]}/nothing"}
    text = {"version": 1, "source": source, "destinations": {"events": {"type": "memory"}}}
    (tmp_path / "cdc-tracker.yml").write_text(yaml.safe_dump(text))
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "events.yml").write_text(MAPPING)
    return assemble.load_config(tmp_path / "cdc-tracker.yml")


@pytest.fixture
def state(config: Config) -> Iterator[State]:
    with State.open(config.state_url) as opened:
        yield opened


def said(state: State) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {
        role.role: to_builtins(role.report) | {"state": role.state} for role in state.reports.all("main")
    }
    return found.get(SUPERVISOR, {})


def test_ends_of_roles_are_counted_with_what_the_role_left_word_of(config: Config, state: State) -> None:
    with closing(WorkerReporter(config, state, assemble.load_mappings(config))) as report:
        report.started("capture")
        report.started("deliver:events")
        report_end(config, "deliver:events", "KeyError for postgresql://u:secret@h/d", "the log has the traceback")
        report.ended("deliver:events", 1)
        report.ended("deliver:events", -9)
        report.ended("capture", 0)  # it was told to
        until(lambda: bool(said(state).get("roles", {}).get("deliver:events", {}).get("trouble")), "it is told")
        roles = said(state)["roles"]
        assert not roles["capture"]["running"] and not roles["capture"]["ends"] and not roles["capture"]["ends_ever"]
        told = roles["deliver:events"]
        assert (told["ends"], told["ends_ever"], told["code"], told["hint"]) == (2, 2, -9, "the log has the traceback")
        assert "secret" not in told["trouble"] and told["ended_at"] > 0
    assert said(state)["state"] == "stopped"


def test_ends_of_long_ago_count_only_in_the_counter(config: Config, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "WINDOW", 0.05)
    with closing(WorkerReporter(config, state, assemble.load_mappings(config))) as report:
        report.ended("capture", 1)
        time.sleep(0.1)
        report.started("capture")
        until(lambda: said(state).get("roles", {}).get("capture", {}).get("running", False), "it is told", seconds=20)
        assert (said(state)["roles"]["capture"]["ends"], said(state)["roles"]["capture"]["ends_ever"]) == (0, 1)


def test_what_befell_the_worker_before_is_known_to_the_next_one(config: Config, state: State) -> None:
    with closing(WorkerReporter(config, state, assemble.load_mappings(config))) as report:
        report.ended("capture", 1)
        until(lambda: bool(said(state).get("roles")), "it is told")
    before = state.reports.last("main", SUPERVISOR, SupervisorReport)
    state.reports.save("main", SUPERVISOR, 1, "running", before)  # as one that was killed leaves it
    with closing(WorkerReporter(config, state, assemble.load_mappings(config))):
        until(lambda: "supervisor" in said(state)["roles"], "it is told")
    report_end(config, None, "the process that starts the roles is gone", "")
    with closing(WorkerReporter(config, state, assemble.load_mappings(config))):
        until(lambda: said(state).get("roles", {}).get("supervisor", {}).get("ends") == 2, "both are told")
        roles = said(state)["roles"]
        assert roles["supervisor"]["trouble"] == "the process that starts the roles is gone"
        assert (roles["capture"]["ends"], roles["capture"]["ends_ever"]) == (1, 1)
    with closing(WorkerReporter(config, state, assemble.load_mappings(config))):
        until(lambda: said(state)["state"] == "running", "it runs")
        assert said(state)["roles"]["supervisor"]["ends"] == 2  # the last one stopped as it should


def test_a_reload_that_failed_is_told_until_one_succeeds(config: Config, state: State) -> None:
    with closing(WorkerReporter(config, state, assemble.load_mappings(config))) as report:
        report.reload_failed(Stop("mappings/events.yml:3: no such key", hint="mend it"))
        until(lambda: bool(said(state).get("reload")), "it is told")
        assert said(state)["reload"]["hint"] == "mend it" and said(state)["reload"]["at"] > 0
        report.reloaded(assemble.load_mappings(config))
        until(lambda: said(state)["reload"] is None, "it is over")


def test_a_state_store_that_hangs_holds_up_neither_supervision_nor_the_end(
    config: Config, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def hang(*_: object) -> None:
        released.wait(60)
        raise StateUnavailable("away")

    monkeypatch.setattr(state.reports, "save", hang)
    monkeypatch.setattr(worker_module, "REPORT", 0.2)
    report = WorkerReporter(config, state, assemble.load_mappings(config))
    began = time.monotonic()
    report.ended("capture", 1)
    report.close()
    assert time.monotonic() - began < 30
    released.set()
