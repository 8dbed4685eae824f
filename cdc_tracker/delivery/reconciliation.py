"""The checkpoint that a destination holds, compared with that in the state store and with the journal. Decides, sends nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cdc_tracker.delivery.sender import before
from cdc_tracker.journal import Journal, segments_between
from cdc_tracker.model import START, Event, Position
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import HOUR, State

READ = 4  # segments read at once


class Decision(NamedTuple):
    """`held`: the destination has the stream's events up to here. At most one of `store` and `rewind` is true.

    `notice`, `hint`: for the operator; empty if everything is as expected.
    """

    held: Position | None
    store: bool = False  # the destination has to store `held`
    rewind: bool = False  # what comes after `held` has to be sent again
    notice: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Reconciliation:
    """For one destination. `pipeline` returns the pipeline of the mappings of its last run."""

    state: State
    journal: Journal
    source: str
    name: str
    pipeline: Callable[[], Pipeline]

    def decide(self, held: Position | None, ours: Position, *, dry: bool, moved: bool) -> Decision:
        """`held`: of the destination; after `ours`, of the state store, if the last run was killed between the two commits.

        `dry`: the last run sent nothing. `moved`: it ended because the destination's checkpoint was not the one stored last.
        """
        if held is None and moved and self._lacking(START, ours) is not None:
            held = START  # it was emptied during the last run
        if held is None:
            notice = "the destination is empty although it was sent events before, or its checkpoint is gone; `rewind` fills it"
            return Decision(None, notice=notice if self._delivered() else "")
        if held >= ours:
            return Decision(held)
        if dry or self._refused_after(held, ours):
            # What it lacks was suppressed, or the last run was killed before the destination could store what it has.
            return Decision(ours, store=True)
        begin = self._lacking(held, ours)
        if begin is None:
            # No event after `held` was for it. It stores that now, before retries or other mappings make events look lost.
            return Decision(ours, store=True) if self.journal.horizon() else Decision(held)
        return Decision(
            begin,
            rewind=True,
            notice="the destination was restored: it is sent again what it lacks",
            hint="not sent again: what the journal no longer has, and what replays and retries sent since the backup",
        )

    def owns(self, position: Position, ours: Position) -> bool:
        """Whether a position stored under the destination's name alone is this source's: its checkpoint, or in its journal."""
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
        """Whether the destination was ever sent an event."""
        totals = self.state.ledger.totals(self.source).get(self.name)
        return totals is not None and totals.now["delivered"] > 0

    def _refused_after(self, held: Position, ours: Position) -> bool:
        """Whether the first event after `held` was parked: the destination has events after it that it stored no position for."""
        letters = self.state.dead_letters.between(self.source, self.name, held, ours)
        return any(before(letter.position) == held for letter in letters)

    def _lacking(self, held: Position, ours: Position) -> Position | None:
        """The position to send again from, if the journal has delivered events after `held`; None: it has none."""
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
