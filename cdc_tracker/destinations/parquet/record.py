"""The records of the log: each has the position reached, and the files of the batch that reached it."""

from __future__ import annotations

import msgspec

from cdc_tracker.errors import Stop
from cdc_tracker.model import Position

SUFFIX = ".json"


class Growing(msgspec.Struct, frozen=True):
    """The last file of a partition, while it is small."""

    path: str
    size: int


class Record(msgspec.Struct, frozen=True):
    sequence: int = 0
    token: str = ""  # of the attempt that wrote it
    batch: str = ""  # token of the last record that brought a batch
    position: tuple[int, int] | None = None
    out_of_band: str = msgspec.field(default="", name="aside")  # digest of the name of the last out-of-band batch
    moves: list[tuple[str, str]] = []  # from the log to the data
    growing: dict[str, Growing] = {}  # by partition, the one touched last at the end

    @property
    def reached(self) -> Position | None:
        return Position(*self.position) if self.position else None


def encode(record: Record) -> bytes:
    return msgspec.json.encode(record)


def decode(name: str, data: bytes) -> Record:
    try:
        return msgspec.json.decode(data, type=Record)
    except msgspec.DecodeError as error:
        raise Stop(
            f"the record {name} is damaged: {error}",
            hint="restore it, or move the files and the folder _cdc_tracker away and rewind",
        ) from error
