"""The log: its records have the position reached and the files of the batch that reached it. Their names sort by number."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from cdc_tracker.destinations.parquet.stores import Store
from cdc_tracker.errors import Stop
from cdc_tracker.model import Position

SUFFIX = ".json"


class Growing(msgspec.Struct, frozen=True):
    """The last file of a partition, while it is small."""

    path: str
    size: int


class Record(msgspec.Struct, frozen=True):
    """What is stored after a batch, a rewind or a start."""

    sequence: int = 0
    token: str = ""  # of the attempt that wrote it
    batch: str = ""  # name of the last batch or rewind
    position: tuple[int, int] | None = None
    out_of_band: str = msgspec.field(default="", name="aside")  # digest of the name of the last out-of-band batch
    moves: list[tuple[str, str]] = []  # name in the log → path of the data
    growing: dict[str, Growing] = {}  # by partition; the last that was written is at the end

    @property
    def reached(self) -> Position | None:
        """The position; None before the first batch."""
        return Position(*self.position) if self.position else None

    def following(self, **changed: Any) -> Record:
        """The next record, with a token of its own and no files yet."""
        return msgspec.structs.replace(self, sequence=self.sequence + 1, token=secrets.token_hex(8), moves=[], **changed)


def encode(record: Record) -> bytes:
    """The record as JSON."""
    return msgspec.json.encode(record)


def decode(name: str, data: bytes) -> Record:
    """Reads the record of that name. Raises Stop if it is damaged."""
    try:
        return msgspec.json.decode(data, type=Record)
    except msgspec.DecodeError as error:
        raise Stop(
            f"the record {name} is damaged: {error}",
            hint="restore it, or move the files and the folder _cdc_tracker away and rewind",
        ) from error


def record_name(sequence: int) -> str:
    """Names sort by number."""
    return f"{sequence:012d}{SUFFIX}"


def records_among(names: list[str]) -> list[str]:
    """The names of records, in order."""
    return sorted(name for name in names if name.endswith(SUFFIX))


def newest(store: Store) -> Record:
    """The store's newest record; an empty one if there is none."""
    records = records_among(store.names())
    data = store.read(records[-1]) if records else None
    return decode(records[-1], data) if data is not None else Record()
