"""A store is read where nothing can be written, and its files are their owner's alone."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from cdc_tracker.model import Position
from cdc_tracker.state import State
from cdc_tracker.state.store import KIND
from tests.unit.state.stores import made_by_an_older_version, program, tmpfs

WRITER = """
import os, signal, sys
from cdc_tracker.model import Position
from cdc_tracker.state import State
state = State.open(sys.argv[1])
state.checkpoints.create("main", "jsonl", Position(7, 1))
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
state.close()
"""
READER = """
import os, sys
from cdc_tracker.state import State
os.setgid(65534)
os.setuid(65534)
with State.open_to_read(sys.argv[1]) as state:
    print(state.checkpoints.get("main", "jsonl").position)
"""


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


@pytest.mark.parametrize("worker", ["runs", "stopped", "killed", "killed and the index removed"])
def test_a_store_on_a_full_disk_is_read_whatever_became_of_the_worker(worker: str) -> None:
    with tmpfs("4M") as disk:
        url = f"sqlite:///{disk}/state.sqlite"
        how = "killed" if "killed" in worker else "stopped"
        with program(WRITER, url, how) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            if worker != "runs":
                _, errors = writer.communicate("\n", timeout=30)
                assert writer.returncode == (-signal.SIGKILL if how == "killed" else 0), errors
            if "removed" in worker:
                (disk / "state.sqlite-shm").unlink()
            fill(disk)
            with State.open_to_read(url) as state:
                found = state.checkpoints.get("main", "jsonl")
                assert found is not None and found.position == Position(7, 1)


def test_a_user_who_may_only_read_reads_while_the_worker_runs_and_afterwards(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    with tmpfs("4M") as disk:
        disk.chmod(0o755)
        url = f"sqlite:///{disk}/state.sqlite"
        with program(WRITER, url, "stopped") as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            for path in disk.iterdir():
                path.chmod(0o644)
            with program(READER, url) as reader:
                out, errors = reader.communicate(timeout=30)
                assert out == "0/7+1\n", errors
            writer.communicate("\n", timeout=30)
        with program(READER, url) as reader:
            out, errors = reader.communicate(timeout=30)
            assert out == "0/7+1\n", errors


def test_a_store_of_an_older_version_is_migrated_before_it_is_read(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.sqlite"
    made_by_an_older_version(url, KIND, "0001", "")
    with State.open_to_read(url) as state:
        assert state.ledger.totals("main") == {}


def test_a_store_that_is_not_there_is_made(tmp_path: Path) -> None:
    with State.open_to_read(f"sqlite:///{tmp_path}/data/state.sqlite") as state:
        assert state.reports.all("main") == []


def test_files_of_a_store_are_their_owner_s_alone_whatever_the_umask_and_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "data" / "state.sqlite"
    before = os.umask(0)
    try:
        with State.open(f"sqlite:///{path}") as state:
            state.checkpoints.create("main", "jsonl", Position(1, 1))
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
            assert modes == dict.fromkeys(("state.sqlite", "state.sqlite-wal", "state.sqlite-shm"), 0o600)
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        path.chmod(0o666)  # as a copy that was put back may be
        with State.open(f"sqlite:///{path}"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
