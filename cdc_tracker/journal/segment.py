"""A segment's stored form: `CDCS`, a version byte, then a zstd frame with a checksum over the header and the replication frames.

The header is inside the zstd frame, so the checksum covers it, too: a damaged segment is always detected.
"""

from __future__ import annotations

import threading

import msgspec
import zstandard

from cdc_tracker.errors import Stop
from cdc_tracker.model import OpenTransaction, Position, Segment, Transaction

MAGIC = b"CDCS"
VERSION = 1
_PREFIX = MAGIC + bytes([VERSION])
_HINT = "Restore the journal from a backup, or rewind the destinations beyond this segment: its changes would be missing."


class _Open(msgspec.Struct, array_like=True):
    xid: int
    commit_lsn: int
    committed_at: int
    ordinal: int
    lsn: int
    index: int

    @classmethod
    def of(cls, opened: OpenTransaction) -> _Open:
        transaction, place = opened.transaction, (opened.ordinal, opened.lsn, opened.index)
        return cls(transaction.xid, transaction.commit_lsn, transaction.committed_at, *place)

    def opened(self) -> OpenTransaction:
        transaction = Transaction(self.xid, self.commit_lsn, self.committed_at)
        return OpenTransaction(transaction, self.ordinal, self.lsn, self.index)


class _Header(msgspec.Struct, array_like=True):
    plugin: str
    count: int
    changes: int
    first: Position
    last: Position
    first_time: int
    last_time: int
    relations: tuple[bytes, ...]
    open: _Open | None

    @classmethod
    def of(cls, segment: Segment) -> _Header:
        s, opened = segment, _Open.of(segment.open) if segment.open else None
        return cls(s.plugin, s.count, s.changes, s.first, s.last, s.first_time, s.last_time, s.relations, opened)

    def segment(self, frames: bytes) -> Segment:
        opened = self.open.opened() if self.open else None
        places = (self.first, self.last, self.first_time, self.last_time)
        return Segment(self.plugin, frames, self.count, self.changes, *places, self.relations, opened)


_header_decoder = msgspec.msgpack.Decoder(_Header)


class _Zstd(threading.local):
    """A compressor for each thread: it is not thread-safe, and creating one costs more than compressing a small segment."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


def encode(segment: Segment) -> bytes:
    """The segment's stored form."""
    header = msgspec.msgpack.encode(_Header.of(segment))
    return _PREFIX + _zstd.compressor.compress(b"".join((len(header).to_bytes(4, "big"), header, segment.frames)))


def decode(data: bytes, where: str = "a segment") -> Segment:
    """The segment of a stored form. Raises Stop, which names `where`, for anything else than `encode` returned."""
    if data[:4] != MAGIC:
        raise _damaged(where, "it does not begin with CDCS")
    if data[4:5] != _PREFIX[4:]:
        raise Stop(
            f"{where} has format version {data[4] if len(data) > 4 else 'none'}, this program reads {VERSION}.",
            hint="Run the cdc-tracker that wrote it, or a newer one.",
        )
    body = memoryview(data)[5:]
    try:
        if not zstandard.get_frame_parameters(body).has_checksum:
            raise _damaged(where, "it has no checksum")
        content = _zstd.decompressor.decompress(body, allow_extra_data=False)
        size = int.from_bytes(content[:4], "big")
        header = _header_decoder.decode(memoryview(content)[4 : 4 + size])
    except (zstandard.ZstdError, msgspec.DecodeError, MemoryError, ValueError) as error:
        raise _damaged(where, str(error) or type(error).__name__) from error
    return header.segment(content[4 + size :])


def _damaged(where: str, why: str) -> Stop:
    return Stop(f"{where} is damaged: {why}.", hint=_HINT)
