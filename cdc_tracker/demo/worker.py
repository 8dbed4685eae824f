"""The worker as a user runs it: by the command line, in its own processes, which the demo kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from cdc_tracker.demo import DemoFailed
from cdc_tracker.worker.processes import spawn

_COMMAND = [sys.executable, "-m", "cdc_tracker"]
_STOP_SECONDS = 20.0


class WorkerFailed(DemoFailed):
    """A command of cdc-tracker failed, or the daemon ended by itself."""


class Worker:
    """`cdc-tracker run` in its own session. The end of `with` kills it."""

    def __init__(self, config: Path, log: Path) -> None:
        self._environment = {**os.environ, "CDC_TRACKER_CONFIG": str(config)}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

    def command(self, *arguments: str) -> str:
        """Runs a command of cdc-tracker; returns its output. Raises WorkerFailed."""
        done = subprocess.run(
            [*_COMMAND, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
        )
        if done.returncode:
            raise WorkerFailed(f"`cdc-tracker {' '.join(arguments)}` ended with {done.returncode}:\n{done.stdout.strip()}")
        return done.stdout

    def start(self) -> None:
        """Starts the daemon."""
        with self._log.open("ab") as log:
            # SIGKILL: to drain it would need the receiver, which ends with the demo.
            self._process = spawn([*_COMMAND, "run"], log, env=self._environment)

    def check_alive(self) -> None:
        """Raises WorkerFailed if the daemon has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise WorkerFailed(f"The worker ended by itself with exit code {code}. The end of {self._log}:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="backslashreplace").splitlines()[-15:])

    def kill(self, roles: Collection[int] = ()) -> None:
        """SIGKILL to the daemon and to the processes of its roles, all at once. Roles that are not given end with the daemon."""
        process, self._process = self._process, None
        if process is None:
            return
        for pid in (process.pid, *roles):
            kill(pid)
        process.wait()
        _wait_for(roles)

    def stop(self) -> None:
        """SIGTERM, as from a service manager. Raises WorkerFailed if it does not end in time with exit code 0."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise WorkerFailed(f"The worker did not stop within {_STOP_SECONDS:g} s of SIGTERM:\n{self._tail()}") from error
        finally:
            process.kill()
            process.wait()
        if code:
            raise WorkerFailed(f"The worker ended with exit code {code} after SIGTERM:\n{self._tail()}")


def kill(pid: int) -> bool:
    """SIGKILL; False if there is no such process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_for(pids: Collection[int]) -> None:
    """Waits until they have ended, at most a second: a system without an init process keeps zombies."""
    deadline = time.monotonic() + 1
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
