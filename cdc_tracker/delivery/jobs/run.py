"""A running job: its work, the outcomes of its batches, and its progress, stored together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog
from msgspec.structs import replace as struct_replace

from cdc_tracker.delivery.accounting import Tally, until_stored
from cdc_tracker.delivery.batcher import PendingBatch
from cdc_tracker.delivery.jobs.steps import Steps, Work
from cdc_tracker.errors import StateUnavailable
from cdc_tracker.model import Outcome, Receipt
from cdc_tracker.state import Job, JobState, Spec, State

log = structlog.get_logger("jobs")


@dataclass
class Run:
    """`cut_short`: the last run may have sent the next batch. `stays`: it is paused or failed, and only this batch is sent."""

    job: Job
    spec: Spec
    tally: Tally
    work: Work
    state: State
    abandon: Callable[[], bool]
    cut_short: bool
    stays: bool
    allowed: float = 0.0  # when the next batch may be sent (time.monotonic)
    trouble: str = ""
    steps: Steps = field(init=False)
    _uncertain: bool = False

    def __post_init__(self) -> None:
        self.steps = self.work.steps()

    def take(self, batch: PendingBatch, receipts: list[Receipt]) -> None:
        """Accounts for a batch and commits it. `receipts`: one final receipt for each of its events, in order."""
        self.tally.take(batch, receipts)
        refused, left_out = (
            sum(receipt.outcome is outcome for receipt in receipts) for outcome in (Outcome.REJECTED, Outcome.SUPPRESSED)
        )
        counts = self.job.counts.plus(
            matched=batch.matched,
            sent=len(receipts) - refused - left_out,
            rejected=refused + len(batch.rejections),
            withheld=len(batch.suppressions) + left_out,
        )
        self.job = replace(self.job, counts=counts)
        self.work.done(batch.upto)
        self.cut_short, self.trouble = False, ""
        self.commit()

    def explain(self, why: str) -> None:
        """Stores in the job, once, why it makes no progress."""
        if why != self.trouble:
            self.trouble = why
            self.commit()

    def commit(self, state: JobState = "running", *, sending: bool = True) -> None:
        """Commits progress, ledger and dead letters in one transaction. Retries while the state store is unavailable.

        `sending`: the next batch may be on its way from now on.
        """
        counts = struct_replace(self.job.counts, read=self.work.rows)
        job = self.work.updated(replace(self.job, state=state, trouble=self.trouble, counts=counts))
        self.job = job.marked(sending=sending)
        if until_stored(self._store, abandon=self.abandon, on_trouble=self._not_stored):
            self._uncertain = False
            self.tally.clear()

    def _store(self) -> bool:
        if not (self._uncertain and self._arrived()):
            self._uncertain = True  # after a lost connection it is not known whether the commit took place
            self.state.jobs.commit(self.job, self.tally.outcomes)
        return True

    def _arrived(self) -> bool:
        stored = self.state.jobs.get(self.job.id)
        return stored is not None and stored.progress == self.job.progress and stored.counts == self.job.counts

    def _not_stored(self, error: StateUnavailable) -> None:
        log.warning("job not stored yet", job=self.job.id, error=str(error), hint=error.hint)
