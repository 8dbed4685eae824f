"""Real servers as child processes: on free ports, in a folder of their own, gone with the process that started them."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cdc_tracker.worker.processes import spawn
from tests.vendors.kit import EngineUnavailable

START_SECONDS = 60.0


def program(name: str, package: str) -> str:
    """Where a program is. Raises EngineUnavailable."""
    found = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    if found is None:
        raise EngineUnavailable(f"{name} is not installed: apt-get install {package}")
    return found


def answers(port: int) -> bool:
    """Whether somebody listens on the port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that is removed at the end, with whatever a server left in it."""
    root = Path(tempfile.mkdtemp(prefix="cdc-engine-", dir="/tmp"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


class Program:
    """A server that can be ended and started again on the same folder."""

    def __init__(
        self, command: Sequence[str], root: Path, ready: Callable[[], bool], environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment`: all of it, instead of ours."""
        self._command, self._root, self._ready, self._environment = command, root, ready, environment
        self.log = root / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = spawn(self._command, log, cwd=self._root, env=self._environment)
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self._command[0]} did not start: {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """In order, as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As if the machine had failed."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It holds its connections and answers nothing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)
