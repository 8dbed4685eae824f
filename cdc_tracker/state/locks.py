"""Locks that are held by one process at a time and freed by its death, however it dies."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from cdc_tracker.database import Database, advisory_key
from cdc_tracker.errors import AlreadyRunning, StateUnavailable

_RETRY_SECONDS = 0.1
_HINT = "Stop that process first, or start this one with --standby so that it takes over when that one ends."
# The session that holds an advisory lock on a bigint key: the high half is its classid, the low half its objid.
_HOLDER = (
    "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.objsubid = 1 "
    "AND (l.classid::bigint << 32) | l.objid::bigint = %s"
)


class Lock(Protocol):
    """Taken when entered, or AlreadyRunning is raised, naming the holder. Not passed on to child processes that exec."""

    def __enter__(self) -> Lock: ...

    def __exit__(self, *exc: object) -> None: ...

    def verify(self) -> None:
        """Raises StateUnavailable where the lock was lost: the database server ended our session, someone deleted the file."""


def make(database: Database, name: str, wait: float) -> Lock:
    return (
        FileLock(Path(f"{database.path}.{quote(name, safe='')}.lock"), name, wait)
        if database.is_sqlite
        else AdvisoryLock(database, name, wait)
    )


def _me() -> str:
    return f"{os.getpid()}@{socket.gethostname()}"


def _already(name: str, holder: str) -> AlreadyRunning:
    pid, _, host = holder.strip().partition("@")
    return AlreadyRunning(f"{name} is held by process {pid or 'unknown'} on {host or 'an unknown host'}.", hint=_HINT)


class FileLock:
    """flock on a file that stays when the lock is freed: deleting it would let two processes lock two files of one name."""

    def __init__(self, path: Path, name: str, wait: float) -> None:
        self._path = path
        self._name = name
        self._wait = wait
        self._file = -1

    def __enter__(self) -> FileLock:
        deadline = time.monotonic() + self._wait
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            while not self._taken():
                if time.monotonic() >= deadline:
                    raise _already(self._name, os.pread(self._file, 300, 0).decode(errors="replace"))
                time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{_me()}\n".encode(), 0)
        except OSError as error:
            self._close()
            raise StateUnavailable(f"The lock file {self._path} cannot be used: {error.strerror}") from error
        except BaseException:
            self._close()
            raise
        return self

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def verify(self) -> None:
        try:
            same = os.path.samestat(os.fstat(self._file), self._path.stat())
        except OSError:
            same = False
        if not same:
            raise StateUnavailable(f"The lock on {self._name} was lost: {self._path} was deleted or replaced.")

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class AdvisoryLock:
    """A session advisory lock on a connection of its own, whose application_name says who holds it."""

    def __init__(self, database: Database, name: str, wait: float) -> None:
        self._database = database
        self._name = name
        self._key = advisory_key(f"lock:{name}")
        self._wait = wait
        self._driver: Any = None

    def __enter__(self) -> AdvisoryLock:
        deadline = time.monotonic() + self._wait
        try:
            with self._database.translated():
                self._connect()
                while not self._driver.execute("SELECT pg_try_advisory_lock(%s)", [self._key]).fetchone()[0]:
                    if time.monotonic() >= deadline:
                        holder = self._driver.execute(_HOLDER, [self._key]).fetchone()
                        raise _already(self._name, holder[0] if holder else "")
                    time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
        except BaseException:
            self._close()
            raise
        return self

    def _connect(self) -> None:
        self._driver = self._database.own_connection()
        self._driver.execute("SELECT set_config('application_name', %s, false)", [_me()[:63]])
        # So that the lock of a machine that vanished is freed within a minute.
        for setting, seconds in (("idle", 30), ("interval", 10), ("count", 3)):
            self._driver.execute(f"SET tcp_keepalives_{setting} = {seconds}")

    def verify(self) -> None:
        if self._driver is None:
            raise StateUnavailable(f"The lock on {self._name} is not held.")
        with self._database.translated():
            self._driver.execute("SELECT 1")

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None
