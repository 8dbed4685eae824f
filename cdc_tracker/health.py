"""How the worker stands, from the state store and the journal alone: /healthz, /readyz, /metrics and `status` say the same."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cdc_tracker.errors import CdcTrackerError, ConfigError
from cdc_tracker.journal import Horizon, Journal
from cdc_tracker.model import Position, parse_lsn
from cdc_tracker.state import Job, RoleRecord, State

SILENT = 15.0  # seconds after which a role that does not report counts as gone
STALLED = 60.0  # seconds that a stream may stand still although the server has written WAL
BEHIND = 300.0  # seconds that a destination may be behind before the worker is not ready


@dataclass(frozen=True)
class DestinationHealth:
    name: str
    position: Position | None
    rewind_to: Position | None
    backlog: int  # bytes of WAL between the checkpoint and the journal's end
    lag: float  # seconds since the commit of the oldest change that it has not dealt with; 0 when it has everything
    state: str
    trouble: str
    dead_letters: dict[str, int]
    totals: dict[str, int]
    dry_run: bool = False


@dataclass(frozen=True)
class Health:
    """`problems`: why the worker is not ready; empty when it is."""

    source: str
    roles: list[RoleRecord]
    capture: dict[str, Any]
    destinations: list[DestinationHealth]
    horizon: Horizon | None
    journal_end: Position | None
    jobs: list[Job] = field(default_factory=list)  # that are not done or cancelled
    problems: list[str] = field(default_factory=list)


class Observer:
    """Looks at one source's state and journal. Remembers when the stream last moved."""

    def __init__(self, state: State, journal: Journal, source: str, destinations: Sequence[str]) -> None:
        self._state, self._journal = state, journal
        self._source, self._destinations = source, destinations
        self._seen, self._moved = "", time.monotonic()

    def look(self) -> Health:
        roles = self._state.roles(self._source)
        capture = next((role for role in roles if role.role == "capture"), None)
        end = self._journal.end()
        checkpoints = self._state.checkpoints(self._source)
        letters = self._state.count_dead_letters(self._source)
        totals = self._totals()
        by_role = {role.role: role for role in roles}
        destinations = []
        for name in self._destinations:
            checkpoint = checkpoints.get(name)
            role = by_role.get(f"deliver:{name}")
            position = checkpoint.position if checkpoint else None
            destinations.append(
                DestinationHealth(
                    name=name,
                    position=position,
                    rewind_to=checkpoint.rewind_to if checkpoint else None,
                    backlog=max(0, end.commit_lsn - position.commit_lsn) if end and position else 0,
                    lag=self._lag(position, end),
                    state=_state_of(role),
                    trouble=str(role.detail.get("trouble", "")) if role else "",
                    dead_letters={reason: number for (to, reason), number in letters.items() if to == name},
                    totals=totals.get(name, {}),
                    dry_run=bool(role and role.detail.get("dry_run")),
                )
            )
        detail = dict(capture.detail) if capture else {}
        jobs = self._state.jobs(self._source, unfinished=True)
        health = Health(self._source, roles, detail, destinations, self._journal.horizon(), end, jobs)
        health.problems.extend(self._problems(health, capture))
        return health

    def _lag(self, position: Position | None, end: Position | None) -> float:
        if position is None or end is None or position >= end:
            return 0.0
        waiting = self._journal.read(position, 1)
        return max(0.0, time.time() - waiting[0].first_time / 1e6) if waiting else 0.0

    def _totals(self) -> dict[str, dict[str, int]]:
        totals: dict[str, dict[str, int]] = {}
        for row in self._state.ledger(self._source):
            found = totals.setdefault(row.destination, {})
            for outcome in ("matched", "delivered", "assumed", "rejected", "suppressed", "replayed"):
                found[outcome] = found.get(outcome, 0) + getattr(row, outcome)
        return totals

    def _problems(self, health: Health, capture: RoleRecord | None) -> Iterator[str]:
        state = _state_of(capture)
        if state != "streaming":
            trouble = f": {health.capture['trouble']}" if health.capture.get("trouble") else ""
            yield f"capture is {state}{trouble}"
        elif self._stalled(health.capture):
            yield f"the stream has not moved for {time.monotonic() - self._moved:.0f} s although the server has written WAL"
        if state != "gone":
            yield from map(str, health.capture.get("alarms", ()))
        for destination in health.destinations:
            if destination.state == "gone":
                yield f"{destination.name}: nothing delivers to it"
            elif destination.state == "blocked" or destination.lag > BEHIND:
                yield f"{destination.name} is {destination.state}, {destination.lag:.0f} s behind: {destination.trouble}"

    def _stalled(self, capture: dict[str, Any]) -> bool:
        seen, server = str(capture.get("seen", "0/0")), str(capture.get("server_end", "0/0"))
        if seen != self._seen or parse_lsn(server) <= parse_lsn(seen):
            self._seen, self._moved = seen, time.monotonic()
        return time.monotonic() - self._moved > STALLED


def _state_of(role: RoleRecord | None) -> str:
    if role is None or time.time() - role.updated_at / 1e6 > SILENT:
        return "gone"
    return role.state


class _Collector:
    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def collect(self) -> Iterator[Metric]:
        health = self._observer.look()
        capture = health.capture
        yield _gauge("ready", "1 when the worker is ready", not health.problems)
        yield _gauge("source_lag_bytes", "WAL that the server has written and capture has not seen", capture.get("lag_bytes"))
        yield _gauge("source_retained_wal_bytes", "WAL that the slot keeps on the server", capture.get("retained_bytes"))
        yield _counter("frames", "Replication frames received since capture started", capture.get("frames"))
        yield _counter("changes", "Changes journaled since capture started", capture.get("changes"))
        yield _gauge("journal_bytes", "Bytes of the journal's segments", health.horizon.bytes if health.horizon else 0)
        yield _gauge("journal_segments", "Segments in the journal", health.horizon.segments if health.horizon else 0)
        yield from _roles(health.roles)
        yield from _destinations(health.destinations)
        yield _jobs(health.jobs)


def _gauge(name: str, text: str, value: float | bool | None) -> Metric:
    return GaugeMetricFamily(f"cdc_tracker_{name}", text, value=float(value or 0))


def _counter(name: str, text: str, value: float | None) -> Metric:
    return CounterMetricFamily(f"cdc_tracker_{name}", text, value=float(value or 0))


def _roles(roles: Sequence[RoleRecord]) -> Iterator[Metric]:
    up = GaugeMetricFamily("cdc_tracker_role_up", "1 when the role reported within 15 s", labels=["role"])
    for role in roles:
        up.add_metric([role.role], float(_state_of(role) not in ("gone", "stopped")))
    yield up


def _destinations(destinations: Sequence[DestinationHealth]) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "cdc_tracker_destination_lag_seconds", "Age of the oldest change not dealt with", labels=["destination"]
    )
    backlog = GaugeMetricFamily(
        "cdc_tracker_destination_backlog_bytes", "WAL between checkpoint and journal end", labels=["destination"]
    )
    state = GaugeMetricFamily("cdc_tracker_destination_state", "1 for the state that holds", labels=["destination", "state"])
    letters = GaugeMetricFamily("cdc_tracker_dead_letters", "Parked events", labels=["destination", "reason"])
    events = CounterMetricFamily("cdc_tracker_events", "Events by outcome, as in the ledger", labels=["destination", "outcome"])
    for destination in destinations:
        lag.add_metric([destination.name], destination.lag)
        backlog.add_metric([destination.name], float(destination.backlog))
        state.add_metric([destination.name, destination.state], 1.0)
        for reason, number in destination.dead_letters.items():
            letters.add_metric([destination.name, reason], float(number))
        for outcome, number in destination.totals.items():
            events.add_metric([destination.name, outcome], float(number))
    yield from (lag, backlog, state, letters, events)


def _jobs(jobs: Sequence[Job]) -> Metric:
    found = GaugeMetricFamily("cdc_tracker_jobs", "Jobs that are not done or cancelled", labels=["destination", "state"])
    for (destination, state), number in Counter((job.destination, job.state) for job in jobs).items():
        found.add_metric([destination, state], float(number))
    return found


class HealthServer:
    """/healthz (the supervisor lives), /readyz (200 or 503 with the reasons), /metrics (Prometheus). Loopback by default."""

    def __init__(self, host: str, port: int, observer: Observer, alive: Callable[[], bool]) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(observer))
        lock = threading.Lock()  # one look at a time: the stores' connections are not shared between threads

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    with lock:
                        self._answer(*self._made())
                except CdcTrackerError as error:
                    self._answer(503, "application/json", json.dumps({"ready": False, "problems": [str(error)]}).encode())

            def _made(self) -> tuple[int, str, bytes]:
                if self.path == "/metrics":
                    return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(registry)
                if self.path == "/healthz":
                    return (200 if alive() else 503), "application/json", b'{"alive":true}' if alive() else b'{"alive":false}'
                if self.path == "/readyz":
                    problems = observer.look().problems
                    body = json.dumps({"ready": not problems, "problems": problems}).encode()
                    return (503 if problems else 200), "application/json", body
                return 404, "text/plain", b"/healthz, /readyz, /metrics\n"

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Probes come every few seconds: not worth a line each."""

        try:
            self._server = ThreadingHTTPServer((host, port), Answer)
        except OSError as error:
            raise ConfigError(
                f"http.port: {host}:{port} cannot be listened on: {error.strerror or error}",
                hint="another worker or program has the port: choose another `http.port`, or null for none",
            ) from None
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
