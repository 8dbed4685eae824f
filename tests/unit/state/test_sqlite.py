"""The state store in a SQLite file."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from cdc_tracker.config.settings import StateSettings
from cdc_tracker.errors import AlreadyRunning, ConfigError, Fenced, StateUnavailable, Stop
from cdc_tracker.journal.sql.store import KIND as JOURNAL
from cdc_tracker.model import Position
from cdc_tracker.state import Outcomes, State
from cdc_tracker.state.store import KIND as STATE
from cdc_tracker.storage import database as database_module
from cdc_tracker.storage.database import Kind
from tests.unit.state.samples import letter, unwatched  # noqa: F401
from tests.unit.state.stores import tmpfs
from tests.unit.state.suite import StateSuite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "state.sqlite"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


class TestStateInSqlite(StateSuite):
    """The whole suite."""


def test_a_full_disk_makes_the_store_unavailable_until_there_is_room_again() -> None:
    with tmpfs("6M") as small, State.open(f"sqlite:///{small}/state.sqlite") as state:
        ballast = small / "ballast"
        ballast.write_bytes(b"x" * 3_000_000)
        state.checkpoints.create("main", "jsonl", Position(0, -1))
        done = 0
        with pytest.raises(StateUnavailable, match="full") as raised:
            for lsn in range(1, 10_000):
                state.checkpoints.commit(
                    "main", "jsonl", Position(lsn, 0), Outcomes({(1, "a", "delivered"): 1}, [letter(lsn)] * 20)
                )
                done = lsn
        assert "space" in raised.value.hint
        found = state.checkpoints.get("main", "jsonl")
        assert found is not None
        assert found.position == Position(done, 0)
        ballast.unlink()
        state.checkpoints.commit("main", "jsonl", Position(done + 1, 0), Outcomes({(1, "a", "delivered"): 1}))
        assert [row.delivered for row in state.ledger.rows("main")] == [done + 1]


def test_a_store_that_another_program_keeps_locked_is_unavailable_and_then_works(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "LOCK_SECONDS", 0.05)
    with State.open(url) as state:
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StateUnavailable, match="locked"):
                state.checkpoints.create("main", "jsonl", Position(1, 0))
            assert state.checkpoints.get("main", "jsonl") is None
            other.execute("ROLLBACK")
        finally:
            other.close()
        state.checkpoints.create("main", "jsonl", Position(1, 0))


def test_a_store_whose_tables_were_dropped_stops_instead_of_trying_for_ever(url: str, path: Path) -> None:
    with State.open(url) as state:
        other = sqlite3.connect(path)
        other.execute("DROP TABLE cdc_tracker_checkpoint")
        other.close()
        with pytest.raises(Stop, match="no such table"):
            state.checkpoints.get("main", "jsonl")


def test_the_file_and_its_locks_belong_to_the_owner_only(url: str, path: Path) -> None:
    with State.open(url) as state, state.lock("capture:main"):
        lock = path.with_name("state.sqlite.capture%3Amain.lock")
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(lock.stat().st_mode) == 0o600
    assert lock.exists()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_lock_whose_file_was_deleted_or_replaced_is_taken_again(url: str, path: Path, how: str) -> None:
    with State.open(url) as state, State.open(url) as other, state.lock("capture") as held:
        path.with_name("state.sqlite.capture.lock").unlink()
        if how == "replaced":
            path.with_name("state.sqlite.capture.lock").touch()
        held.verify()
        with pytest.raises(AlreadyRunning, match=f"process {os.getpid()} on"):
            other.lock("capture").__enter__()


@pytest.mark.usefixtures("unwatched")
def test_a_lock_whose_file_was_deleted_and_that_another_has_taken_is_lost(url: str, path: Path) -> None:
    with State.open(url) as state, State.open(url) as other, state.lock("capture") as held:
        path.with_name("state.sqlite.capture.lock").unlink()
        with other.lock("capture") as taken:
            with pytest.raises(Fenced, match=f"lock on capture was lost, and process {os.getpid()} on"):
                held.verify()
            taken.verify()
        with pytest.raises(Fenced):  # for good
            held.check()
        assert not held.held()


def test_a_lock_whose_folder_is_away_is_not_given_up(url: str, path: Path) -> None:
    with State.open(url) as state, state.lock("capture") as held:
        path.parent.rename(path.parent.with_name("away"))
        with pytest.raises(StateUnavailable, match="cannot be used"):
            held.verify()
        path.parent.with_name("away").rename(path.parent)
        held.verify()


def test_a_url_without_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no file"):
        State.open("sqlite://")


def test_the_settings_name_a_file_in_the_data_folder(tmp_path: Path) -> None:
    assert StateSettings().location(tmp_path) == f"sqlite:///{tmp_path}/state.sqlite"
    given = StateSettings.model_validate({"url": "postgresql://u:secret@h/d"})
    assert given.location(tmp_path) == "postgresql://u:secret@h/d"
    assert "secret" not in repr(given)


@pytest.mark.parametrize("kind", [STATE, JOURNAL], ids=["state", "journal"])
def test_the_revisions_named_without_alembic_are_those_of_the_scripts(kind: Kind) -> None:
    config = Config()
    config.set_main_option("script_location", str(kind.migrations))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(revisions)) == kind.revisions
