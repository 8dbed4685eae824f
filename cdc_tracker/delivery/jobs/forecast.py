"""What a range of the journal would send to a destination, and what the destination would do with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

import msgspec

from cdc_tracker.journal import Journal
from cdc_tracker.model import Event, Position, Rejection, Segment
from cdc_tracker.pipeline.pipeline import Pipeline
from cdc_tracker.pipeline.shaping import Shaping
from cdc_tracker.state import sent_id

READ = 16  # segments at once
Known: TypeAlias = Callable[[Sequence[bytes]], set[bytes]]
"""Which of these sent_ids were delivered, as far as the sent-ledger reaches."""


class _When(msgspec.Struct):
    timestamp: str = ""


_when = msgspec.json.Decoder(_When)


@dataclass
class Estimate:
    """Counts of the events of a range. `withheld`, `outside_window` and `past_age` are parts of `events`.

    `left_out` is no part of it: events that the destination's own settings leave out.
    `withheld`: the sent-ledger has them, so they would not go again. The other two would. `outside_window`: the destination does
    not know them again by their id any more, so that they are there twice if they were delivered before. `past_age`: they are
    older by their own timestamp than the destination takes. `oldest` and `newest` are commit times, 0 where there is no event.
    """

    after: Position
    upto: Position
    events: Counter[str] = field(default_factory=Counter)  # by mapping
    rejections: Counter[str] = field(default_factory=Counter)  # by mapping
    reasons: Counter[str] = field(default_factory=Counter)  # of the rejections
    left_out: int = 0
    withheld: int = 0
    outside_window: int = 0
    past_age: int = 0
    oldest: int = 0
    newest: int = 0

    @property
    def sent(self) -> int:
        """How many events would go."""
        return self.events.total() - self.withheld


def forecast(
    translator: Pipeline,
    journal: Journal,
    after: Position,
    upto: Position,
    *,
    now_us: int,
    dedupe_window: float,
    age_limit: float,
    known: Known | None = None,
    known_since: int | None = None,
    events: Collection[str] | None = None,
    shaping: Shaping | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Estimate:
    """Read the range, a few segments at a time, and count what it makes. Sends nothing.

    `known` asks the sent-ledger, where only what is missing is to go. `known_since`: from when on the ledger knows what was
    delivered. What was committed since and is not in it was never delivered, so that it cannot be there twice.
    `events`: keys of the mappings that count; None: all. `shaping`: what the destination's settings make of an event.
    """
    counting = _Counting(Estimate(after, upto), now_us, dedupe_window, age_limit, known, known_since, shaping)
    for segment, begin in segments(journal, after, upto):
        made = [
            each
            for each in translator.made(segment, begin)
            if each.position <= upto and (events is None or each.mapping in events)
        ]
        counting.take(made)
        advance()
    return counting.forecast


def segments(journal: Journal, after: Position, upto: Position) -> Iterator[tuple[Segment, Position]]:
    """The segments of a range, each with the position after which it is to be read; the last one may go on past `upto`."""
    while after < upto and (read := journal.read(after, READ)):
        for segment in read:
            if after >= upto:
                return
            yield segment, after
            after = segment.last


class _Counting:
    def __init__(
        self,
        forecast: Estimate,
        now_us: int,
        dedupe_window: float,
        age_limit: float,
        known: Known | None,
        known_since: int | None,
        shaping: Shaping | None,
    ) -> None:
        self.forecast = forecast
        self._window_from = now_us - dedupe_window * 1e6
        self._age_from = now_us - age_limit * 1e6
        self._known, self._known_since = known, known_since
        self._shaping = shaping

    def take(self, made: Sequence[Event | Rejection]) -> None:
        found = self.forecast
        if (shaping := self._shaping) is not None:
            going = [each for each in made if isinstance(each, Rejection) or shaping(each) is not None]
            found.left_out += len(made) - len(going)
            made = going
        held = self._held(made)
        for each in made:
            if isinstance(each, Rejection):
                found.rejections[each.mapping] += 1
                found.reasons[each.reason] += 1
                continue
            found.events[each.mapping] += 1
            found.oldest = min(found.oldest or each.committed_at, each.committed_at)
            found.newest = max(found.newest, each.committed_at)
            if each.message_id in held:
                found.withheld += 1
                continue
            found.outside_window += self._doubled(each)
            found.past_age += self._age_from > 0 and own_time(each) < self._age_from

    def _held(self, made: Sequence[Event | Rejection]) -> set[str]:
        if self._known is None:
            return set()
        ids = {sent_id(each.message_id): each.message_id for each in made if isinstance(each, Event)}
        return {ids[each] for each in self._known(list(ids))} if ids else set()

    def _doubled(self, event: Event) -> bool:
        if event.committed_at >= self._window_from:
            return False
        since = self._known_since if self._known is not None else None
        return since is None or event.committed_at < since


def own_time(event: Event) -> int:
    """The event's own timestamp in microseconds since the epoch; its commit's where the text is no time (infinity)."""
    with suppress(ValueError, msgspec.ValidationError):
        moment = datetime.fromisoformat(_when.decode(event.body).timestamp)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    return event.committed_at
