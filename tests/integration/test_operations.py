"""`setup`, `teardown` and `repair` as functions: plans and steps are values, nothing is printed, and an old plan does no harm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cdc_tracker.config.config import Config
from cdc_tracker.errors import AlreadyRunning, Stop
from cdc_tracker.model import Lsn, Position
from cdc_tracker.operations import repair, scaffold, setup
from cdc_tracker.operations.source import SourceSetup, Step, opened
from cdc_tracker.state import SourceRecord
from cdc_tracker.worker.assemble import load_config
from tests.integration.folder import SCHEMA
from tests.postgres import Database

pytestmark = pytest.mark.servers("pg18")
MODES: list[setup.Mode] = ["recreate_slot", "new_epoch"]


@pytest.fixture
def config(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("CDC_TRACKER_SOURCE__SLOT", database.name)
    database.execute(SCHEMA)
    for name, text in scaffold.starting_files(database.url).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return load_config(tmp_path / scaffold.CONFIG_FILE)


@pytest.fixture
def source(config: Config) -> Iterator[SourceSetup]:
    """One that is set up."""
    with opened(config) as found:
        setup.apply(found, setup.plan(found))
        yield found


@contextmanager
def working(source: SourceSetup) -> Iterator[None]:
    """While another process has the role of the worker."""
    with ExitStack() as stack:
        other = stack.enter_context(opened(source.config))
        stack.enter_context(other.state.lock(f"{source.name}.worker"))
        yield


def known(source: SourceSetup) -> tuple[SourceRecord | None, Lsn | None, Position | None]:
    slot = source.slot()
    return source.record(), slot.confirmed_flush_lsn if slot else None, source.lowest_checkpoint()


def test_each_step_of_setup_and_teardown_is_reported_and_nothing_is_printed(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[Step] = []
    with opened(config, steps.append) as source:
        planned = setup.plan(source)
        assert (planned, steps) == (setup.SetupPlan(), [])
        setup.apply(source, planned)
        assert [step.part for step in steps] == ["outbox", "publication", "publication", "slot", "checkpoint"]
        steps.clear()
        assert "the outbox cdc_tracker.outbox with its rows" in setup.teardown_consequence(source, drop_outbox=True)
        assert steps == []
        setup.teardown(source, drop_outbox=True)
        assert [step.part for step in steps] == ["slot", "publication", "outbox", "state"]
        assert known(source) == (None, None, None)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_says_what_is_given_up_and_changes_nothing(source: SourceSetup, mode: setup.Mode) -> None:
    before = known(source)
    planned = setup.plan(source, mode)
    assert planned.exclusive and planned.consequence
    assert known(source) == before
    setup.apply(source, planned)
    after = source.record()
    assert before[0] is not None and after is not None and after.created_lsn > before[0].created_lsn


def test_a_plan_that_a_worker_would_lose_by_is_refused_while_one_runs(source: SourceSetup) -> None:
    planned, before = setup.plan(source, "recreate_slot"), known(source)
    with working(source):
        for refused in (
            lambda: setup.plan(source, "recreate_slot"),
            lambda: setup.apply(source, planned),
            lambda: setup.teardown_consequence(source),
            lambda: setup.teardown(source),
        ):
            with pytest.raises(AlreadyRunning, match="A worker of the source 'main' is running"):
                refused()
        setup.apply(source, setup.plan(source))  # what takes nothing from it is done
    assert known(source) == before


def test_a_diagnosis_that_is_out_of_date_changes_nothing(source: SourceSetup, database: Database) -> None:
    database.execute(f"SELECT pg_drop_replication_slot('{database.name}')")
    lost = repair.diagnose(source)
    assert (lost.repairable, lost.mend, [fault.code for fault in lost.faults]) == (True, "new slot", ["slot_missing"])
    outcome = repair.apply(source, lost)
    assert (len(outcome.gaps), outcome.left) == (1, None)
    repaired = known(source)
    assert not repair.diagnose(source).faults
    with pytest.raises(Stop, match="has changed since it was diagnosed"):
        repair.apply(source, lost)
    assert known(source) == repaired


def test_what_a_person_has_to_choose_is_not_repairable(source: SourceSetup) -> None:
    record = source.record()
    assert record is not None
    source.state.sources.save(replace(record, system_id="1"))
    found = repair.diagnose(source)
    assert not found.repairable
    assert found.person is not None and "setup --new-epoch" in found.person.hint
