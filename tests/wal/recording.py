"""The recorded frames: `pgoutput.hex` and `wal2json.hex` hold the same WAL as each plugin tells it, made by record.py.

A line is a CopyData message of kind `w` in hexadecimal, `@` begins what the catalog said of a table, `#` a comment.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from cdc_tracker.model import START, Position, Segment
from cdc_tracker.sources.postgres import pgoutput, wal2json
from cdc_tracker.sources.postgres.decoding import Decoder, Wanted
from cdc_tracker.sources.postgres.segments import SegmentBuilder

FOLDER = Path(__file__).parent
PLUGINS = ("pgoutput", "wal2json")


def write(plugin: str, comment: str, frames: Iterable[bytes], descriptions: Iterable[bytes]) -> None:
    lines = [f"# {line}".rstrip() for line in comment.strip().splitlines()]
    lines += [f"@{description.decode()}" for description in sorted(descriptions)]
    lines += [frame.hex() for frame in frames]
    (FOLDER / f"{plugin}.hex").write_text("\n".join([*lines, ""]))


def _lines(plugin: str) -> list[str]:
    return (FOLDER / f"{plugin}.hex").read_text().splitlines()


def frames(plugin: str) -> list[bytes]:
    return [bytes.fromhex(line) for line in _lines(plugin) if line[0] not in "#@"]


def builder(plugin: str, after: Position = START) -> SegmentBuilder:
    if plugin == "pgoutput":
        return pgoutput.Builder(after)
    found = [msgspec.json.decode(line[1:], type=wal2json.Description) for line in _lines(plugin) if line[0] == "@"]
    known = {(one.schema, one.table): one for one in found}
    return wal2json.Builder(after, lambda schema, table: known.get((schema, table)))


def decoder(plugin: str, wanted: Wanted) -> Decoder:
    return pgoutput.Decoder(wanted) if plugin == "pgoutput" else wal2json.Decoder(wanted)


def segments(plugin: str, after: Position = START) -> list[Segment]:
    """Closed where the builder is full, and at the end."""
    made, gathered = builder(plugin, after), []
    for frame in frames(plugin):
        made.add(memoryview(frame))
        if made.full:
            gathered.append(made.close())
    gathered.append(made.close())
    return [segment for segment in gathered if segment is not None]
