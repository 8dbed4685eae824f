"""Stores of the files: a folder, or a bucket. Each has a place for data, and a log beside it that no reader's glob matches."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cdc_tracker.destinations.support.folders import disk_errors, lock, make_folder, sync_folder, try_writing
from cdc_tracker.destinations.support.urls import said
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, ConfigError, DestinationBlocked, DestinationUnavailable

LOG = "_cdc_tracker"  # readers of data lakes skip names that begin with an underscore


class Store(ABC):
    """A log, whose names have no slashes, and data, whose paths have. Methods raise no errors but CdcTrackerErrors."""

    @abstractmethod
    def open(self) -> None:
        """Connects; a folder is created and locked. Raises AlreadyRunning if another process has it locked."""

    @abstractmethod
    def used(self) -> bool:
        """Whether the log contains anything. Neither locks nor creates anything."""

    @abstractmethod
    def names(self) -> list[str]:
        """Returns the names in the log."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Returns a file of the log; None if it does not exist."""

    @abstractmethod
    def stage(self, name: str, data: bytes) -> None:
        """Writes a file into the log, not yet durably."""

    @abstractmethod
    def commit(self, name: str, data: bytes) -> bool:
        """Writes a file into the log, atomically; it and all staged before are durable then. Returns False if the name exists."""

    @abstractmethod
    def publish(self, moves: Sequence[tuple[str, str]]) -> None:
        """Moves files from the log to the data, durably, replacing those there. Skips files that the log no longer has."""

    @abstractmethod
    def remove(self, names: Sequence[str]) -> None:
        """Removes files from the log; those that do not exist are skipped."""

    @abstractmethod
    def fetch(self, path: str, size: int) -> bytes | None:
        """Returns a file of the data; None if it does not exist, or does not have this size."""

    @abstractmethod
    def probe(self) -> None:
        """Writes and removes a small file. Takes no lock."""

    @abstractmethod
    def close(self) -> None: ...


class Folder(Store):
    """A folder on this machine. Files are durable by fsync, and appear by renaming."""

    def __init__(self, root: Path, name: str) -> None:
        self._root = root
        self._log = root / LOG / name
        self._lock = -1

    def open(self) -> None:
        with disk_errors(self._root):
            make_folder(self._log)
            self._lock = os.open(self._log / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                lock(self._lock, str(self._root))
            except AlreadyRunning:
                self.close()
                raise

    def used(self) -> bool:
        return self._log.is_dir()

    def names(self) -> list[str]:
        with disk_errors(self._root):
            return [path.name for path in self._log.iterdir() if path.name != "lock"]

    def read(self, name: str) -> bytes | None:
        with disk_errors(self._root):
            try:
                return (self._log / name).read_bytes()
            except FileNotFoundError:
                return None

    def stage(self, name: str, data: bytes) -> None:
        with disk_errors(self._root), (self._log / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def commit(self, name: str, data: bytes) -> bool:
        with disk_errors(self._root):
            if (self._log / name).exists():
                return False
            self.stage(f"{name}.new", data)
            sync_folder(self._log)  # the staged files are durable before the record that names them
            (self._log / f"{name}.new").rename(self._log / name)
            sync_folder(self._log)
            return True

    def publish(self, moves: Sequence[tuple[str, str]]) -> None:
        with disk_errors(self._root):
            folders = set()
            for name, path in moves:
                target = self._root / path
                if (self._log / name).exists():
                    make_folder(target.parent)
                    (self._log / name).rename(target)
                folders.add(target.parent)
            for folder in folders:
                with suppress(FileNotFoundError):  # moved already, and removed by someone since
                    sync_folder(folder)

    def remove(self, names: Sequence[str]) -> None:
        with disk_errors(self._root):
            for name in names:
                (self._log / name).unlink(missing_ok=True)

    def fetch(self, path: str, size: int) -> bytes | None:
        with disk_errors(self._root):
            try:
                data = (self._root / path).read_bytes()
            except FileNotFoundError:
                return None
            return data if len(data) == size else None

    def probe(self) -> None:
        with disk_errors(self._root):
            make_folder(self._root)
            try_writing(self._root, self._log.name)

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1


class Bucket(Store):
    """A bucket of S3 or Google Cloud Storage, through fsspec. Writes are atomic, and durable once answered."""

    def __init__(self, url: str, name: str, options: dict[str, Any], secrets: Sequence[str]) -> None:
        self._url, self._options, self._secrets = url.rstrip("/"), options, secrets
        scheme, _, self._root = self._url.partition("://")
        self._scheme = "gs" if scheme == "gcs" else scheme
        self._log = f"{self._root}/{LOG}/{name}"
        self._fs: Any = None

    def open(self) -> None:
        extra = "s3" if self._scheme == "s3" else "gcs"
        try:
            import fsspec  # noqa: PLC0415

            make = fsspec.get_filesystem_class(self._scheme)
        except ImportError as error:
            raise ConfigError(f"{self._scheme}:// needs more packages", hint=f"pip install 'cdc-tracker[{extra}]'") from error
        with self._troubles():
            self._fs = make(**self._options, skip_instance_cache=True, use_listings_cache=False)

    def used(self) -> bool:
        self.open()
        return bool(self.names())

    def names(self) -> list[str]:
        with self._troubles():
            try:
                return [str(path).rpartition("/")[2] for path in self._fs.ls(self._log, detail=False)]
            except FileNotFoundError:
                self._fs.ls(self._root.partition("/")[0], detail=False)  # raises if there is no bucket
                return []

    def read(self, name: str) -> bytes | None:
        with self._troubles():
            try:
                return bytes(self._fs.cat_file(f"{self._log}/{name}"))
            except FileNotFoundError:
                return None

    def stage(self, name: str, data: bytes) -> None:
        with self._troubles():
            self._fs.pipe_file(f"{self._log}/{name}", data)

    def commit(self, name: str, data: bytes) -> bool:
        with self._troubles():
            try:
                self._fs.pipe_file(f"{self._log}/{name}", data, mode="create")
            except FileExistsError:
                return False
            return True

    def publish(self, moves: Sequence[tuple[str, str]]) -> None:
        with self._troubles():
            for name, path in moves:
                try:
                    self._fs.cp_file(f"{self._log}/{name}", f"{self._root}/{path}")
                except FileNotFoundError:
                    continue
                self._fs.rm_file(f"{self._log}/{name}")

    def remove(self, names: Sequence[str]) -> None:
        with self._troubles():
            for name in names:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(f"{self._log}/{name}")

    def fetch(self, path: str, size: int) -> bytes | None:
        with self._troubles():
            try:
                data = bytes(self._fs.cat_file(f"{self._root}/{path}"))
            except FileNotFoundError:
                return None
            return data if len(data) == size else None

    def probe(self) -> None:
        if self._fs is None:
            self.open()
        self.stage("probe", b"probe")
        self.remove(["probe"])

    def close(self) -> None:
        self._fs = None

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
        except CdcTrackerError:
            raise
        except Exception as error:  # two vendors' clients', and those of their HTTP and login libraries
            text = f"cannot write to {self._url}: {said(error, self._secrets)[:500]}"
            if isinstance(error, PermissionError | FileNotFoundError) or _refused(error):
                hint = "correct the bucket's name and the credentials; they need to list, get, put and delete objects"
                raise DestinationBlocked(text, hint=hint) from None
            raise DestinationUnavailable(text) from None


def _refused(error: Exception) -> bool:
    names = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError", "ParamValidationError"}
    return type(error).__name__ in names or getattr(error, "code", None) in (401, 403, 404)
