"""Rejections → dead letters that keep their change, and dead letters → events again, with the mappings as they are now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdc_tracker.journal import decode, encode
from cdc_tracker.model import START, Position, Rejection, Segment
from cdc_tracker.pipeline.pipeline import Made, Pipeline, excerpts
from cdc_tracker.state import DeadLetter


def park(
    source: str, destination: str, segments: Sequence[Segment], rejections: Iterable[Rejection], high: Position
) -> list[DeadLetter]:
    """A dead letter for each rejection, with a segment of its change alone. Those at or before `high` were counted before."""
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


def remake(letter: DeadLetter, translator: Pipeline) -> Made | None:
    """What the letter's change becomes now; None where its mapping does not match any more, or is gone."""
    segment = decode(letter.segment, f"dead letter {letter.id}")
    made = (
        made for made in translator.made(segment, START) if made.mapping == letter.mapping and made.position == letter.position
    )
    return next(made, None)
