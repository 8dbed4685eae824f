"""SQLite files: created for their owner only, opened to write, or to read where nothing can be written."""

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

WAL_FILE_LIMIT = 64 * 1024 * 1024  # bytes; SQLite truncates its -wal file to this after a burst
PRIVATE = 0o600
_BESIDE = ("", "-wal", "-shm")


def engine(url: URL, lock_seconds: float) -> Engine:
    """An engine to read and write. The file must exist: see created()."""
    # isolation_level None: the driver begins no transaction; `begin` below says BEGIN IMMEDIATE.
    arguments = {"timeout": lock_seconds, "check_same_thread": False, "isolation_level": None}
    made = create_engine(url, hide_parameters=True, connect_args=arguments)

    @event.listens_for(made, "connect")
    def prepare(connection: Any, record: object) -> None:
        for pragma in (
            "auto_vacuum = INCREMENTAL",  # first: it has an effect only while the file is empty
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
    """An engine to read only: also if the disk is full, the folder is read-only or the file belongs to another user."""
    path = Path(url.database or "")
    return create_engine(url, hide_parameters=True, creator=lambda: _opened(path, lock_seconds))


def _opened(path: Path, lock_seconds: float) -> sqlite3.Connection:
    """If there is a -wal file, the first process that opens it needs disk space and write permission for its index (-shm).

    Without them a file can still be read: if there is no -wal file; if no other process has the file open, so that the index
    can be in memory; or if a worker of another user has made the index.
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
    """Creates the file if it is missing, for its owner only. No other process creates or migrates it during the block.

    Of two processes that switch a new file to WAL mode at once, one gets "database is locked", without SQLite waiting.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not path.exists():
            for left in _BESIDE[1:]:  # left by a removed file: SQLite would apply them to the new one
                path.with_name(path.name + left).unlink(missing_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))
        _tighten(path)
        yield
    finally:
        os.close(folder)


def _tighten(path: Path) -> None:
    """Restricts a file that other users may read, such as one restored from a backup, to its owner."""
    for end in _BESIDE:
        beside = path.with_name(path.name + end)
        try:
            found = beside.stat()
            if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & ~PRIVATE:
                beside.chmod(PRIVATE)
        except OSError:
            continue
