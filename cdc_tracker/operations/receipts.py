"""What became of an event or rejection at each destination, as far as the state store knows."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from typing import Literal, NamedTuple

from cdc_tracker.config.config import Config
from cdc_tracker.mapping import Mapping, Mappings
from cdc_tracker.model import START, Event, Rejection, Result, Segment, Suppression
from cdc_tracker.operations.masking import Masks
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import HOUR, Checkpoint, DeadLetter, SourceRecord, State, sent_id
from cdc_tracker.worker.assemble import build_pipeline

Stage = Literal["sent", "passed", "pending", "parked", "suppressed", "settled", "not_counted", "not_for_it", "raw"]


class Fate(NamedTuple):
    """What became of one event at one destination. `reason`: a stable code, of a suppression or a dead letter.

    - `sent`: its sent-ledger has the event. `passed`: its checkpoint has passed the event, and the ledger counted it.
    - `pending`: its checkpoint has not passed the change. `parked`: there is a dead letter.
    - `suppressed`: its settings leave the event out. `not_for_it`: the mapping's `destinations` do not name it.
    - `settled`: the event is rejected now, its checkpoint has passed it, and there is no dead letter (any more).
    - `not_counted`: its checkpoint has passed the change, before the mapping was first loaded there, or without an event of the
      mapping in that hour's ledger: the destination or the mapping was added later.
    - `raw`: it gets changes as they are, and no mapped events.
    """

    destination: str
    stage: Stage
    reason: str = ""
    detail: str = ""


class Fates:
    """Looks up fates, under the checkpoints as they were when it was made."""

    def __init__(self, config: Config, state: State, record: SourceRecord, mappings: Mappings, masks: Masks) -> None:
        self._config, self._state, self._record = config, state, record
        self._mappings, self._masks = mappings, masks
        self._checkpoints: Dict[str, Checkpoint] = state.checkpoints.all(record.name)
        self._loaded = {(each.destination, each.mapping): each.after for each in state.mappings.all(record.name)}
        self._pipelines: dict[str, Pipeline] = {}

    def of(self, mapping: Mapping, result: Event | Rejection, segment: Segment) -> list[Fate]:
        """Returns the fates of what a mapping makes of one change, in the order of the configuration.

        `result`: before any destination's settings. `segment`: contains the change.
        """
        return [self._at(name, mapping, result, segment) for name in self._config.destinations]

    def _at(self, name: str, mapping: Mapping, result: Event | Rejection, segment: Segment) -> Fate:
        settings = self._config.destinations[name]
        if settings.requirements.raw:
            return Fate(name, "raw")
        if not mapping.goes_to(name):
            return Fate(name, "not_for_it")
        if letter := self._letter(name, result):
            hidden = self._masks.hides(mapping.key, letter.field)  # it may quote the value
            place = f"{letter.field}: " if letter.field else ""
            text = f"dead letter {letter.id} ({letter.state}): {place}{'' if hidden else letter.detail}"
            return Fate(name, "parked", letter.reason, text.rstrip(": "))
        routed = self._routed(name, result, segment)
        if isinstance(routed, Suppression):
            return Fate(name, "suppressed", routed.reason)
        return self._by_checkpoint(name, mapping.key, result)

    def _by_checkpoint(self, name: str, key: str, result: Event | Rejection) -> Fate:
        checkpoint, source = self._checkpoints.get(name), self._record.name
        if isinstance(result, Event):
            id_ = sent_id(result.message_id)
            if id_ in self._state.sent_ids.find(source, name, [id_]):
                return Fate(name, "sent")
        if checkpoint is None:
            return Fate(name, "pending", detail="it has no checkpoint yet")
        if result.position > checkpoint.position:
            return Fate(name, "pending", detail=f"its checkpoint is {checkpoint.position}")
        again = checkpoint.rewind_to is not None and checkpoint.rewind_to < result.position
        detail = "it is sent again: a rewind was requested" if again else ""
        return self._passed(name, key, result, detail)

    def _passed(self, name: str, key: str, result: Event | Rejection, detail: str) -> Fate:
        """Of what the destination's checkpoint has passed."""
        hour = result.committed_at // HOUR
        rows = self._state.ledger.rows(self._record.name, destination=name, mapping=key, since_hour=hour)
        counted = bool(rows) and rows[0].hour == hour
        if not counted or (result.position <= self._loaded.get((name, key), START) and not rows[0].replayed):
            return Fate(name, "not_counted", detail=detail)
        return Fate(name, "passed" if isinstance(result, Event) else "settled", detail=detail)

    def _letter(self, name: str, result: Result) -> DeadLetter | None:
        place = result.position
        found = self._state.dead_letters.between(self._record.name, name, place, place)
        return next((letter for letter in found if letter.mapping == result.mapping), None)

    def _routed(self, name: str, result: Result, segment: Segment) -> Result | None:
        """Returns what the destination's own pipeline makes of the change."""
        if name not in self._pipelines:
            self._pipelines[name] = build_pipeline(self._config, self._record, name, self._mappings)
        found = self._pipelines[name].results(segment, result.position.before, result.position)
        return next((each for each in found if each.mapping == result.mapping), None)
