"""SQLite files of ours: made for their owner only, opened for writing, or read where nothing can be written."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

WAL_FILE_LIMIT = 64 * 1024 * 1024  # SQLite cuts its -wal file back to this after a burst
PRIVATE = 0o600
_BESIDE = ("", "-wal", "-shm")


def engine(url: URL, lock_seconds: float) -> Engine:
    """For reading and writing. The file exists: see created()."""
    # isolation_level None: the driver begins nothing by itself, we say BEGIN IMMEDIATE.
    arguments = {"timeout": lock_seconds, "check_same_thread": False, "isolation_level": None}
    made = create_engine(url, hide_parameters=True, connect_args=arguments)

    @event.listens_for(made, "connect")
    def prepare(connection: Any, record: object) -> None:
        for pragma in (
            "auto_vacuum = INCREMENTAL",  # first: it counts only while the file is empty
            "journal_mode = WAL",
            "synchronous = FULL",
            f"journal_size_limit = {WAL_FILE_LIMIT}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(made, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("reading"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return made


def reading_engine(url: URL, lock_seconds: float) -> Engine:
    """For reading alone, also where the disk is full, the folder cannot be written or the file belongs to another user."""
    path = Path(url.database or "")
    return create_engine(url, hide_parameters=True, creator=lambda: _opened(path, lock_seconds))


def _opened(path: Path, lock_seconds: float) -> sqlite3.Connection:
    """Beside a -wal file SQLite takes room and rights for an index of it, which the first that opens the file makes.

    Without either it can be read all the same: where there is no -wal file; where nobody else has the file open, so that the
    index may be in memory; or where a worker of another user has made the index.
    """
    uri = f"file:{quote(str(path))}?"
    ways = [(f"{uri}mode=rw", lock_seconds, "query_only = ON")]
    if not path.with_name(f"{path.name}-wal").exists():
        ways.append((f"{uri}immutable=1", lock_seconds, "query_only = ON"))
    ways += [(f"{uri}mode=rw", 1.0, "locking_mode = EXCLUSIVE"), (f"{uri}mode=ro", lock_seconds, "query_only = ON")]
    refused: list[sqlite3.Error] = []
    for way in ways:
        try:
            return _tried(*way)
        except sqlite3.Error as error:
            refused.append(error)
    raise refused[0]


def _tried(uri: str, seconds: float, pragma: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=seconds, check_same_thread=False, isolation_level=None)
    try:
        connection.execute(f"PRAGMA {pragma}").close()
        connection.execute("SELECT count(*) FROM sqlite_master").close()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def created(path: Path) -> Iterator[None]:
    """The file exists, readable by its owner only, and no other process creates or migrates one beside it meanwhile.

    Two processes that switch a new file to WAL mode at once would get "database is locked" without SQLite waiting.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not path.exists():
            for left in _BESIDE[1:]:  # of a file that was removed: SQLite would take them for the new one's
                path.with_name(path.name + left).unlink(missing_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))
        _tighten(path)
        yield
    finally:
        os.close(folder)


def _tighten(path: Path) -> None:
    """A file that others may read, such as one restored from a backup, is for its owner alone from now on."""
    for end in _BESIDE:
        beside = path.with_name(path.name + end)
        try:
            found = beside.stat()
            if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & ~PRIVATE:
                beside.chmod(PRIVATE)
        except OSError:
            continue


def identity(path: Path) -> tuple[int, int] | None:
    """Which file it is; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  before every transaction: three times as fast as Path.stat
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
