"""Notifies readers when the journal grows: a FIFO for each reader beside SQLite, LISTEN and NOTIFY in PostgreSQL.

A reader creates its waiter before it reads: an append between two waits makes the next wait return at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from abc import abstractmethod
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from sqlalchemy import Connection, func, select

from cdc_tracker.closing import Closing
from cdc_tracker.errors import JournalUnavailable
from cdc_tracker.storage.database import Database, readable, text_parameter

CHANNEL = "cdc_tracker_journal"
_ABANDONED_SECONDS = 60.0
_NOTIFY = select(func.pg_notify(CHANNEL, text_parameter("payload")))


class Waiter(Closing):
    """The end of one reader."""

    @abstractmethod
    def wait(self, timeout_s: float) -> bool:
        """True as soon as there was an append or a wake() since the last wait, False after the timeout, in seconds.

        It misses no append, and can be True once more for an append that was already read.
        """

    @abstractmethod
    def fileno(self) -> int:
        """Readable if wait() would return True, for select and poll."""


class Notifier(Protocol):
    """The appending process's end, and the maker of waiters."""

    def announce(self, connection: Connection) -> None:
        """Called inside the transaction that appends."""

    def committed(self) -> None:
        """Called once the append is durable. Does not raise."""

    def wake(self, name: str | None) -> None:
        """Wakes one reader; None: all."""

    def waiter(self, name: str) -> Waiter: ...


def _safe(name: str) -> str:
    return quote(name, safe="")  # leaves no @, which separates


class FifoNotifier:
    """Each reader owns a FIFO in one folder; the appending process writes a byte into each."""

    def __init__(self, folder: Path, source: str) -> None:
        self._folder = folder
        self._source = source

    def announce(self, connection: Connection) -> None:
        pass

    def committed(self) -> None:
        self.wake(None)

    def wake(self, name: str | None) -> None:
        prefix = f"{_safe(self._source)}@" + (f"{_safe(name)}@" if name is not None else "")
        with contextlib.suppress(OSError):  # a reader that cannot be reached wakes up by its timeout
            for entry in os.listdir(self._folder):  # noqa: PTH208 — on the path of every append, and Path is 5 times slower
                if entry.startswith(prefix):
                    _wake_one(f"{self._folder}/{entry}")

    def waiter(self, name: str) -> Waiter:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        return FifoWaiter(self._folder / f"{_safe(self._source)}@{_safe(name)}@{os.getpid()}-{uuid.uuid4().hex}.fifo")

    def _sweep(self) -> None:
        """Removes FIFOs of killed readers: those that no process has open, and those never renamed."""
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if not path.name.startswith("."):
                    fifo = _open(str(path))
                    if fifo is not None:
                        os.close(fifo)
                elif time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()


def _open(path: str) -> int | None:
    """Opens a FIFO to write. None if its reader is gone: removes it then, since names are never reused."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108 — as above
        return None


def _wake_one(path: str) -> None:
    fifo = _open(path)
    if fifo is not None:
        with contextlib.suppress(OSError):  # full: its reader will wake up anyway
            os.write(fifo, b"\0")
        os.close(fifo)


class FifoWaiter(Waiter):
    def __init__(self, path: Path) -> None:
        self._path = path
        hidden = path.with_name(f".{path.name}")
        os.mkfifo(hidden, 0o600)
        # Open to read and write: it does not report end of file while no writer has it open.
        self._fifo = os.open(hidden, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        hidden.rename(path)  # visible to writers only once it is open: a FIFO without a reader is stale

    def wait(self, timeout_s: float) -> bool:
        if not readable([self._fifo], timeout_s):
            return False
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._fifo, 65536)) == 65536:
                pass
        return True

    def fileno(self) -> int:
        return self._fifo

    def close(self) -> None:
        if self._fifo >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fifo)
            self._fifo = -1


class PostgresNotifier:
    def __init__(self, database: Database, source: str) -> None:
        self._database = database
        self._source = _safe(source)

    def announce(self, connection: Connection) -> None:
        connection.execute(_NOTIFY, {"payload": self._source})

    def committed(self) -> None:
        pass

    def wake(self, name: str | None) -> None:
        with self._database.reading() as connection:
            payload = self._source if name is None else f"{self._source}@{_safe(name)}"
            connection.execute(_NOTIFY, {"payload": payload})

    def waiter(self, name: str) -> Waiter:
        return NotifyWaiter(self._database, {self._source, f"{self._source}@{_safe(name)}"})


class NotifyWaiter(Waiter):
    """LISTENs on its own connection. If that is lost, wait() raises JournalUnavailable, and the next wait() reconnects."""

    def __init__(self, database: Database, payloads: set[str]) -> None:
        self._database = database
        self._payloads = payloads
        self._driver: Any = None
        self._listen()

    def wait(self, timeout_s: float) -> bool:
        if self._driver is None:
            self._listen()
            return True  # appends may have been missed
        try:
            with self._database.translated():
                return self._heard(max(0.0, timeout_s))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        if self._driver is None:
            raise JournalUnavailable("The connection for the journal's notifications is lost; wait() reconnects.")
        return int(self._driver.fileno())

    def close(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def _listen(self) -> None:
        with self._database.translated():
            self._driver = self._database.own_connection()
            try:
                self._driver.execute(f"LISTEN {CHANNEL}")
            except BaseException:
                self.close()
                raise

    def _heard(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        remaining = timeout_s
        while not (found := self._receive(remaining, stop_after=1)) and remaining > 0:
            remaining = max(0.0, deadline - time.monotonic())
        # One read takes all notifications that have arrived.
        return self._receive(0, stop_after=None) or found

    def _receive(self, timeout_s: float, stop_after: int | None) -> bool:
        """Whether a notification for this reader arrived. Exhausts the generator, so that none stays in it."""
        received = [note.payload for note in self._driver.notifies(timeout=timeout_s, stop_after=stop_after)]
        return not self._payloads.isdisjoint(received)
