"""The live table's numbers, as the worker reports them. The oracle does not use them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cdc_tracker.config.config import Config
from cdc_tracker.demo.shopper import Shopper
from cdc_tracker.errors import Retry
from cdc_tracker.journal import Journal
from cdc_tracker.monitoring import Health, Observer, reports
from cdc_tracker.state import SUPERVISOR, State


@dataclass(frozen=True)
class View:
    """All numbers at one moment."""

    transactions: int
    rows: int
    rolled_back: int
    kills: Sequence[str]
    health: Health
    mappings: dict[str, Counter[str]]  # mapping → destination → delivered


class Watch:
    """Reads the numbers. If a read fails, the previous numbers stay."""

    def __init__(self, config: Config, state: State, journal: Journal, shoppers: Sequence[Shopper]) -> None:
        self.kills: list[str] = []
        self._observer = Observer(state, journal, config.source.name, list(config.destinations), config.data)
        self._roles = ["capture", *(f"deliver:{name}" for name in config.destinations)]
        self._source, self._state, self._shoppers = config.source.name, state, shoppers
        self._health, self._mappings = self._read()

    def look(self) -> View:
        """The numbers of now."""
        with contextlib.suppress(Retry):  # busy: the next look is a moment away
            self._health, self._mappings = self._read()
        return View(
            transactions=sum(shopper.transactions for shopper in self._shoppers),
            rows=sum(shopper.rows for shopper in self._shoppers),
            rolled_back=sum(shopper.rolled_back for shopper in self._shoppers),
            kills=tuple(self.kills),
            health=self._health,
            mappings=self._mappings,
        )

    def _read(self) -> tuple[Health, dict[str, Counter[str]]]:
        mappings: dict[str, Counter[str]] = {}
        for row in self._state.ledger.rows(self._source):
            mappings.setdefault(row.mapping, Counter())[row.destination] += row.delivered + row.assumed
        return self._observer.look(letters=False), mappings

    def role_pids(self) -> dict[str, int]:
        """The processes of the roles, as they report them."""
        return {record.role: record.pid for record in self._state.reports.all(self._source) if record.role != SUPERVISOR}

    def running(self) -> bool:
        """Whether every role reports that it runs, and its process is alive."""
        records = [record for record in self._state.reports.all(self._source) if record.state != "starting"]
        return all(reports(records, role) for role in self._roles)
