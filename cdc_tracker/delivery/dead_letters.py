"""Turns rejections into dead letters that keep their change, and dead letters into results again, by the current mappings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdc_tracker.journal import decode, encode
from cdc_tracker.model import START, Position, Rejection, Result, Segment
from cdc_tracker.pipeline import Pipeline, excerpts
from cdc_tracker.state import DeadLetter


def park(
    source: str, destination: str, segments: Sequence[Segment], rejections: Iterable[Rejection], high: Position
) -> list[DeadLetter]:
    """Returns a dead letter for each rejection, with a segment of its change alone.

    `counted` is false for positions up to `high`, which the ledger has counted before.
    """
    by_segment: dict[int, list[Rejection]] = {}
    for rejection in rejections:
        place = next(i for i, segment in enumerate(segments) if segment.first <= rejection.position <= segment.last)
        by_segment.setdefault(place, []).append(rejection)
    letters = []
    for place, found in by_segment.items():
        kept = excerpts(segments[place], {rejection.position for rejection in found})
        encoded = {position: encode(segment) for position, segment in kept.items()}
        letters += [
            DeadLetter.of(source, destination, rejection, encoded[rejection.position], counted=rejection.position > high)
            for rejection in found
        ]
    return letters


def remake(letter: DeadLetter, pipeline: Pipeline) -> Result | None:
    """Returns the current result of the letter's change; None if its mapping does not match any more, or is gone."""
    results = pipeline.results(decode(letter.segment, f"dead letter {letter.id}"), START)
    return next((each for each in results if (each.mapping, each.position) == (letter.mapping, letter.position)), None)
