"""The metrics, in Prometheus' text format. An unknown value has no sample, so that it cannot look well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.monitoring.facts import DestinationHealth, Health, Observer
from cdc_tracker.state import Job, RoleEnds

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(observer: Observer) -> bytes:
    """All metrics; if a store cannot be read, only that, and that the worker is not ready."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(observer))
    return generate_latest(registry)


class _Collector:
    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def collect(self) -> Iterator[Metric]:
        try:
            health, unmatched = self._observer.look(), self._observer.unmatched()
        except CdcTrackerError:
            yield from _whole(ready=False, readable=False)
            return
        yield from _whole(ready=not health.problems, readable=True)
        yield from _source(health)
        yield _gauge("journal_bytes", "Bytes of the journal's segments", health.horizon.bytes if health.horizon else 0)
        yield _gauge("journal_segments", "Segments in the journal", health.horizon.segments if health.horizon else 0)
        yield _gauge("data_dir_free_bytes", "Bytes left on the disk of data_dir", health.free[0] if health.free else None)
        yield from _roles(health)
        yield from _findings(health)
        yield from _destinations(health.destinations)
        yield _jobs(health.jobs)
        yield _unmatched(unmatched)


def _whole(*, ready: bool, readable: bool) -> Iterator[Metric]:
    yield _gauge("ready", "1 when the worker is ready", ready)
    yield _gauge("stores_up", "1 when state store and journal can be read", readable)


def _source(health: Health) -> Iterator[Metric]:
    """Yields capture's metrics; those of the server have values only while it streams."""
    report, streams = health.capture, health.states.get("capture") == "streaming"
    yield _gauge("source_up", "1 when capture streams from the server", streams)
    current = health.current_at
    text = "Seconds since the journal last held all that the server had committed"
    yield _gauge("source_lag_seconds", text, max(0.0, (health.now - current) / 1e6) if current else None)
    lag, retained = (report.lag_bytes, report.retained_bytes) if streams else (None, None)
    yield _gauge("source_lag_bytes", "WAL that the server has written and capture has not seen", lag)
    yield _gauge("source_retained_wal_bytes", "WAL that the slot keeps on the server", retained)
    yield _counter("frames", "Replication frames received since capture started", report.frames)
    yield _counter("changes", "Changes journaled since capture started", report.changes)


def _gauge(name: str, text: str, value: float | bool | None) -> Metric:
    found = GaugeMetricFamily(f"cdc_tracker_{name}", text)
    if value is not None:
        found.add_metric([], float(value))
    return found


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"cdc_tracker_{name}", text, value=float(value))


def _roles(health: Health) -> Iterable[Metric]:
    up = GaugeMetricFamily("cdc_tracker_role_up", "1 when the role runs and reports", labels=["role"])
    ends = CounterMetricFamily("cdc_tracker_role_ends", "How often a role has ended without being asked to", labels=["role"])
    for name, state in health.states.items():
        up.add_metric([name], float(state not in ("gone", "silent", "stopped", "failed")))
    if known := health.supervisor.roles:
        for name, role in {"supervisor": RoleEnds(), **known}.items():  # it reports on itself only after it has ended once
            ends.add_metric([name], float(role.ends_ever))
    return up, ends


def _findings(health: Health) -> Iterator[Metric]:
    found = GaugeMetricFamily("cdc_tracker_findings", "Findings, as `status` shows them", labels=["severity"])
    numbers = Counter(finding.severity for finding in health.findings)
    for severity in ("error", "warning"):
        found.add_metric([severity], float(numbers[severity]))
    yield found


def _destinations(destinations: Sequence[DestinationHealth]) -> Iterable[Metric]:
    named = ["destination"]
    lag = GaugeMetricFamily("cdc_tracker_destination_lag_seconds", "Age of the oldest change not dealt with", labels=named)
    backlog = GaugeMetricFamily("cdc_tracker_destination_backlog_bytes", "WAL between checkpoint and journal end", labels=named)
    waiting = GaugeMetricFamily(
        "cdc_tracker_destination_waiting_changes",
        "Changes in the journal after its checkpoint, 10,000 segments at most",
        labels=named,
    )
    state = GaugeMetricFamily("cdc_tracker_destination_state", "1 for the present state", labels=["destination", "state"])
    letters = GaugeMetricFamily(
        "cdc_tracker_dead_letters", "Events that are parked or queued now", labels=["destination", "reason"]
    )
    events = CounterMetricFamily("cdc_tracker_events", "Events by outcome", labels=["destination", "outcome"])
    for each in destinations:
        if each.position is not None:
            lag.add_metric([each.name], each.lag)
            backlog.add_metric([each.name], float(each.backlog))
            waiting.add_metric([each.name], float(each.waiting.changes))
        state.add_metric([each.name, each.state], 1.0)
        for reason, number in each.dead_letters.items():
            letters.add_metric([each.name, reason], float(number))
        for outcome, number in each.totals.ever.items():
            events.add_metric([each.name, outcome], float(number))
    return lag, backlog, waiting, state, letters, events


def _jobs(jobs: Sequence[Job]) -> Metric:
    found = GaugeMetricFamily("cdc_tracker_jobs", "Jobs that are not done or cancelled", labels=["destination", "state"])
    for (destination, state), number in Counter((job.destination, job.state) for job in jobs).items():
        found.add_metric([destination, state], float(number))
    return found


def _unmatched(unmatched: Mapping[str, int]) -> Metric:
    text = "Mappings in force that no change has matched since they were loaded"
    found = GaugeMetricFamily("cdc_tracker_unmatched_mappings", text, labels=["destination"])
    for destination, number in unmatched.items():
        found.add_metric([destination], float(number))
    return found
