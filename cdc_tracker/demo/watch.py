"""The live table's numbers, from the worker's state store and the server. The oracle does not use them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from cdc_tracker.demo.folder import SOURCE
from cdc_tracker.demo.shopper import Shopper
from cdc_tracker.demo.worker import alive
from cdc_tracker.errors import StateUnavailable
from cdc_tracker.model import Position, parse_lsn
from cdc_tracker.state import State


@dataclass(frozen=True)
class DestinationView:
    """One destination's numbers."""

    name: str
    position: Position | None
    behind: int  # bytes of WAL
    delivered: int
    state: str


@dataclass(frozen=True)
class View:
    """All numbers at one moment."""

    transactions: int
    rows: int
    rolled_back: int
    kills: Sequence[str]
    retained: int = 0  # bytes of WAL that the slot retains
    destinations: Sequence[DestinationView] = ()
    mappings: dict[str, Counter[str]] = field(default_factory=dict)  # mapping → destination → delivered


class Watch:
    """Reads the numbers. If a read fails, the previous numbers stay."""

    def __init__(
        self, state: State, server: psycopg.Connection, destinations: Sequence[str], shoppers: Sequence[Shopper]
    ) -> None:
        self.kills: list[str] = []
        self._state = state
        self._server = server
        self._destinations = destinations
        self._shoppers = shoppers
        self._seen: tuple[list[DestinationView], dict[str, Counter[str]], int] = ([], {}, 0)

    def look(self) -> View:
        """The numbers of now."""
        with contextlib.suppress(StateUnavailable):  # busy: the next look is a moment away
            self._seen = self._read()
        destinations, mappings, retained = self._seen
        return View(
            transactions=sum(shopper.transactions for shopper in self._shoppers),
            rows=sum(shopper.rows for shopper in self._shoppers),
            rolled_back=sum(shopper.rolled_back for shopper in self._shoppers),
            kills=tuple(self.kills),
            retained=retained,
            destinations=destinations,
            mappings=mappings,
        )

    def _read(self) -> tuple[list[DestinationView], dict[str, Counter[str]], int]:
        end, retained = self._wal()
        mappings: dict[str, Counter[str]] = {}
        for row in self._state.ledger.rows(SOURCE):
            mappings.setdefault(row.mapping, Counter())[row.destination] += row.delivered + row.assumed
        checkpoints = self._state.checkpoints.all(SOURCE)
        states = {role.role: role.state for role in self._state.reports.all(SOURCE)}
        destinations = []
        for name in self._destinations:
            position = checkpoints[name].position if name in checkpoints else None
            destinations.append(
                DestinationView(
                    name=name,
                    position=position,
                    behind=max(0, end - position.commit_lsn) if position else 0,
                    delivered=sum(counts[name] for counts in mappings.values()),
                    state=states.get(f"deliver:{name}", "not started"),
                )
            )
        return destinations, mappings, retained

    def _wal(self) -> tuple[int, int]:
        """The end of the WAL, and how many bytes of WAL the slot retains."""
        row = self._server.execute(
            "SELECT pg_current_wal_lsn()::text, (SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::bigint"
            " FROM pg_replication_slots)"
        ).fetchone()
        return (parse_lsn(row[0]), row[1] or 0) if row else (0, 0)

    def role_pid(self, role: str) -> int | None:
        """The process of one role, as the worker reports it."""
        return next((record.pid for record in self._state.reports.all(SOURCE) if record.role == role), None)

    def running(self) -> bool:
        """Whether every role reports that it runs, and its process is alive."""
        records = self._state.reports.all(SOURCE)
        busy = {record.role for record in records if record.state not in ("starting", "stopped") and alive(record.pid)}
        return busy >= {"capture", *(f"deliver:{name}" for name in self._destinations)}

    def role_pids(self) -> list[int]:
        """The processes of all roles."""
        return [record.pid for record in self._state.reports.all(SOURCE) if record.role != "supervisor"]
