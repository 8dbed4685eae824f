"""Retries queued dead letters: maps their changes again with the current mappings, and sends the events beside the stream.

The letters of one call are stored in the state before it, and settled or parked again together after it. After a crash in
between, they are sent again under the same name, so that a destination that holds its checkpoint does not take them twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from cdc_tracker.delivery.accounting import counted_as, is_held, refusal
from cdc_tracker.delivery.batcher import split_by_limits
from cdc_tracker.delivery.dead_letters import remake
from cdc_tracker.delivery.dispatcher import Dispatcher
from cdc_tracker.delivery.jobs.steps import BYTES, EVENTS
from cdc_tracker.destinations.base import Limits
from cdc_tracker.errors import Stop
from cdc_tracker.model import START, Event, Outcome, Receipt, Rejection, Result
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import DeadLetter, State, sent_id

log = structlog.get_logger("deliver")


@dataclass
class _Call:
    """The letters of one call, by id."""

    ids: list[int] = field(default_factory=list)
    events: list[tuple[int, Event]] = field(default_factory=list)
    outcomes: dict[int, Sequence[str]] = field(default_factory=dict)
    again: dict[int, Rejection] = field(default_factory=dict)
    sent: dict[int, bytes] = field(default_factory=dict)


class QueuedLetters:
    """The queued dead letters of one destination. Used on the delivery loop's thread.

    The loop calls `look` once a second and `step` whenever the stream leaves time.
    """

    def __init__(
        self,
        state: State,
        source: str,
        name: str,
        limits: Limits,
        dispatcher: Dispatcher,
        *,
        keep_ids: bool,
        persist: Callable[[Callable[[], None]], object],
    ) -> None:
        """`keep_ids`: the destination has a sent-ledger. `persist` retries a call until the state store is available."""
        self._state, self._source, self._name = state, source, name
        self._limits = replace(limits, events=min(limits.events, EVENTS), batch_bytes=min(limits.batch_bytes, BYTES))
        self._dispatcher, self._keep_ids = dispatcher, keep_ids
        self._persist = persist
        self._due = False  # some are queued
        self._call: _Call | None = None  # that is in flight

    @property
    def active(self) -> bool:
        return self._due or self._call is not None

    def look(self) -> None:
        """Notes whether letters are queued."""
        self._due = self._due or bool(self._state.dead_letters.queued(self._source, self._name, 1, 0))

    def step(self, pipeline: Pipeline) -> bool:
        """Sends the next letters, unless some are in flight. Returns False if there is nothing to do now."""
        if self._call is not None or not self._due:
            return False
        self._dispatcher.settle(0)  # the letters noted in the state store are sent first after a kill: nothing may be uncertain
        noted = self._state.in_hand.get(self._source, self._name).letters
        letters = self._state.dead_letters.still_queued(noted)
        call = self._next(letters or self._state.dead_letters.queued(self._source, self._name, EVENTS, BYTES), pipeline)
        self._due = bool(call.ids)
        if not call.ids:
            return False
        if not letters:
            noted = call.ids
            self._state.in_hand.take_letters(self._source, self._name, noted)
        self._call = call
        done = partial(self._take, call)
        events = [event for _, event in call.events]
        # They failed before: that others pass proves nothing about them.
        self._dispatcher.submit(events, START, done, out_of_band=_named(noted), history=True, others_passed=True)
        return True

    def finish(self, pipeline: Pipeline) -> None:
        """Sends what was in flight when the last run was killed. `pipeline`: that of the last run's mappings."""
        self._due = bool(self._state.in_hand.get(self._source, self._name).letters)
        if self.step(pipeline):
            self._dispatcher.settle(0)

    def rest(self) -> None:
        """Forgets the call in flight: the destination has taken nothing of it."""
        self._call = None

    def _next(self, letters: Sequence[DeadLetter], pipeline: Pipeline) -> _Call:
        """Returns as many letters as fit into one call, with their events in order of position."""
        call = _Call()
        events: list[tuple[int, Event]] = []
        for letter in letters:
            result = _remade(letter, pipeline)
            if isinstance(result, Event):
                events.append((letter.id, result))
            elif isinstance(result, Rejection):
                call.again[letter.id] = result
            else:  # by now its mapping does not match, or the destination's settings leave it out
                call.outcomes[letter.id] = (Outcome.SUPPRESSED.value,)
        fitting = split_by_limits([event for _, event in events], self._limits)
        call.events = sorted(events[: len(fitting[0]) if fitting else 0], key=lambda pair: pair[1].position)
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
        self._persist(
            partial(self._state.dead_letters.finish_retry, self._source, self._name, call.outcomes, call.again, call.sent)
        )
        self._call = None
        log.info("dead letters retried", destination=self._name, settled=len(call.outcomes), parked_again=len(call.again))


def _remade(letter: DeadLetter, pipeline: Pipeline) -> Result | None:
    """As `remake`, but a letter that cannot be read becomes an `unreadable` rejection: it must not stop the role."""
    try:
        return remake(letter, pipeline)
    except Stop as error:
        return Rejection("unreadable", letter.mapping, letter.position, letter.committed_at, detail=str(error))


def _named(ids: Sequence[int]) -> str:
    return "dead letters " + hashlib.blake2b(repr(list(ids)).encode(), digest_size=16).hexdigest()
