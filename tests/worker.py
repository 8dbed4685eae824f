"""A worker as a user runs it, for benchmarks and crash tests: a folder with its configuration, and the processes of a run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from cdc_tracker.config.config import Config
from cdc_tracker.worker.assemble import load_config
from tests import commands

ROOT = Path(__file__).parent.parent


class Worker:
    """One folder with cdc-tracker.yml, mappings and data, and the command line run in it."""

    def __init__(
        self,
        folder: Path,
        *,
        url: str,
        mapping: str,
        destinations: dict[str, dict[str, Any]],
        plugin: str = "auto",
        slot: str = "cdc_tracker",
        **parts: Any,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mappings").mkdir(exist_ok=True)
        (folder / "mappings" / "events.yml").write_text(mapping)
        source = {"url": url, "plugin": plugin, "slot": slot, "publication": slot, "outbox": None, **parts.pop("source", {})}
        config = {"version": 1, "source": source, "destinations": destinations, "http": {"port": None}, **parts}
        self.config = folder / "cdc-tracker.yml"
        self.config.write_text(yaml.safe_dump(config))
        self._read: tuple[tuple[int, int], Config] | None = None
        self.module = "cdc_tracker"  # what `python -m` runs
        self.environment: dict[str, str] = {}  # on top of ours

    @property
    def settings(self) -> Config:
        """What the file says at present; read again where it was written since."""
        written = (stat := self.config.stat()).st_mtime_ns, stat.st_size
        if self._read is None or self._read[0] != written:
            self._read = written, load_config(self.config)
        return self._read[1]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", self.module, "--config", str(self.config), *arguments]

    def call(self, *arguments: str) -> str:
        """A command that ends; what it printed. Raises RuntimeError with its output where it fails."""
        done = self.ended(*arguments)
        if done.returncode:
            raise RuntimeError(f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def ended(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command that ends, by itself and within a minute: exit code and output."""
        words = ["--config", str(self.config), *arguments]
        return commands.ended(self.module, words, cwd=ROOT, environment=os.environ | self.environment, timeout=60)

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        """`run`; its log goes to worker.log."""
        with (self.folder / "worker.log").open("ab") as log:
            return subprocess.Popen(
                self.command("run", *flags),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=os.environ | self.environment,
            )

    @contextlib.contextmanager
    def running(self, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
        """`run`, ended by SIGTERM, and by SIGKILL where that does not do."""
        process = self.start(*flags)
        try:
            yield process
        finally:
            end(process)

    @property
    def log(self) -> str:
        path = self.folder / "worker.log"
        return path.read_text() if path.exists() else ""

    def lines(self, name: str = "events") -> list[bytes]:
        """What the jsonl destination `name` (path: out/NAME) holds."""
        return [line for path in sorted((self.folder / "out").glob(f"{name}*.jsonl")) for line in path.read_bytes().splitlines()]

    def events(self, name: str = "events") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines(name)]


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Signal a process and wait for its end; its exit code."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(60)


def roles(supervisor: int) -> dict[str, int]:
    """Role (its first 15 characters) → process id, of those that a supervisor's fork server has started."""
    names, parents = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            before, _, after = (entry / "stat").read_text().rpartition(")")
            pid = int(entry.name)
            names[pid], parents[pid] = before.partition("(")[2], int(after.split()[1])
    ours = [pid for pid, parent in parents.items() if parents.get(parent) == supervisor]
    return {names[pid]: pid for pid in ours if names[pid] == "capture" or names[pid].startswith("deliver:")}


def peak_memory(pid: int) -> float:
    """The most memory that a process has had resident, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no VmHWM for {pid}")


def until(condition: Callable[[], bool], what: str, *, seconds: float = 60.0, pause: float = 0.05) -> None:
    """Wait for a condition; raises AssertionError naming it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent to ask does not."""
    with contextlib.suppress(OSError):
        return (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) != "Z"
    return False
