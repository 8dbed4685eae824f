"""The journal in a SQLite file."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from cdc_tracker.config.settings import JournalSettings
from cdc_tracker.errors import ConfigError, JournalUnavailable, Stop
from cdc_tracker.journal import Journal
from cdc_tracker.model import START
from cdc_tracker.storage import database as database_module
from tests.unit.journal.samples import segment
from tests.unit.journal.suite import EVERYTHING, YEAR, JournalSuite, files_of
from tests.unit.state.stores import program, tmpfs

WAITER = """
import sys
from cdc_tracker.journal import Journal
journal = Journal.open(sys.argv[1], "main")
waiter = journal.waiter("killed")
print("waiting", flush=True)
waiter.wait(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal.sqlite"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


class TestJournalInSqlite(JournalSuite):
    """The whole suite."""


def _frames(size: int) -> bytes:
    return os.urandom(size)  # does not compress


def test_the_file_is_durable_readable_by_its_owner_only_and_able_to_shrink(url: str, path: Path) -> None:
    with Journal.open(url, "main") as journal, journal._database.writing() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
        assert found == {"journal_mode": "wal", "synchronous": 2}
        assert connection.exec_driver_sql("PRAGMA auto_vacuum").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_trimming_gives_the_space_back_to_the_disk(url: str, path: Path) -> None:
    with Journal.open(url, "main") as journal:
        for number in range(1, 41):
            journal.append([segment(number, frames=_frames(100_000))])
        assert journal.trim(age_s=100 * YEAR, size=10**9, keep_after=EVERYTHING).deleted == 0
        journal.append([segment(41)])
        full = path.stat().st_size
        assert full > 3_000_000
        journal.trim(age_s=0, size=0, keep_after=EVERYTHING)
        assert path.stat().st_size < full // 10


def test_a_full_disk_makes_the_journal_unavailable_until_there_is_room_again() -> None:
    with tmpfs("6M") as small:
        with Journal.open(f"sqlite:///{small}/journal.sqlite", "main") as journal:
            ballast = small / "ballast"
            ballast.write_bytes(b"x" * 3_000_000)
            stored = 0
            with pytest.raises(JournalUnavailable, match="full") as raised:
                for number in range(1, 100):
                    journal.append([segment(number, frames=_frames(100_000))])
                    stored = number
            assert "space" in raised.value.hint
            with pytest.raises(JournalUnavailable):
                journal.append([segment(stored + 1, frames=_frames(100_000))])
            assert len(journal.read(START, 100)) == stored
            ballast.unlink()
            journal.append([segment(stored + 1, frames=_frames(100_000))])
            assert journal.end() == segment(stored + 1).last
        with Journal.open(f"sqlite:///{small}/journal.sqlite", "main") as journal:
            assert len(journal.read(START, 100)) == stored + 1


def test_a_full_disk_is_told_when_the_journal_is_opened_too() -> None:
    with tmpfs("1M") as small:
        with pytest.raises(OSError, match="No space left"):
            (small / "ballast").write_bytes(b"x" * 2_000_000)
        with pytest.raises(JournalUnavailable, match=r"journal\.sqlite"):
            Journal.open(f"sqlite:///{small}/journal.sqlite", "main")
        (small / "ballast").unlink()
        with Journal.open(f"sqlite:///{small}/journal.sqlite", "main") as journal:
            journal.append([segment(1)])


def test_a_file_that_another_program_keeps_locked_is_unavailable_and_then_works(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "LOCK_SECONDS", 0.05)
    with Journal.open(url, "main") as journal:
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalUnavailable, match="locked") as raised:
                journal.append([segment(1)])
            assert "sqlite3 shell" in raised.value.hint
            assert journal.read(START, 1) == []
            other.execute("ROLLBACK")
        finally:
            other.close()
        journal.append([segment(1)])
        assert journal.end() == segment(1).last


def test_a_file_that_cannot_be_written_is_unavailable() -> None:
    with tmpfs("5M") as mount:
        Journal.open(f"sqlite:///{mount}/journal.sqlite", "main").close()
        assert os.system(f"mount -o remount,ro {mount}") == 0
        try:
            with (
                pytest.raises(JournalUnavailable) as raised,
                Journal.open(f"sqlite:///{mount}/journal.sqlite", "main") as journal,
            ):
                journal.append([segment(1)])
            assert "writable" in raised.value.hint
        finally:
            os.system(f"mount -o remount,rw {mount}")


def test_a_file_that_is_no_database_stops(url: str, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, " * 1000)
    with pytest.raises(Stop, match="not a database"):
        Journal.open(url, "main")


def test_the_fifo_of_a_killed_reader_is_removed_and_that_of_a_live_one_stays(url: str, path: Path) -> None:
    folder = Path(f"{path}.wake")
    with Journal.open(url, "main") as journal:
        with journal.waiter("live") as live, program(WAITER, url) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            assert len(files_of(folder)) == 2
            process.kill()
            process.wait(60)
            journal.append([segment(1)])
            assert [name.split("@")[1] for name in files_of(folder)] == ["live"]
            assert live.wait(5)
        assert files_of(folder) == []


def test_a_reader_that_never_reads_its_fifo_does_not_hold_up_the_writer(url: str) -> None:
    with Journal.open(url, "main") as journal, journal.waiter("asleep") as asleep:
        for _ in range(70_000):  # more than a pipe holds
            journal.wake()
        journal.append([segment(1)])
        assert asleep.wait(0)
        assert not asleep.wait(0)


def test_the_wake_folder_can_be_elsewhere(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "wake"
    with Journal.open(url, "main", folder) as writer, Journal.open(url, "main", folder) as reader:
        writer.append([segment(1)])
        with reader.waiter("reader") as waiter:
            assert len(files_of(folder)) == 1
            writer.append([segment(2)])
            assert waiter.wait(5)


@pytest.mark.parametrize(
    "wrong", ["mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:", "nonsense", "postgresql://u:secret@h:port/d"]
)
def test_a_url_that_names_no_store_of_ours_is_refused_without_showing_its_password(wrong: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Journal.open(wrong, "main")
    assert "secret" not in str(raised.value) + repr(raised.value.__cause__)
    assert raised.value.hint


def test_the_settings_have_a_week_and_ten_gigabytes_and_a_file_in_the_data_folder(tmp_path: Path) -> None:
    settings = JournalSettings()
    assert (settings.retention.age, settings.retention.size) == (7 * 86400, 10 * 1000**3)
    assert settings.location(tmp_path) == f"sqlite:///{tmp_path}/journal.sqlite"
    given = JournalSettings.model_validate({"url": "postgresql://u:secret@h/d", "retention": {"age": "2h", "size": "5MB"}})
    assert (given.retention.age, given.retention.size) == (7200, 5_000_000)
    assert given.location(tmp_path) == "postgresql://u:secret@h/d"
    assert "secret" not in repr(given)


def test_an_abandoned_unfinished_fifo_is_swept_away(url: str, path: Path) -> None:
    folder = Path(f"{path}.wake")
    folder.mkdir(parents=True)
    fresh, old = folder / ".main@a@1-fresh.fifo", folder / ".main@a@1-old.fifo"
    for fifo in (fresh, old):
        os.mkfifo(fifo)
    os.utime(old, (1, 1))
    with Journal.open(url, "main") as journal, journal.waiter("one"):
        assert fresh.exists()
        assert not old.exists()
