"""Outcomes of a destination's events in the last minutes, for its report; and one log line per kind of rejection."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import structlog

MINUTES = 5  # that the report covers
AGAIN = 300.0  # seconds between two log lines about the same kind of rejection

log = structlog.get_logger("deliver")


class Kind(NamedTuple):
    """The attributes by which rejections are grouped."""

    mapping: str
    reason: str
    field: str


class RecentOutcomes:
    """Counts by clock minute. They survive a restart: `before` is `recent` of the previous report."""

    def __init__(self, destination: str, before: Mapping[str, dict[str, int]]) -> None:
        self._destination = destination
        self._minutes = dict(before)
        self._totals: Counter[str] = Counter()
        self._kinds: Counter[Kind] = Counter()
        self._logged: dict[Kind, tuple[float, int]] = {}  # when, and how many there were by then

    def taken(self, totals: Mapping[str, int], kinds: Mapping[Kind, int]) -> dict[str, dict[str, int]]:
        """Takes the counts since the role started, logs what is new in them, and returns the last minutes."""
        now = int(time.time() // 60)
        minute = Counter(self._minutes.get(str(now), {}))
        minute.update({outcome: new for outcome, number in totals.items() if (new := number - self._totals[outcome])})
        minute.update({f"rejected:{kind.reason}": new for kind, number in kinds.items() if (new := number - self._kinds[kind])})
        self._totals, self._kinds = Counter(totals), Counter(kinds)
        if minute:
            self._minutes[str(now)] = dict(minute)
        self._minutes = {name: counts for name, counts in self._minutes.items() if abs(now - int(name)) <= MINUTES}
        self._log(kinds)
        return self._minutes

    def _log(self, kinds: Mapping[Kind, int]) -> None:
        now = time.monotonic()
        for kind, number in kinds.items():
            at, known = self._logged.get(kind, (now - AGAIN, 0))
            if number > known and now >= at + AGAIN:
                self._logged[kind] = (now, number)
                log.error(
                    "events are rejected and kept as dead letters",
                    destination=self._destination,
                    number=number - known,
                    **kind._asdict(),
                    hint="`cdc-tracker dead-letters list` shows them: fix the mapping, reload, and retry them",
                )


def added_up(minutes: Mapping[str, Mapping[str, int]]) -> Counter[str]:
    """The sums of a report's last MINUTES: by outcome, and `rejected:REASON`."""
    now = int(time.time() // 60)
    found: Counter[str] = Counter()
    for minute, counts in minutes.items():
        if abs(now - int(minute)) <= MINUTES:
            found.update(counts)
    return found
