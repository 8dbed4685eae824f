"""Events as lines of JSON in files, each exactly once.

`NAME.checkpoint` says which of the data files `NAME-000001.jsonl`, `NAME-000002.jsonl`, … is written to, how many of its bytes
count, and the position that they reach. A batch is appended and made durable first, the checkpoint after it; on start the data
file is truncated to the length that the checkpoint names. So a batch counts whole or not at all:

- after a kill or power loss before the checkpoint is durable, the old checkpoint is valid: the appended bytes are truncated, and
  the same events are appended again;
- after a later kill, both data and position are stored.

Someone may remove, replace or truncate open files. So they are compared with those on disk before and after each batch is
written; if they differ, the batch does not count, and all files are opened again.

An out-of-band batch does not change the position; the digest of its name is stored instead, so that a batch that was written just
before a crash is not appended a second time.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from cdc_tracker.destinations.base import Cursor, DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.jsonl.checkpoint import PAGE, State, decode, owner_of, owner_page, write
from cdc_tracker.destinations.support.folders import disk_errors, lock, make_folder, sync_folder, try_writing
from cdc_tracker.destinations.support.formats import FormatSettings, as_lines
from cdc_tracker.errors import AlreadyRunning, CheckpointMoved, Stop
from cdc_tracker.model import DELIVERED, Batch, Position, Receipt
from cdc_tracker.storage.files import is_at
from cdc_tracker.units import Size


class JsonlSettings(FormatSettings):
    type: Literal["jsonl"] = "jsonl"
    in_flight: int = Field(default=1, ge=1, le=1, description="always 1: files are written in order")
    path: str = Field(
        min_length=1, description="a folder, or a prefix that ends in .jsonl: `out/shop.jsonl` → out/shop-000001.jsonl"
    )
    rotate_size: Size = Field(
        default=256 * 1000**2, ge=1, description="a new file begins where the next batch would pass this size"
    )
    fsync: bool = Field(default=True, description="false: survives a crash of the worker, but not of the machine")


class JsonlDestination:
    """Appends each event's JSON and a newline. Opens its files at the first call that needs them, and locks them."""

    Settings: ClassVar[type[DestinationSettings]] = JsonlSettings
    guarantee: ClassVar[Guarantee] = "exactly once"
    duplicate_handling: ClassVar[str] = "appends it again: after a rewind the files contain the same id more than once"
    dedupe_window: ClassVar[float] = 0.0
    age_limit: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: JsonlSettings, base: Path) -> None:
        self.limits = Limits(events=10_000, batch_bytes=8 * 1024**2, event_bytes=1 << 40, whole_changes=True)
        self._settings = settings
        path = base / settings.path
        self._folder, self._plain = (path.parent, path.stem) if path.suffix == ".jsonl" else (path, name)
        self._stem = self._plain
        self._key = ""
        self._owns: Callable[[Position], bool] = lambda position: False
        self._slots = -1  # the checkpoint file; open means locked
        self._data = -1
        self._state = State()
        self._slot = 0  # the slot with the state
        self._dirty = False  # a write failed: the files may contain more than the state says

    def bind(self, cursor: Cursor, owns: Callable[[Position], bool]) -> None:
        self._key, self._owns = cursor.key, owns

    def deliver(self, batch: Batch) -> list[Receipt]:
        """Durable on return. Raises DestinationUnavailable if the disk is full or fails: nothing has changed then."""
        with disk_errors(self._folder):
            self._ready()
            try:
                self._write(batch)
            except OSError:
                with suppress(OSError):
                    self._restore()
                raise
        return [DELIVERED] * len(batch.events)

    def _write(self, batch: Batch) -> None:
        if batch.out_of_band:
            state = replace(self._state, out_of_band=hashlib.blake2b(batch.out_of_band.encode(), digest_size=16).digest())
            if state.out_of_band == self._state.out_of_band:
                return
        else:
            state = replace(self._state, position=batch.upto)
        data = as_lines(batch.events)
        if state.length and state.length + len(data) > self._settings.rotate_size:
            state = self._rotate(state)
        self._dirty = True
        write(self._data, data, state.length)
        self._sync(self._data)
        self._store(replace(state, length=state.length + len(data)))
        self._dirty = False
        self._check()

    def position(self) -> Position | None:
        with disk_errors(self._folder):
            self._ready()
        return self._state.position

    def rewind(self, to: Position) -> None:
        with disk_errors(self._folder):
            self._ready()
            self._dirty = True
            self._store(replace(self._state, position=to))
            self._dirty = False

    def probe(self) -> None:
        """Writes and removes a small file in the folder. Takes no lock, so it can run beside the worker."""
        with disk_errors(self._folder):
            make_folder(self._folder, durable=False)
            try_writing(self._folder, self._stem)

    def close(self) -> None:
        for fd in (self._data, self._slots):
            if fd >= 0:
                os.close(fd)
        self._data = self._slots = -1

    def _ready(self) -> None:
        if self._slots < 0:
            self._open()
            return
        self._check()
        if self._dirty:
            self._restore()

    def _open(self) -> None:
        """Opens the files of the plain name, or of the cursor if those belong to another source."""
        make_folder(self._folder, durable=self._settings.fsync)
        if not self._open_files(self._plain):
            self._open_files(f"{self._plain}.{self._key}")

    def _open_files(self, stem: str) -> bool:
        """Locks, reads the checkpoint, and truncates what follows it. Returns False if the files belong to another source."""
        self._stem = stem
        self._slots = os.open(self._folder / f"{stem}.checkpoint", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            owner = self._owner()
            ours = owner in ("", self._key)
            if not ours and not (self._has_our_names(owner) and self._is_free()):  # its worker may have them locked
                self.close()
                return False
            self._lock()
            self._load()
            if not self._claimed():
                self.close()
                return False
            self._dirty = True
            self._restore()
        except BaseException:
            self.close()
            raise
        return True

    def _owner(self) -> str:
        """The key of the cursor that owns the files; empty if none is recorded, or if there is no cursor."""
        page = os.pread(self._slots, PAGE, 2 * PAGE)
        return owner_of(page) if self._key else ""

    def _has_our_names(self, owner: str) -> bool:
        """Whether a cursor has the same names: this source's before a new epoch, or that of a source of the same name."""
        return owner.rpartition(".")[0] == self._key.rpartition(".")[0]

    def _is_free(self) -> bool:
        try:
            self._lock()
        except AlreadyRunning:
            return False
        return True

    def _claimed(self) -> bool:
        """Takes the files over and returns True if they are ours. Without an owner, they belong to the source of the position."""
        owner, position = self._owner(), self._state.position
        if owner == self._key:
            return True
        known = position is not None and self._owns(position)
        if not known and (owner or position is not None):
            return False
        write(self._slots, owner_page(self._key), 2 * PAGE)
        self._sync(self._slots)
        return True

    def _check(self) -> None:
        """Raises CheckpointMoved if the open files are not those on disk, or if another process wrote to them."""
        held = decode(os.pread(self._slots, PAGE, self._slot * PAGE))
        data = self._file(self._state.number)
        if (
            (held == self._state or self._dirty)
            and is_at(self._slots, self._folder / f"{self._stem}.checkpoint")
            and (self._data < 0 or (is_at(self._data, data) and os.fstat(self._data).st_size >= self._state.length))
        ):
            return
        self.close()
        raise CheckpointMoved(
            f"the files {self._folder / self._stem}-*.jsonl have changed",
            hint="someone removed, replaced or cut them, or their checkpoint. What was being written does not count",
        )

    def _lock(self) -> None:
        lock(self._slots, f"{self._folder / self._stem}-*.jsonl")

    def _load(self) -> None:
        slots = [decode(os.pread(self._slots, PAGE, at)) for at in (0, PAGE)]
        valid = [slot for slot in slots if slot]
        if valid:
            self._state = max(valid, key=lambda slot: slot.sequence)
            self._slot = slots.index(self._state)
        elif self._numbers():
            raise Stop(
                f"{self._folder / self._stem}.checkpoint is missing or damaged, but there are {self._stem}-*.jsonl files",
                hint="without it, it is unknown which of their lines count. Move the files away: events after the state "
                "store's checkpoint go into new files",
            )
        else:
            os.posix_fallocate(self._slots, 0, 2 * PAGE)
            self._state, self._slot = State(), 1
        self._check_files()

    def _check_files(self) -> None:
        state, path = self._state, self._file(self._state.number)
        length = path.stat().st_size if path.exists() else 0
        if length < state.length:
            found = f"has {length} bytes" if path.exists() else "is gone"
            raise Stop(
                f"{path} {found}, but {state.length} bytes were written to it and counted",
                hint="someone moved or cut it (leave rotation to `rotate_size`), or the machine failed with `fsync: false`. "
                f"Restore it; or move the files and {self._stem}.checkpoint away, and rewind to before the loss if there is one",
            )
        beyond = [number for number in self._numbers() if number > state.number + 1]
        if beyond:
            raise Stop(
                f"{self._file(beyond[0])} lies beyond the last file in {self._stem}.checkpoint (file {state.number})",
                hint="the checkpoint is older than the files, as after restoring a backup: move the newer files away",
            )

    def _restore(self) -> None:
        """Makes the files match the state, whatever a failed or interrupted write left in them."""
        if self._data >= 0:
            os.close(self._data)
            self._data = -1
        # First the checkpoint: were the data cut while a slot still names more of it, a crash now would leave it short.
        self._store(self._state)
        self._file(self._state.number + 1).unlink(missing_ok=True)
        self._data = os.open(self._file(self._state.number), os.O_RDWR | os.O_CREAT, 0o644)
        if os.fstat(self._data).st_size < self._state.length:  # ftruncate would fill it with zeros
            self._check()
        os.ftruncate(self._data, self._state.length)
        self._sync(self._data)
        self._sync_names()
        self._dirty = False

    def _rotate(self, state: State) -> State:
        """Begins the next file, which is valid once a checkpoint names it."""
        self._dirty = True
        fd = os.open(self._file(state.number + 1), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.close(self._data)
        self._data = fd
        self._sync_names()
        return replace(state, number=state.number + 1, length=0)

    def _store(self, state: State) -> None:
        """Writes the state to the other slot."""
        state = replace(state, sequence=self._state.sequence + 1)
        slot = 1 - self._slot
        write(self._slots, state.encode(), slot * PAGE)
        self._sync(self._slots)
        self._state, self._slot = state, slot

    def _sync(self, fd: int) -> None:
        if self._settings.fsync:
            os.fdatasync(fd)

    def _sync_names(self) -> None:
        if self._settings.fsync:
            sync_folder(self._folder)

    def _file(self, number: int) -> Path:
        return self._folder / f"{self._stem}-{number:06d}.jsonl"

    def _numbers(self) -> list[int]:
        pattern = re.compile(re.escape(self._stem) + r"-(\d{6,})\.jsonl")
        return sorted(int(found[1]) for path in self._folder.iterdir() if (found := pattern.fullmatch(path.name)))
