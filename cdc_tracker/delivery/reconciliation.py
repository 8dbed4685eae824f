"""What a destination says by the checkpoint that it holds, compared with ours and the journal. Decides, and sends nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cdc_tracker.delivery.sender import before
from cdc_tracker.journal import Journal, segments_between
from cdc_tracker.model import START, Event, Position
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import HOUR, State

READ = 4  # segments read at once: some megabytes at most


class Reconciled(NamedTuple):
    """`held`: what the destination holds, as far as the stream is concerned. At most one of the other two is true.

    `notice`: what a person should know; empty where all is as expected.
    """

    held: Position | None
    store: bool = False  # the destination has it, and is to store that position
    rewind: bool = False  # it is sent again what comes after `held`
    notice: str = ""
    hint: str = ""


@dataclass(frozen=True)
class HeldCheckpoint:
    """The checkpoint of one destination. `pipeline` returns that of the mappings of its last run."""

    state: State
    journal: Journal
    source: str
    name: str
    pipeline: Callable[[], Pipeline]

    def reconcile(self, held: Position | None, ours: Position, *, dry: bool, moved: bool) -> Reconciled:
        """`held`: what the destination says; past `ours` where we were killed in between: that is not sent again.

        `dry`: its last run sent nothing. `moved`: that run ended because the checkpoint was not where it had been left.
        """
        if held is None and moved and self._lacking(START, ours) is not None:
            held = START  # it was emptied while we wrote to it
        if held is None:
            notice = "the destination is empty although it was sent events before, or its checkpoint is gone; `rewind` fills it"
            return Reconciled(None, notice=notice if self._delivered() else "")
        if held >= ours:
            return Reconciled(held)
        if dry or self._refused_after(held, ours):
            # What it lacks was held back on purpose, or we were killed before it could store what it has.
            return Reconciled(ours, store=True)
        begin = self._lacking(held, ours)
        if begin is None:
            # Nothing after it was for it. It is to say so, before retried dead letters or other mappings make it look lost.
            return Reconciled(ours, store=True) if self.journal.horizon() else Reconciled(held)
        return Reconciled(
            begin,
            rewind=True,
            notice="the destination was taken back: it is sent again what it lacks",
            hint="not sent again is what the journal no longer has, and what replays and retried dead letters sent meanwhile",
        )

    def owns(self, position: Position, ours: Position) -> bool:
        """A position that was stored under the destination's name alone is this source's: our checkpoint, or in our journal."""
        horizon = self.journal.horizon()
        if position == ours:
            return True
        if position < ours and (horizon is None or position < horizon.start):
            return self._delivered()  # nothing is skipped or sent again because of it
        for segment in self.journal.read(Position(position.commit_lsn - 1, 0), 1):
            results = self.pipeline().results(segment, START)
            return position == segment.last or any(each.position.commit_lsn == position.commit_lsn for each in results)
        return False

    def _delivered(self) -> bool:
        """It was ever sent an event."""
        totals = self.state.ledger.totals(self.source).get(self.name)
        return totals is not None and totals.now["delivered"] > 0

    def _refused_after(self, held: Position, ours: Position) -> bool:
        """The first event past what it holds was parked: it holds those behind it that went with it, and does not say so."""
        letters = self.state.dead_letters.between(self.source, self.name, held, ours)
        return any(before(letter.position) == held for letter in letters)

    def _lacking(self, held: Position, ours: Position) -> Position | None:
        """After which position to send again, where the journal has events that were delivered and that it does not hold."""
        horizon = self.journal.horizon()
        if horizon is None:
            return None
        ledger = self.state.ledger.rows(self.source, self.name, since_hour=horizon.first_time // HOUR)
        delivered = {(row.mapping, row.hour) for row in ledger if row.delivered}
        begin = max(held, horizon.start)
        pipeline = self.pipeline()
        for segment, after in segments_between(self.journal, begin, ours, READ):
            events = [result for result in pipeline.results(segment, after, ours) if isinstance(result, Event)]
            if any((event.mapping, event.committed_at // HOUR) in delivered for event in events):
                return begin
        return None
