"""Points in history as people write them: an LSN, a time, `2h` ago, or `earliest`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from cdc_tracker.model import Lsn, parse_lsn
from cdc_tracker.units import parse_duration


class Target(NamedTuple):
    """Exactly one of the two is set; neither means `earliest`."""

    lsn: Lsn | None = None
    time_us: int | None = None


EARLIEST = Target()


def parse_target(text: str, now: datetime) -> Target:
    """Raises ValueError with what may be written."""
    text = text.strip()
    if text.lower() == "earliest":
        return EARLIEST
    if "/" in text:
        return Target(lsn=_lsn(text))
    if not text.replace(".", "", 1).isdigit():  # a bare number could be meant as anything
        ago = _ago(text)
        if ago is not None:
            return Target(time_us=int((now.timestamp() - ago) * 1_000_000))
        moment = _moment(text)
        if moment is not None:
            return Target(time_us=int(moment.timestamp() * 1_000_000))
    raise ValueError(
        f"{text!r} is no point in history: write an LSN (16/B374D848), an ISO time (2026-01-31T12:00:00Z), how long ago (2h, 7d) "
        "or earliest"
    )


def parse_since(text: str, now: datetime) -> int:
    """`24h` or an ISO time → epoch hours, rounded down. Raises ValueError."""
    target = parse_target(text, now)
    if target.lsn is not None:
        raise ValueError("expected how long ago (24h, 7d) or an ISO time")
    return (target.time_us or 0) // 3_600_000_000


def _lsn(text: str) -> Lsn:
    try:
        return parse_lsn(text)
    except ValueError:
        raise ValueError(f"not an LSN: {text!r} (expected something like 16/B374D848)") from None


def _ago(text: str) -> float | None:
    try:
        return parse_duration(text)
    except ValueError:
        return None


def _moment(text: str) -> datetime | None:
    """A time without a zone is UTC, as everything that is printed here."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
