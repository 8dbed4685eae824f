"""A worker that is well, as facts, and how they are changed by what befalls it."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import Any

from msgspec import convert

from cdc_tracker.journal import Waiting
from cdc_tracker.model import Position
from cdc_tracker.monitoring import DestinationHealth, Health
from cdc_tracker.state import CaptureReport, RoleRecord, SupervisorReport, Totals, process_identity, report_type
from cdc_tracker.state.tables import OUTCOMES

NOTHING = dict.fromkeys(OUTCOMES, 0)


def ago(seconds: float) -> int:
    return time.time_ns() // 1000 - int(seconds * 1e6)


def role(name: str, state: str, seconds: float = 0.5, **report: Any) -> RoleRecord:
    said = convert(report, report_type(name))
    return RoleRecord("main", name, os.getpid(), socket.gethostname(), state, said, ago(seconds), process_identity.identity())


def streaming() -> dict[str, Any]:
    """What capture reports, as of now: a test may run long after its module was loaded."""
    return {"since": ago(3600), "asked_at": ago(2), "current_at": ago(3), "moved_at": ago(1), "lag_bytes": 0, "alarms": []}


DESTINATION = DestinationHealth(
    name="events",
    position=Position(100, 0),
    rewind_to=None,
    backlog=0,
    waiting=Waiting(),
    lag=0.0,
    state="idle",
    since=ago(3600),
    trouble="",
    hint="",
    recent={},
    dead_letters={},
    totals=Totals(NOTHING, NOTHING),
)


def well(**changes: Any) -> Health:
    """Everything is well but for the changes."""
    states = {"supervisor": "running", "capture": "streaming", "deliver:events": "idle"} | changes.pop("states", {})
    capture = convert(streaming() | changes.pop("capture", {}), CaptureReport)
    destination = replace(DESTINATION, state=states["deliver:events"], **changes.pop("destination", {}))
    supervisor = convert({"since": ago(3600)} | changes.pop("supervisor", {}), SupervisorReport)
    health = Health(
        now=ago(0),
        source="main",
        roles=[role("supervisor", "running"), role("capture", "streaming"), role("deliver:events", "idle")],
        states=states,
        capture=capture,
        supervisor=supervisor,
        destinations=[destination],
        horizon=None,
        journal_end=Position(100, 0),
        free=(50_000_000_000, 100_000_000_000),
    )
    return replace(health, **changes)
