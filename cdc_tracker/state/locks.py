"""Locks that one process holds at a time: verified while it runs, and freed when it dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from threading import RLock, Thread
from typing import Any
from urllib.parse import quote

import structlog

from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, Fenced, StateUnavailable, Stop
from cdc_tracker.storage.database import Database, advisory_key, readable
from cdc_tracker.storage.files import is_at

LOOK = 1.0  # seconds between two checks of a lock
AGAIN = 0.2  # seconds between two attempts to take a lost lock again
FRESH = 5.0  # seconds for which a check counts
ANSWER = 10.0  # seconds that a server has to answer: a network or a proxy may hang forever
_RETRY_SECONDS = 0.1
_HINT = "Stop that process first, or start this one with --standby so that it takes over when that one ends."
_POOLED = "Give state.url the server itself, or a pooler's pool_mode=session: a lock belongs to one session of the server."
# The session that holds an advisory lock on a bigint key: the high half is its classid, the low half its objid.
_HOLDER = (
    "SELECT coalesce(nullif(a.application_name, ''), 'unknown@') FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) "
    "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND (l.classid::bigint << 32) | l.objid::bigint = {} "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

log = structlog.get_logger("locks")


class Lock(ABC):
    """Entering takes it, or raises AlreadyRunning, naming the holder. Child processes that exec do not inherit it.

    While it is held, a thread checks it. A lost lock (the server ended the session, the file was deleted) is taken again if it is
    free. If another process has it, `lost` has the error from then on, and `check` raises it.
    """

    def __init__(self, name: str, wait: float, grace: float, stop: Callable[[], bool]) -> None:
        self.name = name
        self.lost: CdcTrackerError | None = None
        self._wait, self._grace, self._stop = wait, grace, stop
        self._turn = RLock()  # of the watcher, or of a caller of verify()
        self._seen = 0.0
        self._said = False
        self._ended: socket.socket | None = None

    def __enter__(self) -> Lock:
        deadline = time.monotonic() + self._wait + self._grace
        try:
            while not (self._may_take() and self._take()):
                if time.monotonic() >= deadline or self._stop():
                    raise _already(self.name, self._holder())
                time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
        except BaseException:
            self._free()
            raise
        self._seen = _clock()
        self._ended, ended = socket.socketpair()
        self._watcher = Thread(target=self._watch, args=[ended], name=f"lock {self.name}", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._ended is not None:
            self._ended.close()
            self._watcher.join(ANSWER)
        self._free()

    def check(self) -> None:
        """Raises Fenced if another process was seen to have it. Costs nothing."""
        if self.lost is not None:
            raise self.lost

    def held(self) -> bool:
        """Whether this process has it, by a recent check: false also if none was possible, or the machine was suspended."""
        return self.lost is None and _clock() - self._seen < FRESH

    def verify(self) -> None:
        """Checks now, and takes it again if it was lost. Ends in bounded time.

        Raises Fenced if another process has it, StateUnavailable if that is unknown.
        """
        with self._turn:
            self.check()
            try:
                if not self._holds():
                    if not self._take():
                        raise Fenced(f"The lock on {self.name} was lost, and {_named(self._holder())} has taken it.")
                    log.warning("the lock was lost and taken again: no other process had it meanwhile", lock=self.name)
            except (Fenced, Stop) as error:
                self.lost = error
                raise
            self._seen, self._said = _clock(), False

    def _watch(self, ended: socket.socket) -> None:
        try:
            pause = LOOK
            while ended.fileno() not in readable([ended.fileno(), *self._signs()], pause):
                pause = LOOK if self._look() else AGAIN
        except (Fenced, Stop) as error:
            log.error(str(error), hint=error.hint)
        except Exception as error:
            self.lost = Fenced(f"The lock on {self.name} cannot be checked: {error}.")
            log.exception("a fault in cdc-tracker: the lock cannot be checked", lock=self.name)
        finally:
            ended.close()

    def _look(self) -> bool:
        """Whether the check was possible."""
        try:
            self.verify()
        except StateUnavailable as error:
            if not self._said:
                log.warning("the lock cannot be checked", lock=self.name, error=str(error))
            self._said = True
            return False
        return True

    @abstractmethod
    def _take(self) -> bool:
        """Takes it if it is free. Returns whether this process has it now. Raises StateUnavailable."""

    def _may_take(self) -> bool:
        """Whether it has been free for long enough, if that can be seen without taking it."""
        return True

    @abstractmethod
    def _holds(self) -> bool:
        """Whether this process still has it. Raises Stop if it can never be kept."""

    @abstractmethod
    def _holder(self) -> str:
        """`PID@HOST` of the process that has it, or an empty text."""

    @abstractmethod
    def _free(self) -> None: ...

    def _signs(self) -> list[int]:
        """Descriptors that become readable when it is lost."""
        return []


def make(database: Database, name: str, wait: float, grace: float, stop: Callable[[], bool]) -> Lock:
    """The lock of this name for the store: a file beside SQLite, an advisory lock in PostgreSQL."""
    if database.is_sqlite:
        return FileLock(Path(f"{database.path}.{quote(name, safe='')}.lock"), name, wait, stop)
    return AdvisoryLock(database, name, wait, grace, stop)


def _clock() -> float:
    """Seconds, including those in which the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _me() -> str:
    return f"{os.getpid()}@{socket.gethostname()}"


def _named(holder: str) -> str:
    pid, _, host = holder.strip().partition("@")
    return f"process {pid or 'unknown'} on {host or 'an unknown host'}"


def _already(name: str, holder: str) -> AlreadyRunning:
    return AlreadyRunning(f"{name} is held by {_named(holder)}.", hint=_HINT)


class FileLock(Lock):
    """flock on a file. The file stays when the lock is freed: deleting it would let two processes lock two files of one name."""

    def __init__(self, path: Path, name: str, wait: float, stop: Callable[[], bool]) -> None:
        super().__init__(name, wait, 0.0, stop)
        self._path = path
        self._file = -1

    def _take(self) -> bool:
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not self._is_at_path(file):  # deleted or replaced since it was opened
                    raise BlockingIOError
                os.ftruncate(file, 0)
                os.pwrite(file, f"{_me()}\n".encode(), 0)
            except BaseException:
                os.close(file)
                raise
        except BlockingIOError:
            return False
        except OSError as error:
            raise StateUnavailable(f"The lock file {self._path} cannot be used: {error.strerror}") from error
        self._free()
        self._file = file
        return True

    def _holds(self) -> bool:
        return self._file >= 0 and self._is_at_path(self._file)

    def _is_at_path(self, file: int) -> bool:
        try:
            return is_at(file, self._path)
        except OSError as error:
            raise StateUnavailable(f"The lock file {self._path} cannot be read: {error.strerror}") from error

    def _holder(self) -> str:
        try:
            return self._path.read_bytes()[:300].decode(errors="backslashreplace")
        except OSError:
            return ""

    def _free(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class AdvisoryLock(Lock):
    """A session advisory lock on a separate connection, whose application_name names the holder."""

    def __init__(self, database: Database, name: str, wait: float, grace: float, stop: Callable[[], bool]) -> None:
        super().__init__(name, wait, grace, stop)
        self._database = database
        self._key = advisory_key(f"lock:{name}")
        self._driver: Any = None
        self._session = ""
        self._free_since: float | None = None

    def _may_take(self) -> bool:
        if not self._grace:
            return True
        if self._holder():
            self._free_since = None
            return False
        self._free_since = self._free_since or time.monotonic()
        return time.monotonic() >= self._free_since + self._grace

    def _take(self) -> bool:
        return self._ask(f"SELECT pg_try_advisory_lock({self._key})") == "t"

    def _connect(self) -> None:
        with self._database.translated():
            self._driver = self._database.own_connection()
            self._driver.execute("SELECT set_config('application_name', %s, false)", [_me()[:63]])
            # The lock of a machine that vanished is freed within a minute.
            for setting, seconds in (("idle", 30), ("interval", 10), ("count", 3)):
                self._driver.execute(f"SET tcp_keepalives_{setting} = {seconds}")
        self._session = self._ask("SELECT pg_backend_pid()")

    def _holds(self) -> bool:
        if self._driver is None:
            return False
        try:
            session = self._ask("SELECT pg_backend_pid()")
        except StateUnavailable:
            return False
        if session != self._session:
            raise Stop(f"The lock on {self.name} cannot be kept: a pooler gives its session to others.", hint=_POOLED)
        return True

    def _holder(self) -> str:
        return self._ask(_HOLDER.format(self._key))

    def _ask(self, query: str) -> str:
        """If it fails, the connection is closed, and the lock is freed with it."""
        try:
            if self._driver is None:
                self._connect()
            return self._database.ask(self._driver, query, ANSWER)
        except BaseException:
            self._free()
            raise

    def _signs(self) -> list[int]:
        with self._turn:
            return [] if self._driver is None or self._driver.closed else [self._driver.fileno()]

    def _free(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None
