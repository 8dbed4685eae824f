"""Folders that destinations write files to: made durably, locked against other processes, and what the disk's errors mean."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdc_tracker.errors import AlreadyRunning, DestinationBlocked, DestinationUnavailable

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BLOCKED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Raises an OSError as DestinationUnavailable, or DestinationBlocked if the worker's user may not write there."""
    try:
        yield
    except OSError as error:
        text = f"cannot write to {folder}: {error.strerror or error}"
        if error.errno in _BLOCKED:
            raise DestinationBlocked(text, hint="make it a folder that the worker's user may write to") from error
        hint = "free some space there: nothing is lost, and delivery continues by itself" if error.errno in _FULL else ""
        raise DestinationUnavailable(text, hint=hint) from error


def lock(fd: int, files: str) -> None:
    """Locks an open file until it is closed. Raises AlreadyRunning if another process has it; `files`: what it protects."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunning(
            f"another process is writing to {files}",
            hint="two workers, or two destinations, must not share files: stop the other one or change `path`",
        ) from None


def make_folder(folder: Path, *, durable: bool = True) -> None:
    """Creates the folder and those above it that are missing. `durable`: a crash of the machine does not undo it."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing if durable else ():
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in the folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def try_writing(folder: Path, name: str) -> None:
    """Writes and removes a small hidden file, for probes."""
    trial = folder / f".{name}.probe"
    trial.write_bytes(b"probe")
    trial.unlink()
