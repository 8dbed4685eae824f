"""The checkpoint file of a jsonl destination, `NAME.checkpoint`.

The checkpoint file has two slots, 4 KiB apart so that they share no sector or page, each with a sequence number and a
CRC, written in turn: a torn write damages only the slot being written, and the other contains the previous state. The valid slot
with the higher sequence number counts. Both are allocated when the file is created, so a full disk does not prevent writing a
checkpoint. A new data file begins between two batches and counts once a checkpoint names it; one that no checkpoint names is left
over from a crash and removed. A checkpoint whose write failed may still have reached the disk, so the old state is written over
it before the data is truncated.

The page after the slots names the owner: the first source that writes the files. Another source writes its own files,
`NAME.CURSOR-000001.jsonl`. Files that an earlier version wrote without an owner belong to the source of the position in them.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass

from cdc_tracker.model import Position

_SLOT = struct.Struct(">8sQ?QqQQ16s")  # magic, sequence, has a position, commit_lsn, ordinal, file number, length, out_of_band
_MAGIC = b"cdctrk1\n"
_OWNER = struct.Struct(">8s128s")  # magic, the cursor's key
PAGE = 4096


@dataclass(frozen=True, slots=True)
class State:
    """The contents of a checkpoint slot."""

    sequence: int = 1
    position: Position | None = None
    number: int = 1
    length: int = 0
    out_of_band: bytes = bytes(16)  # digest of the name of the last batch that left the position where it was

    def encode(self) -> bytes:
        """The slot's bytes."""
        lsn, ordinal = self.position or (0, 0)
        body = _SLOT.pack(
            _MAGIC, self.sequence, self.position is not None, lsn, ordinal, self.number, self.length, self.out_of_band
        )
        return _with_crc(body)


def decode(slot: bytes) -> State | None:
    """The contents of a slot; None if it is damaged or was never written."""
    body = slot[: _SLOT.size]
    if len(body) < _SLOT.size or slot[: _SLOT.size + 4] != _with_crc(body):
        return None
    magic, sequence, has, lsn, ordinal, number, length, out_of_band = _SLOT.unpack(body)
    return State(sequence, Position(lsn, ordinal) if has else None, number, length, out_of_band) if magic == _MAGIC else None


def _with_crc(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "big")


def owner_page(key: str) -> bytes:
    """The page that names the cursor with this key as the owner of the files."""
    return _with_crc(_OWNER.pack(_MAGIC, key.encode()))


def owner_of(page: bytes) -> str:
    """The key of the cursor that owns the files; empty if the page names none."""
    body = page[: _OWNER.size]
    if len(body) < _OWNER.size or page[: _OWNER.size + 4] != _with_crc(body):
        return ""
    return str(_OWNER.unpack(body)[1].rstrip(b"\0").decode())


def write(fd: int, data: bytes, at: int) -> None:
    """Writes all of the data at an offset."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view = view[written:]
        at += written
