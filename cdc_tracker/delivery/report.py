"""The report of a delivery: written into the state store, from which health and `status` read it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import structlog

from cdc_tracker.delivery.accounting import Accounting
from cdc_tracker.delivery.outcomes import RecentOutcomes
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, Problem, StateUnavailable
from cdc_tracker.model import Position
from cdc_tracker.state import DeliveryReport, State
from cdc_tracker.times import now_micros

EVERY = 1.0  # seconds between two reports
PATIENCE = 30.0  # seconds without an answer to a call, after which the report says so
UNANSWERED = (
    "nothing is lost: the call is waited for. If it stays so, the destination or a proxy hangs: look there, and at the `timeout` "
    "of its settings; a restart of the worker sends the events again"
)

log = structlog.get_logger("deliver")


class DeliveryReporter:
    """`state`: starting, delivering, idle, retrying, blocked or stopped; `since`: its begin, microseconds since the Unix epoch.

    `ran_dry`: the last events were suppressed by a dry run. `moved`: the destination's checkpoint was not the one stored last.
    `notice`: about the destination's checkpoint, for the operator.
    """

    def __init__(self, store: State, source: str, name: str) -> None:
        """Continues the report of the role's process before this one."""
        self._store, self._source, self._name = store, source, name
        self._before = store.reports.last(source, f"deliver:{name}", DeliveryReport)
        self._recent = RecentOutcomes(name, self._before.recent)
        self._written = 0.0
        self.ran_dry, self.moved = self._before.dry_run, self._before.moved
        self.state, self.trouble, self.hint, self.notice, self.since = "starting", "", "", "", now_micros()

    def delivered_until(self, position: Position) -> int:
        """The commit time of the last change before the checkpoint, microseconds; 0 if the last report is of another position."""
        return self._before.delivered_until if self._before.position == str(position) else 0

    def enter(self, state: str, trouble: str = "", hint: str = "") -> None:
        if state != self.state:
            self.since = now_micros()
        self.state, self.trouble, self.hint = state, trouble, hint

    def meet(self, error: CdcTrackerError) -> None:
        """Reports an error after which the work is tried again."""
        self.enter("blocked" if isinstance(error, DestinationBlocked) else "retrying", str(error), error.hint)
        log.warning("not delivered yet", destination=self._name, state=self.state, error=str(error), hint=error.hint)

    def waits_for_answer(self, seconds: float) -> None:
        """A call is in flight for so long: neither its success nor its failure would be reported yet."""
        if seconds > PATIENCE and not self.trouble:
            self.enter("delivering", "it has been given events, and does not answer", UNANSWERED)
            log.warning("not answered yet", destination=self._name, hint=UNANSWERED)

    def tell(self, notice: str, **details: str) -> None:
        self.notice = notice
        log.warning(notice, name=self._name, **details)

    @property
    def due(self) -> bool:
        return time.monotonic() > self._written + EVERY

    def write(self, accounting: Accounting, *, in_flight: int, dry_run: bool, problems: Sequence[Problem]) -> None:
        self._written = time.monotonic()
        tally = accounting.tally
        report = DeliveryReport(
            since=self.since,
            trouble=self.trouble or self.notice,
            hint=self.hint,
            position=str(accounting.position),
            delivered_until=accounting.time,
            totals=dict(tally.totals),
            recent=self._recent.taken(tally.totals, tally.kinds),
            in_flight=in_flight,
            dry_run=dry_run or self.ran_dry,
            moved=self.moved,
            problems=[str(problem) for problem in problems[:20]],
        )
        try:
            self._store.reports.save(self._source, f"deliver:{self._name}", os.getpid(), self.state, report)
        except StateUnavailable as error:
            log.warning("the report could not be stored", error=str(error))
