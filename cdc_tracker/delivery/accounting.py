"""Receipts become the checkpoint, ledger counts, dead letters and sent ids of one destination, committed together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from cdc_tracker.delivery.batcher import PendingBatch
from cdc_tracker.delivery.dead_letters import park
from cdc_tracker.delivery.outcomes import Kind
from cdc_tracker.errors import StateUnavailable
from cdc_tracker.model import DELIVERED, REPEATED, Event, Outcome, Position, Receipt, Rejection, Suppression
from cdc_tracker.state import HOUR, Checkpoint, DeadLetter, Outcomes, State, sent_id

T = TypeVar("T")
PAUSE = 0.5  # seconds between two tries of a state store that is unavailable


class Tally:
    """The outcomes of batches that are not committed yet.

    Events at positions up to `high` were accounted for before: they count as replayed, and one that is delivered now settles the
    dead letter that it left. `keep_ids`: record the ids of sent events.
    """

    def __init__(self, state: State, source: str, name: str, high: Position, *, keep_ids: bool) -> None:
        self._state, self._source, self._name = state, source, name
        self._keep_ids = keep_ids
        self.high = high
        self.totals: Counter[str] = Counter()  # by outcome, since the start
        self.kinds: Counter[Kind] = Counter()  # rejections since the start
        self.counts: Counter[tuple[int, str, str]] = Counter()  # by hour, mapping and outcome
        self.letters: list[DeadLetter] = []
        self.settled: list[int] = []  # ids of dead letters
        self.sent: list[bytes] = []  # digests of message ids

    @property
    def pending(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.counts) or bool(self.letters) or bool(self.settled)

    def take(self, batch: PendingBatch, receipts: Sequence[Receipt]) -> None:
        """Adds a batch. `receipts`: one final receipt for each of its events, in order."""
        refused = _refused(batch.events, receipts)
        self._tally(batch.events, receipts)
        self._unpark(batch.events, receipts)
        for rejection in batch.rejections:
            self._count(rejection, ("rejected",))
        self.kinds.update(Kind(each.mapping, each.reason, each.field) for each in (*batch.rejections, *refused))
        for suppression in batch.suppressions:
            self._suppress(suppression)
        self.letters += park(self._source, self._name, batch.segments, [*batch.rejections, *refused], self.high)
        if self._keep_ids:
            pairs = zip(batch.events, receipts, strict=True)
            self.sent += [sent_id(event.message_id) for event, receipt in pairs if is_held(receipt)]

    @property
    def outcomes(self) -> Outcomes:
        """What is to be committed."""
        return Outcomes(self.counts, self.letters, self.settled, self.sent)

    def clear(self) -> None:
        """To be called after a commit."""
        self.counts.clear()
        self.letters.clear()
        self.settled.clear()
        self.sent.clear()

    def _tally(self, events: Sequence[Event], receipts: Sequence[Receipt]) -> None:
        """Counts events. Fast path: if all are new and have equal receipts, counts groups instead of single events."""
        if events and receipts.count(receipts[0]) == len(receipts) and events[0].position > self.high:
            outcomes = counted_as(receipts[0])
            for (hour, mapping), number in _by_hour_and_mapping(events).items():
                for outcome in ("matched", *outcomes):
                    self.counts[hour, mapping, outcome] += number
            self.totals.update(dict.fromkeys(outcomes, len(events)))
            return
        for event, receipt in zip(events, receipts, strict=True):
            self._count(event, counted_as(receipt))

    def _count(self, result: Event | Rejection, outcomes: Sequence[str]) -> None:
        hour = result.committed_at // HOUR
        self.totals.update(outcomes)
        if result.position <= self.high:  # history that is sent again after a rewind
            self.counts[hour, result.mapping, "replayed"] += 1
        else:
            for outcome in ("matched", *outcomes):
                self.counts[hour, result.mapping, outcome] += 1

    def _suppress(self, suppression: Suppression) -> None:
        """Counts a suppressed event. At a position up to `high` it was counted before."""
        self.totals["withheld"] += 1
        if suppression.position > self.high:
            hour = suppression.event.committed_at // HOUR
            for outcome in ("matched", "suppressed"):
                self.counts[hour, suppression.mapping, outcome] += 1

    def _unpark(self, events: Sequence[Event], receipts: Sequence[Receipt]) -> None:
        """Settles the dead letters of events that were parked before and are delivered now, in a replay."""
        if not events or events[0].position > self.high:
            return
        done = {
            (event.mapping, event.position): counted_as(receipt)
            for event, receipt in zip(events, receipts, strict=True)
            if receipt.outcome is not Outcome.REJECTED
        }
        for letter in self._state.dead_letters.between(self._source, self._name, events[0].position, events[-1].position):
            outcomes = done.get((letter.mapping, letter.position))
            if outcomes is not None:
                self.settled.append(letter.id)
                if letter.counted:
                    self.counts[letter.hour, letter.mapping, "replayed"] -= 1
                    for outcome in outcomes:
                        self.counts[letter.hour, letter.mapping, outcome] += 1


class Accounting:
    """The accounting of the live stream: `position` is accounted for, `stored` is committed."""

    def __init__(self, state: State, source: str, name: str, checkpoint: Checkpoint, *, keep_ids: bool = False) -> None:
        self._state, self._source, self._name = state, source, name
        self.tally = Tally(state, source, name, checkpoint.high, keep_ids=keep_ids)
        self.time = 0  # commit time of the last change accounted for, microseconds since the Unix epoch
        self._uncertain = False
        self.begin(checkpoint)

    def begin(self, checkpoint: Checkpoint) -> None:
        """Starts at a checkpoint."""
        self.position = self.stored = checkpoint.position
        self.tally.high = checkpoint.high

    @property
    def high(self) -> Position:
        """The highest position that was ever accounted for: events at or before it are history."""
        return self.tally.high

    @property
    def pending(self) -> bool:
        """Whether there is anything to commit."""
        return self.position != self.stored or self.tally.pending

    @property
    def parked(self) -> bool:
        """Whether there are dead letters to commit."""
        return bool(self.tally.letters)

    def take(self, batch: PendingBatch, receipts: Sequence[Receipt]) -> None:
        """Adds a batch. `receipts`: one final receipt for each of its events, in order."""
        self.tally.take(batch, receipts)
        self.position = batch.upto
        self.time = batch.time or self.time

    def commit(self) -> Position | None:
        """Commits all of it in one transaction. Returns the target of a requested rewind, if there is one.

        Raises StateUnavailable; the call can be repeated.
        """
        tally = self.tally
        if self._uncertain and self._was_committed():
            rewind = None
        else:
            self._uncertain = True  # a connection lost during a commit leaves open whether it took place
            rewind = self._state.checkpoints.commit(self._source, self._name, self.position, tally.outcomes)
        self._uncertain = False
        self.stored = self.position
        tally.high = max(tally.high, self.position)
        tally.clear()
        return rewind

    def _was_committed(self) -> bool:
        checkpoint = self._state.checkpoints.get(self._source, self._name)
        if checkpoint is None:
            raise StateUnavailable("the checkpoint cannot be read")
        return checkpoint.position == self.position != self.stored


def counted_as(receipt: Receipt) -> Sequence[str]:
    """The outcomes under which the ledger counts an event with this receipt."""
    return ("suppressed", "repeated") if receipt == REPEATED else (receipt.outcome.value,)


def is_held(receipt: Receipt) -> bool:
    """Whether the destination has the event."""
    return receipt.outcome in (Outcome.DELIVERED, Outcome.ASSUMED) or receipt == REPEATED


def _refused(events: Sequence[Event], receipts: Sequence[Receipt]) -> list[Rejection]:
    if receipts.count(DELIVERED) == len(events) == len(receipts):
        return []
    pairs = zip(events, receipts, strict=True)
    return [refusal(event, receipt) for event, receipt in pairs if receipt.outcome is Outcome.REJECTED]


def _by_hour_and_mapping(events: Sequence[Event]) -> Counter[tuple[int, str]]:
    times = [event.committed_at for event in events]
    hour = min(times) // HOUR
    if max(times) // HOUR == hour:
        return Counter({(hour, mapping): number for mapping, number in Counter([event.mapping for event in events]).items()})
    return Counter([(event.committed_at // HOUR, event.mapping) for event in events])


def refusal(event: Event, receipt: Receipt) -> Rejection:
    """A destination's refusal of an event as a Rejection."""
    place = (event.mapping, event.position, event.committed_at)
    return Rejection(receipt.reason, *place, field=receipt.field, detail=receipt.detail, event_id=event.message_id)


def until_stored(
    store: Callable[[], T],
    *,
    abandon: Callable[[], bool],
    on_trouble: Callable[[StateUnavailable], None],
    on_recovery: Callable[[], None] = lambda: None,
) -> T | None:
    """Calls `store` until the state store takes it, and returns its result; None if `abandon()` is true after a failure."""
    failed = False
    while True:
        try:
            stored = store()
        except StateUnavailable as error:
            failed = True
            on_trouble(error)
        else:
            if failed:
                on_recovery()
            return stored
        if abandon():
            return None
        time.sleep(PAUSE)
