"""Dead letters that a person has queued: made anew with the mappings as they are now, and sent as a part of a job is.

Those of one call are noted in the state before it, and settled or parked again together after it. Killed in between, the same
ones go again under the same name, so that a destination that holds its checkpoint does not take them twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from cdc_tracker.delivery.accounting import counted_as, is_held, refusal
from cdc_tracker.delivery.batching import split_by_limits
from cdc_tracker.delivery.dead_letters import remake
from cdc_tracker.delivery.dispatcher import Dispatcher
from cdc_tracker.delivery.jobs.steps import BYTES, EVENTS
from cdc_tracker.destinations.base import Limits
from cdc_tracker.errors import Stop
from cdc_tracker.model import START, Event, Outcome, Receipt, Rejection
from cdc_tracker.pipeline.pipeline import Made, Pipeline
from cdc_tracker.pipeline.shaping import Shaping
from cdc_tracker.state import DeadLetter, State, sent_id

log = structlog.get_logger("deliver")


@dataclass
class _Call:
    """Letters that go together, by id."""

    ids: list[int] = field(default_factory=list)
    events: list[tuple[int, Event]] = field(default_factory=list)
    outcomes: dict[int, Sequence[str]] = field(default_factory=dict)
    again: dict[int, Rejection] = field(default_factory=dict)
    sent: dict[int, bytes] = field(default_factory=dict)


class QueuedLetters:
    """Those of one destination. `look` once a second, `step` whenever there is time, on the delivery loop's thread."""

    def __init__(
        self,
        state: State,
        source: str,
        name: str,
        limits: Limits,
        shaping: Shaping | None,
        dispatcher: Dispatcher,
        *,
        keep_ids: bool,
        persist: Callable[[Callable[[], None]], object],
    ) -> None:
        """`keep_ids`: the destination has a sent-ledger. `persist` calls until the state store is there."""
        self._state, self._source, self._name = state, source, name
        self._limits = replace(limits, events=min(limits.events, EVENTS), batch_bytes=min(limits.batch_bytes, BYTES))
        self._shaping, self._dispatcher, self._keep_ids = shaping, dispatcher, keep_ids
        self._persist = persist
        self._due = False  # there are some
        self._call: _Call | None = None  # that is in flight

    @property
    def active(self) -> bool:
        return self._due or self._call is not None

    def look(self) -> None:
        self._due = self._due or bool(self._state.queued(self._source, self._name, 1, 0))

    def step(self, translator: Pipeline) -> bool:
        """Send the next ones, unless some are in flight. False where there is nothing to do now."""
        if self._call is not None or not self._due:
            return False
        noted = self._state.in_hand(self._source, self._name).letters
        letters = self._state.letters_in_hand(noted)
        call = self._made(letters or self._state.queued(self._source, self._name, EVENTS, BYTES), translator)
        self._due = bool(call.ids)
        if not call.ids:
            return False
        if not letters:
            noted = call.ids
            self._state.take_letters(self._source, self._name, noted)
        self._call = call
        done = partial(self._take, call)
        events = [event for _, event in call.events]
        # They failed before: there is nothing to be learned from others.
        self._dispatcher.submit(events, START, done, out_of_band=_named(noted), history=True, vouched=True)
        return True

    def finish(self, translator: Pipeline) -> None:
        """Send what was in flight when the last run was killed, by the mappings that it was made with."""
        self._due = bool(self._state.in_hand(self._source, self._name).letters)
        if self.step(translator):
            self._dispatcher.settle(0)

    def rest(self) -> None:
        """Nothing of what is in flight was taken."""
        self._call = None

    def _made(self, letters: Sequence[DeadLetter], translator: Pipeline) -> _Call:
        """As many as fit into one call, the events in their order."""
        call = _Call()
        made: list[tuple[int, Event]] = []
        for letter in letters:
            found = _remade(letter, translator)
            if isinstance(found, Event):
                found = found if self._shaping is None else self._shaping(found)
            if isinstance(found, Event):
                made.append((letter.id, found))
            elif isinstance(found, Rejection):
                call.again[letter.id] = found
            else:  # its mapping, or the destination's settings, leave it out by now
                call.outcomes[letter.id] = (Outcome.SUPPRESSED.value,)
        fitting = split_by_limits([event for _, event in made], self._limits)
        call.events = sorted(made[: len(fitting[0]) if fitting else 0], key=lambda pair: pair[1].position)
        call.ids = sorted([*call.again, *call.outcomes, *(letter for letter, _ in call.events)])
        return call

    def _take(self, call: _Call, receipts: list[Receipt]) -> None:
        for (letter, event), receipt in zip(call.events, receipts, strict=True):
            if receipt.outcome is Outcome.REJECTED:
                call.again[letter] = refusal(event, receipt)
            else:
                call.outcomes[letter] = counted_as(receipt)
            if self._keep_ids and is_held(receipt):
                call.sent[letter] = sent_id(event.message_id)
        self._persist(partial(self._state.finish_retry, self._source, self._name, call.outcomes, call.again, call.sent))
        self._call = None
        log.info("dead letters were sent again", destination=self._name, settled=len(call.outcomes), parked_again=len(call.again))


def _remade(letter: DeadLetter, translator: Pipeline) -> Made | None:
    """One that cannot be read any more must not end the role."""
    try:
        return remake(letter, translator)
    except Stop as error:
        return Rejection("unreadable", letter.mapping, letter.position, letter.committed_at, detail=str(error))


def _named(ids: Sequence[int]) -> str:
    return "dead letters " + hashlib.blake2b(repr(list(ids)).encode(), digest_size=16).hexdigest()
