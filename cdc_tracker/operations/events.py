"""Recent events, made again from the journal: each with the row of which it was made. Sends nothing, and needs no database."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cdc_tracker.config.config import Config
from cdc_tracker.delivery.points import Target, located
from cdc_tracker.journal import Journal, segments_between
from cdc_tracker.mapping import Mapping
from cdc_tracker.model import START, Change, Event, Position, Rejection, Segment
from cdc_tracker.operations import named
from cdc_tracker.operations.masking import Personal
from cdc_tracker.operations.rows import Rows, Value
from cdc_tracker.pipeline import OUTBOX
from cdc_tracker.state import State
from cdc_tracker.worker.assemble import build_pipeline, captured_tables, load_mappings, source_record

LOOK = 0.3  # seconds between two looks at a journal that has not grown
_MOST = 64  # segments of a step back


@dataclass(frozen=True)
class Seen:
    """An event or a rejection, and its change. Personal values are masked.

    `new`, `old`: every column of the rows; empty if there is none, as for a logical message. `event`: the event's JSON as values;
    None for a rejection. `detail`: of a rejection; empty if it may quote a personal value.
    """

    change: Change
    result: Event | Rejection
    new: list[Value]
    old: list[Value]
    event: dict[str, Any] | None
    detail: str


class Feed:
    """The events of some mappings, of all, or of the outbox. `gaps`: positions up to which the journal may have been trimmed
    while it was read."""

    def __init__(self, config: Config, state: State, journal: Journal, names: Sequence[str] = ()) -> None:
        """`names`: keys or names of mappings, or `outbox`. Raises InvalidRequest for others, MappingError, StateMissing."""
        mappings, record = load_mappings(config), source_record(config, state)
        keys = _keys(config, mappings.all, names)
        self.gaps: list[Position] = []
        self._journal = journal
        self._personal = Personal(mappings.all)
        self._pipeline = build_pipeline(config, record, None, mappings, only=keys)
        self._rows = Rows(journal, set(captured_tables(config, mappings)), self._personal)

    @property
    def end(self) -> Position:
        """The journal's present end; START if it is empty."""
        return self._journal.end() or START

    def last(self, limit: int, upto: Position) -> list[Seen]:
        """Returns the last `limit` events and rejections up to a position. Reads back no further than it must."""
        found: list[tuple[Change, Event | Rejection]] = []
        step = 1
        while len(found) < limit and (begin := self._journal.back(upto, step)) is not None:
            newest: deque[tuple[Change, Event | Rejection]] = deque(maxlen=limit - len(found))
            for segment, after in segments_between(self._journal, begin, upto):
                newest.extend(self._results(segment, after, upto))
            found, upto, step = [*newest, *found], begin, min(2 * step, _MOST)
        return [self._seen(*each) for each in found]

    def since(self, start: Target, *, follow: bool = False) -> Iterator[Seen]:
        """Yields the events from a point in history to the journal's present end; with `follow`, then those that come.

        Raises Stop if the journal does not reach back so far.
        """
        after = located(self._journal, start) if self.end > START else START
        return self.after(after, follow=follow)

    def after(self, after: Position, *, follow: bool = False) -> Iterator[Seen]:
        """As `since`, from a position."""
        while True:
            end = self.end
            note = self.gaps.append if after > START else lambda _: None  # an empty journal begins anywhere
            for segment, begin in segments_between(self._journal, after, end, on_gap=note):
                for found in self._results(segment, begin, end):
                    yield self._seen(*found)
                after = segment.last
            if not follow:
                return
            time.sleep(LOOK)

    def _results(self, segment: Segment, after: Position, upto: Position) -> Iterator[tuple[Change, Event | Rejection]]:
        """Yields events and rejections, each with its change and every column of it."""
        whole = self._rows.changes(segment, after, upto)
        for change, results in self._pipeline.changes(segment, after, upto):
            made = [each for each in results if isinstance(each, Event | Rejection)]
            if made:
                is_row = change.relation is not None
                row = next((each for each in whole if each.position == change.position), change) if is_row else change
                yield from ((row, each) for each in made)

    def _seen(self, change: Change, result: Event | Rejection) -> Seen:
        new, old = self._rows.row(change, "new"), self._rows.row(change, "old")
        if isinstance(result, Event):
            return Seen(change, result, new, old, self._personal.event(result.mapping, result.body), "")
        hidden = self._personal.hides(result.mapping, result.field)
        return Seen(change, result, new, old, None, "" if hidden else result.detail)


def _keys(config: Config, mappings: Sequence[Mapping], names: Sequence[str]) -> list[str] | None:
    """Ledger keys of the names; None: of everything."""
    if not names:
        return None
    outbox = [OUTBOX] if config.source.outbox and OUTBOX in names else []
    others = [name for name in names if name not in outbox]
    return [*outbox, *(named.events(mappings, others) if others else [])]
