"""What a delivery says of itself: kept here, and written into the state store, where health and `status` read it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import structlog

from cdc_tracker.delivery.accounting import Accounting
from cdc_tracker.delivery.outcomes import RecentOutcomes
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, Problem, StateUnavailable
from cdc_tracker.model import Position
from cdc_tracker.state import State

EVERY = 1.0  # seconds between two reports

log = structlog.get_logger("deliver")


class DeliveryReport:
    """`state` is starting, delivering, idle, retrying, blocked or stopped, `since` when it became so (microseconds).

    `ran_dry`, `moved`: the last events were held back (dry run); the destination's checkpoint was not where it had been left.
    """

    def __init__(self, store: State, source: str, name: str) -> None:
        """Goes on from what the role said before it was started again."""
        self._store, self._source, self._name = store, source, name
        self._said = next((role.detail for role in store.reports.all(source) if role.role == f"deliver:{name}"), {})
        self._recent = RecentOutcomes(name, self._said.get("recent"))
        self._written = 0.0
        self.ran_dry, self.moved = bool(self._said.get("dry_run")), bool(self._said.get("moved"))
        self.state, self.trouble, self.hint, self.since = "starting", "", "", time.time_ns() // 1000
        self.notice = ""  # what a person should know of the destination's own checkpoint

    def delivered_until(self, position: Position) -> int:
        """The commit time of the last change before the checkpoint; 0 where the role was killed before it could say so."""
        return int(self._said.get("delivered_until", 0)) if self._said.get("position") == str(position) else 0

    def enter(self, state: str, trouble: str = "", hint: str = "") -> None:
        if state != self.state:
            self.since = time.time_ns() // 1000
        self.state, self.trouble, self.hint = state, trouble, hint

    def meet(self, error: CdcTrackerError) -> None:
        """Something that is tried again."""
        self.enter("blocked" if isinstance(error, DestinationBlocked) else "retrying", str(error), error.hint)
        log.warning("not delivered yet", destination=self._name, state=self.state, error=str(error), hint=error.hint)

    def tell(self, notice: str, **details: str) -> None:
        self.notice = notice
        log.warning(notice, name=self._name, **details)

    @property
    def due(self) -> bool:
        return time.monotonic() > self._written + EVERY

    def write(self, settlement: Accounting, *, in_flight: int, dry_run: bool, problems: Sequence[Problem]) -> None:
        self._written = time.monotonic()
        tally = settlement.tally
        detail = {
            "since": self.since,
            "position": str(settlement.position),
            "delivered_until": settlement.time,
            "totals": dict(tally.totals),
            "recent": self._recent.taken(tally.totals, tally.kinds),
            "in_flight": in_flight,
            "dry_run": dry_run or self.ran_dry,
            "trouble": self.trouble or self.notice,
            "moved": self.moved,
            "hint": self.hint,
            "problems": [str(problem) for problem in problems[:20]],
        }
        try:
            self._store.reports.save(self._source, f"deliver:{self._name}", os.getpid(), self.state, detail)
        except StateUnavailable as error:
            log.warning("no report", error=str(error))
