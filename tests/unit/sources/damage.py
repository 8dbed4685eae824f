"""Recorded segments damaged at random, for the decoders."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from hypothesis import strategies as st

from cdc_tracker.model import START, Relation, Segment
from tests.wal import recording


def every_column(relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wanted: all of both rows."""
    names = tuple(column.name for column in relation.columns)
    return names, names


def damaged(data: st.DataObject, segment: Segment) -> Segment:
    """Bytes overwritten, cut out or put in, in the frames or in a description."""
    place = data.draw(st.integers(-1, len(segment.relations) - 1), label="description, or -1 for the frames")
    content = bytearray(segment.frames if place < 0 else segment.relations[place])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        length = data.draw(st.integers(0, 4))
        content[at : at + length] = data.draw(st.binary(max_size=4) | st.just(bytes(length)))
    if place < 0:
        return replace(segment, frames=bytes(content))
    relations = list(segment.relations)
    relations[place] = bytes(content)
    return replace(segment, relations=tuple(relations))


def survives(segment: Segment) -> None:
    with contextlib.suppress(ValueError):
        for count, _ in enumerate(recording.decoder(segment.plugin, every_column).changes(segment, START)):
            assert count < 100_000
