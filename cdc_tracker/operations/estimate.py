"""Estimates what sending a range of the journal again would do at a destination. Sends nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from cdc_tracker.config.config import Config
from cdc_tracker.delivery.jobs.spec import event_time
from cdc_tracker.destinations import registry
from cdc_tracker.destinations.base import Destination
from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal, segments_between
from cdc_tracker.model import Event, Position, Rejection, Result
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import State, sent_id
from cdc_tracker.units import format_duration, plural

AlreadySent: TypeAlias = Callable[[Sequence[bytes]], set[bytes]]
"""Returns which of these sent_ids the sent-ledger has."""


@dataclass
class ReplayEstimate:
    """Counts of a range's results. `withheld`, `outside_window` and `past_age` are parts of `events`; `left_out` is not."""

    after: Position
    upto: Position
    events: Counter[str] = field(default_factory=Counter)  # by mapping
    rejections: Counter[str] = field(default_factory=Counter)  # by mapping
    reasons: Counter[str] = field(default_factory=Counter)  # of the rejections
    left_out: int = 0  # events that the destination's settings leave out
    withheld: int = 0  # events that the sent-ledger has: they would not be sent again
    outside_window: int = 0  # events that the destination no longer recognizes by id: duplicates if they were delivered before
    past_age: int = 0  # events older, by their own timestamp, than the destination takes
    oldest: int = 0  # commit time in microseconds since the Unix epoch; 0: no event
    newest: int = 0

    @property
    def sent(self) -> int:
        """How many events would be sent."""
        return self.events.total() - self.withheld

    @property
    def total(self) -> int:
        """How many events and rejections the range makes, with those that are not sent."""
        return self.events.total() + self.left_out + self.rejections.total()


@dataclass(frozen=True)
class DestinationEstimate:
    """What sending a range again would do at a destination of the source: counts, and how its `kind` treats the events.

    `sent_since`: since when its sent-ledger is kept, in microseconds; None: it is empty, or not asked (see `only_missing`).
    """

    source: str
    destination: str
    kind: type[Destination]
    counts: ReplayEstimate
    only_missing: bool
    sent_since: int | None
    dry_run: bool

    @property
    def duplicates(self) -> str:
        """Which events would be duplicates, and why, without a full stop; "" if none would be."""
        if not self.counts.outside_window:
            return ""
        window, number = self.kind.dedupe_window, self.counts.outside_window
        why = (
            f"committed more than {format_duration(window)} ago, and it recognizes an event by its id only for so long"
            if window
            else "it does not recognize an event by its id"
        )
        unknown = ", and the sent-ledger does not reach back so far" if self.only_missing else ""
        return f"{plural(number, 'event')} would be there twice, if delivered before: {why}{unknown}"

    def refuse_duplicates(self, *, accepted: bool) -> None:
        """Raises Stop if there would be duplicates that are not accepted."""
        if self.duplicates and not accepted:
            raise Stop(
                f"{self.destination}: {self.duplicates}. Nothing was changed.",
                hint="--yes-duplicates sends them all the same. --only-missing holds back what was delivered, "
                "if the destination keeps a `sent_ledger`.",
            )


def estimate(
    config: Config,
    state: State,
    journal: Journal,
    destination: str,
    pipeline: Pipeline,
    after: Position,
    upto: Position,
    *,
    only_missing: bool,
    advance: Callable[[], None],
) -> DestinationEstimate:
    """Estimates sending a range to a configured destination. Calls `advance` after each segment.

    `only_missing`: what its sent-ledger has is held back. Raises Stop if it keeps none.
    """
    settings, source = config.destinations[destination], config.source.name
    if only_missing and settings.sent_ledger is None:
        raise Stop(
            f"The destination {destination!r} keeps no sent-ledger, so it is not known what it was sent: nothing was changed.",
            hint=f"Set destinations.{destination}.sent_ledger in {config.path}, to 90d for example: it records what is sent from "
            "then on.",
        )
    kind = registry.described(settings)
    since = state.sent_ids.since(source, destination) if only_missing else None
    counts = estimate_replay(
        pipeline,
        journal,
        after,
        upto,
        now_us=time.time_ns() // 1000,
        dedupe_window=kind.dedupe_window,
        age_limit=kind.age_limit,
        already_sent=partial(state.sent_ids.find, source, destination) if only_missing else None,
        sent_since=since,
        advance=advance,
    )
    return DestinationEstimate(source, destination, kind, counts, only_missing, since, settings.dry_run)


def estimate_replay(
    pipeline: Pipeline,
    journal: Journal,
    after: Position,
    upto: Position,
    *,
    now_us: int,
    dedupe_window: float,
    age_limit: float,
    already_sent: AlreadySent | None = None,
    sent_since: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> ReplayEstimate:
    """Reads the range, a few segments at a time, and counts its results. Calls `advance` after each segment.

    `dedupe_window`, `age_limit`: the destination's, in seconds. `already_sent`: given if only missing events are to be sent.
    `sent_since`: since when the sent-ledger is kept; an event committed later that it does not have was never delivered, and
    cannot be a duplicate.
    """
    estimate = ReplayEstimate(after, upto)
    window_from, age_from = now_us - dedupe_window * 1e6, now_us - age_limit * 1e6
    if already_sent is not None and sent_since is not None:
        window_from = min(window_from, sent_since)
    for segment, begin in segments_between(journal, after, upto):
        results = pipeline.results(segment, begin, upto)
        withheld = _withheld(results, already_sent)
        for result in results:
            if isinstance(result, Event):
                _count(estimate, result, result.message_id in withheld, window_from, age_from)
            elif isinstance(result, Rejection):
                estimate.rejections[result.mapping] += 1
                estimate.reasons[result.reason] += 1
            else:
                estimate.left_out += 1
        advance()
    return estimate


def _withheld(results: Sequence[Result], already_sent: AlreadySent | None) -> set[str]:
    """Returns the messageIds of the events that the sent-ledger has."""
    if already_sent is None:
        return set()
    ids = {sent_id(result.message_id): result.message_id for result in results if isinstance(result, Event)}
    return {ids[found] for found in already_sent(list(ids))} if ids else set()


def _count(estimate: ReplayEstimate, event: Event, withheld: bool, window_from: float, age_from: float) -> None:
    estimate.events[event.mapping] += 1
    estimate.oldest = min(estimate.oldest or event.committed_at, event.committed_at)
    estimate.newest = max(estimate.newest, event.committed_at)
    if withheld:
        estimate.withheld += 1
    else:
        estimate.outside_window += event.committed_at < window_from
        estimate.past_age += age_from > 0 and event_time(event) < age_from
