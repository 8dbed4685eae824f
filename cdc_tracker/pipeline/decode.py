"""Segments to changes and single-change segments, by the plugin that the frames came from. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile

from cdc_tracker.errors import Stop
from cdc_tracker.model import START, Change, Position, Segment
from cdc_tracker.pipeline.debezium_envelope import every_column
from cdc_tracker.sources.postgres import pgoutput, snapshot, wal2json
from cdc_tracker.sources.postgres.decoding import Decoder, Wanted

_DECODERS: dict[str, Callable[[Wanted], Decoder]] = {
    "pgoutput": pgoutput.Decoder,
    "wal2json": wal2json.Decoder,
    "snapshot": snapshot.Decoder,
}
_EXCERPT = {"pgoutput": pgoutput.excerpt, "wal2json": wal2json.excerpt, "snapshot": snapshot.excerpt}


def decoder(plugin: str, wanted: Wanted) -> Decoder:
    """Returns a decoder for the plugin's segments. Raises Stop if the plugin is unknown."""
    if plugin not in _DECODERS:
        raise Stop(f"a segment was made by the plugin {plugin!r}, which this version does not know")
    return _DECODERS[plugin](wanted)


class ChangeReader:
    """Decodes segments of any plugin. Its decoders keep the relations that they have met."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._decoders: dict[str, Decoder] = {}  # by plugin

    def changes(self, segment: Segment, after: Position, upto: Position | None = None) -> Iterator[Change]:
        """Returns the segment's changes after `after`, up to `upto` (None: the end), with the columns wanted."""
        found = self._decoders.get(segment.plugin)
        if found is None:
            found = self._decoders[segment.plugin] = decoder(segment.plugin, self._wanted)
        changes = found.changes(segment, after)
        if upto is None or upto >= segment.last:
            return changes
        return takewhile(lambda change: change.position <= upto, changes)


def whole_changes(segment: Segment) -> Iterator[Change]:
    """Yields every change of a segment, with every column."""
    return decoder(segment.plugin, every_column).changes(segment, START)


def excerpts(segment: Segment, positions: set[Position]) -> dict[Position, Segment]:
    """Returns a self-contained segment for each change at `positions`. A dead letter keeps it to be mapped again on a retry."""
    return _EXCERPT[segment.plugin](segment, positions)


@contextmanager
def readable(segment: Segment) -> Iterator[None]:
    """Raises Stop with a hint for an error that decoding the segment raises inside the block."""
    try:
        yield
    except (ValueError, KeyError, IndexError) as error:
        raise Stop(
            f"a segment of {segment.plugin} frames at {segment.first} cannot be read: {error!r}",
            hint="the journal is damaged or was written by another version; `cdc-tracker rewind` past it loses its events",
        ) from error
