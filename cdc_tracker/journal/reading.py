"""Reads a range of the journal."""

from __future__ import annotations

from collections.abc import Iterator

from cdc_tracker.journal.sql.store import Journal
from cdc_tracker.model import Position, Segment


def segments_between(journal: Journal, after: Position, upto: Position, at_once: int = 16) -> Iterator[tuple[Segment, Position]]:
    """Yields the segments with changes after `after`, up to `upto`, each with the position after which it is to be read.

    Reads `at_once` segments at a time. The last segment may extend past `upto`.
    """
    while after < upto and (segments := journal.read(after, at_once)):
        for segment in segments:
            if after >= upto:
                return
            yield segment, after
            after = segment.last
