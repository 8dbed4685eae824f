"""The demo as a person runs it: the whole way of a change, with two kills, in processes of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

LAST_LINE = re.compile(r"expected (\d+), delivered (\d+), lost 0, duplicated 0")
SECONDS = "4"


def _command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "cdc_tracker", "demo", "--dir", str(folder), "--seconds", SECONDS, *options]


def _environment(folder: Path) -> dict[str, str]:
    """Every process of the demo inherits the mark by which it is found."""
    return {**os.environ, "DEMO_FOLDER": str(folder)}


def _run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(folder, *options),
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=_environment(folder),
    )


def _left_behind(folder: Path) -> list[str]:
    """Processes that the demo started and that still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"DEMO_FOLDER={folder}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def _wait_until_none_is_left(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while left := _left_behind(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def only_on_linux() -> None:
    if sys.platform != "linux":
        pytest.skip("looks for processes in /proc")


def _passes(folder: Path, *options: str) -> tuple[int, str]:
    """The events that it expected, and what it printed."""
    done = _run(folder, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    last = LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    assert last is not None, done.stdout
    assert last[1] == last[2]
    assert done.stdout.count("SIGKILL to") == 2
    _wait_until_none_is_left(folder)
    return int(last[1]), done.stdout


def test_the_demo_loses_nothing_doubles_nothing_and_leaves_no_process_behind_twice_in_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    expected, _ = _passes(folder)
    assert expected > 1000
    assert not (folder / "postgres").exists()

    expected, said = _passes(folder, "--keep", "--rate", "50")
    lines = [line for file in sorted((folder / "events").glob("*.jsonl")) for line in file.read_text().splitlines()]
    assert len(lines) == expected / 3  # one destination of three
    assert len({json.loads(line)["messageId"] for line in lines}) == len(lines)
    database = re.search(r"^the database +(.+)$", said, re.MULTILINE)  # as root it may lie outside the demo's folder
    assert database is not None
    assert (Path(database[1]) / "PG_VERSION").exists()
    shutil.rmtree(Path(database[1]).parent)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_or_killed_it_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "demo"
    demo = subprocess.Popen(
        _command(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=_environment(folder),
    )
    assert demo.stdout is not None
    with demo, demo.stdout:
        for line in demo.stdout:
            if " transactions, " in line:  # the shop is open
                break
        demo.send_signal(number)
        demo.stdout.read()
        assert demo.wait(30) == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    _wait_until_none_is_left(folder)
    url = yaml.safe_load((folder / "cdc-tracker.yml").read_text())["source"]["url"]
    sockets = Path(url.partition("?host=")[2])
    assert sockets.name.startswith("cdc-pg-")
    assert sockets.exists() == (number == signal.SIGKILL)  # killed like that, it could not tidy up
    shutil.rmtree(sockets, ignore_errors=True)
