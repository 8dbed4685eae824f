"""Dead letters that a person has queued: made anew with the mappings as they are now, and sent beside the stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from cdc_tracker.dead_letters import remake
from cdc_tracker.destinations.base import Destination
from cdc_tracker.destinations.send import send
from cdc_tracker.destinations.shaping import Shaping
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import Batch, Event, Outcome, Position, Rejection
from cdc_tracker.settlement import refusal
from cdc_tracker.state import DeadLetter, State, sent_id
from cdc_tracker.translate import Translator

AT_ONCE = 100

log = structlog.get_logger("deliver")


@dataclass(frozen=True)
class QueuedLetters:
    """Those of one destination. Nothing else may be in flight to it meanwhile."""

    state: State
    source: str
    name: str
    destination: Destination
    shaping: Shaping | None
    keep_ids: bool  # the destination has a sent-ledger
    stop: Callable[[], bool]
    abandon: Callable[[], bool]
    on_trouble: Callable[[CdcTrackerError], None]

    def send(self, translator: Translator, position: Position) -> None:
        """Some of them. `position`: the checkpoint, which stays where it is."""
        for letter in self.state.queued(self.source, self.name, limit=AT_ONCE):
            if self.stop():
                return
            self._send(letter, translator, position)

    def _send(self, letter: DeadLetter, translator: Translator, position: Position) -> None:
        made = remake(letter, translator)
        outcome, sent = "suppressed", b""  # its mapping, or the destination's settings, leave it out by now
        if isinstance(made, Event) and self.shaping is not None:
            made = self.shaping(made)
        if isinstance(made, Event):
            batch = Batch([made], position, aside=f"dead letter {letter.id}")
            receipt = send(self.destination, batch, stop=self.abandon, on_trouble=self.on_trouble, vouched=True)[0]
            outcome, sent = receipt.outcome.value, sent_id(made.message_id)
            made = refusal(made, receipt) if receipt.outcome is Outcome.REJECTED else None
        if isinstance(made, Rejection):
            self.state.repark(letter.id, made)
            return
        counts = {(letter.hour, letter.mapping, outcome): 1} if letter.counted else {}
        ids = [sent] if sent and self.keep_ids and outcome != Outcome.SUPPRESSED else []
        self.state.commit(self.source, self.name, position, counts, settled=[letter.id], sent=ids)
        log.info("dead letter settled", destination=self.name, id=letter.id, outcome=outcome)
