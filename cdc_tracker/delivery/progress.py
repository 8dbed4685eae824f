"""How far the stream of one destination is: read, dealt with, committed; and how that begins, after a restart or a rewind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import structlog

from cdc_tracker.delivery.accounting import Accounting, until_stored
from cdc_tracker.delivery.held_checkpoint import HeldCheckpoint
from cdc_tracker.delivery.mapping_versions import MappingVersions
from cdc_tracker.delivery.reconciliation import Reconciliation
from cdc_tracker.delivery.report import DeliveryReporter
from cdc_tracker.delivery.sender import send
from cdc_tracker.destinations.base import Cursor, Destination, HoldsCheckpoint, KeyedCheckpoint
from cdc_tracker.errors import CdcTrackerError, StateUnavailable
from cdc_tracker.journal import Journal
from cdc_tracker.model import START, Position, Result, Segment
from cdc_tracker.state import Checkpoint, State

T = TypeVar("T")

log = structlog.get_logger("deliver")


class Progress:
    """`read`: the stream was read up to here. `held`: the destination has the events up to here, accounted for or not.

    `only_missing`: after a rewind that asked for it, events that the sent-ledger has are suppressed.
    No method may be called while a call is in flight, but for `commit`, `persist` and `results`.
    """

    def __init__(
        self,
        *,
        state: State,
        journal: Journal,
        cursor: Cursor,
        destination: Destination,
        mappings: MappingVersions,
        report: DeliveryReporter,
        keep_ids: bool,
        stop: Callable[[], bool],
        abandon: Callable[[], bool],
        on_trouble: Callable[[CdcTrackerError], None],
        waiting: Callable[[], None],
    ) -> None:
        """Begins at the checkpoint in the state store. Raises StateUnavailable if it cannot be read."""
        self._state, self._source, self._name = state, cursor.source, cursor.name
        self._mappings, self._report = mappings, report
        self._abandon, self._on_trouble = abandon, on_trouble
        self._reconciliation = Reconciliation(state, journal, cursor.source, cursor.name, lambda: mappings.of_last_run)
        checkpoint = self._checkpoint()
        self.accounting = Accounting(state, cursor.source, cursor.name, checkpoint, keep_ids=keep_ids)
        self.accounting.time = report.delivered_until(checkpoint.position)
        self.read, self.held, self.only_missing = self.accounting.position, START, checkpoint.only_missing
        if isinstance(destination, KeyedCheckpoint):
            destination.bind(cursor, lambda held: self._reconciliation.owns(held, self.accounting.position))
        store = partial(send, destination, stop=stop, on_trouble=on_trouble)
        self.holder = (
            HeldCheckpoint(destination, cursor.name, report, store, stop, on_trouble, waiting)
            if isinstance(destination, HoldsCheckpoint)
            else None
        )

    def start(self) -> None:
        """Finds where to begin: a requested rewind, or the checkpoint that the destination holds, or else the state's."""
        self._mappings.recall(self._state.in_hand.get(self._source, self._name).mappings)
        rewind_to = self._checkpoint().rewind_to
        if rewind_to is not None:
            self.rewind(rewind_to)
        elif self.holder is not None:
            self._reconcile_checkpoint(self.holder)

    def _checkpoint(self) -> Checkpoint:
        found = self._state.checkpoints.get(self._source, self._name)
        if found is None:
            raise StateUnavailable(f"the checkpoint of {self._name} cannot be read")
        return found

    def _reconcile_checkpoint(self, holder: HeldCheckpoint) -> None:
        """Brings the checkpoint that the destination holds and the one in the state store together."""
        held, ours, report = holder.position(), self.accounting.position, self._report
        found = self._reconciliation.decide(held, ours, dry=report.ran_dry, moved=report.moved)
        if found.notice:
            report.tell(found.notice, held=str(held), ours=str(ours), hint=found.hint)
        if found.held is not None and found.store:
            holder.store(found.held)
        if found.held is not None and found.rewind:
            self._state.checkpoints.request_rewind(self._source, self._name, found.held)
            self.rewind(found.held)
        self.held = max(found.held or START, START)

    def rewind(self, to: Position) -> None:
        """Carries out the rewind that the state store has a request for. Everything that was sent is committed."""
        if self.holder is not None:
            self.holder.rewind(to)
        self._state.checkpoints.apply_rewind(self._source, self._name)
        checkpoint = self._checkpoint()
        self.accounting.begin(checkpoint)
        self.read, self.held, self.only_missing = self.accounting.position, START, checkpoint.only_missing
        log.info("rewound", destination=self._name, position=str(to))

    def rewind_if_requested(self) -> None:
        """As `rewind`, if there is a request."""
        checkpoint = self._state.checkpoints.get(self._source, self._name)
        if checkpoint is not None and checkpoint.rewind_to is not None:
            self.rewind(checkpoint.rewind_to)

    @property
    def unrecorded(self) -> bool:
        """The current mappings have to be recorded before anything more is sent."""
        return not self._mappings.recorded and self.read >= self.held

    def record_mappings(self) -> None:
        """Stores the texts of the current mappings, if they are not yet. Everything that was sent is committed."""
        if not self.unrecorded:
            return
        if self.holder is not None and self._mappings.any_recorded:
            # Changes without an event by the old mappings must not look lost by others, nor after a retry of dead letters.
            held = self.holder.position()
            if held is not None and held < self.accounting.position:
                self.holder.store(self.accounting.position)
        current = self._mappings.current
        self.persist(partial(self._state.in_hand.take_mappings, self._source, self._name, current.texts))
        self.persist(partial(self._state.mappings.load, self._source, self._name, current.keys, self.accounting.position))
        self._mappings.record()

    def results(self, segment: Segment, after: Position) -> list[Result]:
        """Results of the changes after `after`, by the mappings that apply to each."""
        return self._mappings.results(segment, after, self.held)

    def commit(self) -> bool:
        """Stores checkpoint, ledger and dead letters in one transaction. Returns whether a rewind was requested."""
        rewind = None
        while self.accounting.pending:
            rewind = self.persist(self.accounting.commit)
            if self.accounting.pending and self._abandon():
                return False
        return rewind is not None

    def persist(self, store: Callable[[], T]) -> T | None:
        """See until_stored. A trouble of the state store is over when it is available, also if no event follows."""
        recovered = partial(self._report.enter, "delivering")
        return until_stored(store, abandon=self._abandon, on_trouble=self._on_trouble, on_recovery=recovered)
