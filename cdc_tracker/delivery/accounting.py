"""Receipts → checkpoint, ledger counts, dead letters and sent ids of one destination, committed together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cdc_tracker.delivery.batcher import PendingBatch
from cdc_tracker.delivery.dead_letters import park
from cdc_tracker.delivery.outcomes import Kind
from cdc_tracker.errors import StateUnavailable
from cdc_tracker.model import DELIVERED, REPEATED, Event, Outcome, Position, Receipt, Rejection, Suppression
from cdc_tracker.state import HOUR, Checkpoint, DeadLetter, State, sent_id


class Tally:
    """What parcels came to and is not committed yet.

    Positions up to `high` were dealt with before: what comes of them counts as replayed, and settles the dead letters that it
    had left. `keep_ids`: the destination has a sent-ledger.
    """

    def __init__(self, state: State, source: str, name: str, high: Position, *, keep_ids: bool) -> None:
        self._state, self._source, self._name = state, source, name
        self._keep_ids = keep_ids
        self.high = high
        self.totals: Counter[str] = Counter()  # outcomes since the start
        self.kinds: Counter[Kind] = Counter()  # of rejections since the start
        self.counts: Counter[tuple[int, str, str]] = Counter()
        self.letters: list[DeadLetter] = []
        self.settled: list[int] = []
        self.sent: list[bytes] = []

    @property
    def pending(self) -> bool:
        return bool(self.counts) or bool(self.letters) or bool(self.settled)

    def take(self, parcel: PendingBatch, receipts: Sequence[Receipt]) -> None:
        """One final receipt for each of the parcel's events, in order."""
        refused = _refused(parcel.events, receipts)
        self._tally(parcel.events, receipts)
        self._unpark(parcel.events, receipts)
        for rejection in parcel.rejections:
            self._count(rejection, ("rejected",))
        self.kinds.update(Kind(each.mapping, each.reason, each.field) for each in (*parcel.rejections, *refused))
        for suppression in parcel.suppressions:
            self._suppress(suppression)
        self.letters += park(self._source, self._name, parcel.segments, [*parcel.rejections, *refused], self.high)
        if self._keep_ids:
            pairs = zip(parcel.events, receipts, strict=True)
            self.sent += [sent_id(event.message_id) for event, receipt in pairs if is_held(receipt)]

    def clear(self) -> None:
        """What was gathered is committed."""
        self.counts.clear()
        self.letters.clear()
        self.settled.clear()
        self.sent.clear()

    def _tally(self, events: Sequence[Event], receipts: Sequence[Receipt]) -> None:
        """Count. The usual case, all the same and all new, goes by groups: this is once an event."""
        if events and receipts.count(receipts[0]) == len(receipts) and events[0].position > self.high:
            outcomes = counted_as(receipts[0])
            for (hour, mapping), number in _by_hour_and_mapping(events).items():
                for outcome in ("matched", *outcomes):
                    self.counts[hour, mapping, outcome] += number
            self.totals.update(dict.fromkeys(outcomes, len(events)))
            return
        for event, receipt in zip(events, receipts, strict=True):
            self._count(event, counted_as(receipt))

    def _count(self, made: Event | Rejection, outcomes: Sequence[str]) -> None:
        hour = made.committed_at // HOUR
        self.totals.update(outcomes)
        if made.position <= self.high:  # history that goes again after a rewind
            self.counts[hour, made.mapping, "replayed"] += 1
        else:
            for outcome in ("matched", *outcomes):
                self.counts[hour, made.mapping, outcome] += 1

    def _suppress(self, suppression: Suppression) -> None:
        """Count an event that was left out; at or before `high` it was counted when its position was first dealt with."""
        self.totals["withheld"] += 1
        if suppression.position > self.high:
            hour = suppression.event.committed_at // HOUR
            for outcome in ("matched", "suppressed"):
                self.counts[hour, suppression.mapping, outcome] += 1

    def _unpark(self, events: Sequence[Event], receipts: Sequence[Receipt]) -> None:
        """Events that were parked before, and went through now that history goes again: their dead letters are settled."""
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
    """The live stream's: `position` is what was dealt with, `stored` what is committed of it."""

    def __init__(self, state: State, source: str, name: str, checkpoint: Checkpoint, *, keep_ids: bool = False) -> None:
        self._state, self._source, self._name = state, source, name
        self.tally = Tally(state, source, name, checkpoint.high, keep_ids=keep_ids)
        self.time = 0  # commit time of the last change dealt with, microseconds since the Unix epoch
        self._uncertain = False
        self.begin(checkpoint)

    def begin(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, with nothing gathered."""
        self.position = self.stored = checkpoint.position
        self.tally.high = checkpoint.high

    @property
    def high(self) -> Position:
        return self.tally.high

    @property
    def pending(self) -> bool:
        return self.position != self.stored or self.tally.pending

    @property
    def parked(self) -> bool:
        """There are dead letters to commit."""
        return bool(self.tally.letters)

    def take(self, parcel: PendingBatch, receipts: Sequence[Receipt]) -> None:
        """One final receipt for each of the parcel's events, in order."""
        self.tally.take(parcel, receipts)
        self.position = parcel.upto
        self.time = parcel.time or self.time

    def commit(self) -> Position | None:
        """One transaction. The target of a rewind that was asked for, or None. Raises StateUnavailable; call again then."""
        tally = self.tally
        if self._uncertain and self._arrived():
            rewind = None
        else:
            self._uncertain = True  # a connection lost in a commit does not tell whether it took place
            rewind = self._state.checkpoints.commit(
                self._source, self._name, self.position, tally.counts, tally.letters, tally.settled, tally.sent
            )
        self._uncertain = False
        self.stored = self.position
        tally.high = max(tally.high, self.position)
        tally.clear()
        return rewind

    def _arrived(self) -> bool:
        checkpoint = self._state.checkpoints.get(self._source, self._name)
        if checkpoint is None:
            raise StateUnavailable("the checkpoint cannot be read")
        return checkpoint.position == self.position != self.stored


def counted_as(receipt: Receipt) -> Sequence[str]:
    """The ledger's outcomes of it."""
    return ("suppressed", "repeated") if receipt == REPEATED else (receipt.outcome.value,)


def is_held(receipt: Receipt) -> bool:
    """The destination has the event."""
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
    """A destination's refusal of an event, as a rejection."""
    return Rejection(
        reason=receipt.reason,
        mapping=event.mapping,
        position=event.position,
        committed_at=event.committed_at,
        field=receipt.field,
        detail=receipt.detail,
        event_id=event.message_id,
    )
