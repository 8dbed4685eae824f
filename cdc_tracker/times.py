"""Points in time: datetime, ISO 8601 text, and microseconds since the Unix epoch, by which they are stored and compared.

Conversions are exact: no float is involved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
"""Microseconds."""
_MICROSECOND = timedelta(microseconds=1)
_POLL = 0.1  # seconds between two calls of `stop` during a wait


def aware(moment: datetime) -> datetime:
    """The same point in time with a zone: one without is taken as UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_iso(text: str) -> datetime:
    """ISO 8601 text as a datetime in the zone that it names, else in UTC. Raises ValueError."""
    return aware(datetime.fromisoformat(text))


def to_micros(moment: datetime) -> int:
    """Microseconds since the Unix epoch; negative before it."""
    return (aware(moment) - EPOCH) // _MICROSECOND


def iso_to_micros(text: str) -> int:
    """ISO 8601 text as microseconds since the Unix epoch; without a zone it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)  # each event has one: so without the calls of the two functions above
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """A datetime in UTC. Raises OverflowError outside the years 1 to 9999."""
    return EPOCH + timedelta(microseconds=micros)


def iso(micros: int) -> str:
    """`2026-01-31T12:00:00.000001Z`, without a fraction if it is zero. Raises OverflowError outside the years 1 to 9999."""
    return from_micros(micros).replace(tzinfo=None).isoformat() + "Z"


def for_display(micros: int | None) -> str:
    """`2026-01-31 12:00:00Z`, without the fraction; `–` for 0 and None, which mean that it is unknown.

    Raises OverflowError outside the years 1 to 9999.
    """
    return f"{from_micros(micros):%Y-%m-%d %H:%M:%SZ}" if micros else "–"


def now_micros() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def wait(seconds: float, stop: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> bool:
    """Waits until `stop()` at most, and calls `meanwhile` a few times a second. Returns whether `stop()` is true.

    It polls, because whether to stop depends on signals, on a lock and on the parent process, none of which sets an event.
    """
    end = time.monotonic() + seconds
    while not (stopped := stop()) and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _POLL))
        meanwhile()
    return stopped


def now_iso() -> str:
    """The present as RFC 3339 in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
