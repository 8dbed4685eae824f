"""Points in history: as users write them (an LSN, a time, `2h` ago, `earliest`), and their positions in the journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from cdc_tracker.errors import Stop
from cdc_tracker.journal import Horizon, Journal
from cdc_tracker.model import Change, Lsn, Position, Segment, format_lsn, parse_lsn
from cdc_tracker.pipeline import decoder
from cdc_tracker.times import for_display, iso_to_micros
from cdc_tracker.units import parse_duration


class Target(NamedTuple):
    """A point in history: an LSN, a time in microseconds since the Unix epoch, or with neither `earliest`."""

    lsn: Lsn | None = None
    time_us: int | None = None


EARLIEST = Target()


def parse_target(text: str, now: datetime) -> Target:
    """Parses a point in history; `now` is what `2h` counts from. Raises ValueError that names the possible forms."""
    text = text.strip()
    if text.lower() == "earliest":
        return EARLIEST
    if "/" in text:
        return Target(lsn=parse_lsn(text))
    if not text.replace(".", "", 1).isdigit():  # a bare number is ambiguous
        with suppress(ValueError):
            return Target(time_us=int((now.timestamp() - parse_duration(text)) * 1_000_000))
        with suppress(ValueError):
            return Target(time_us=iso_to_micros(text))
    raise ValueError(
        f"{text!r} is not a point in history: write an LSN (16/B374D848), an ISO time (2026-01-31T12:00:00Z), how long ago "
        "(2h, 7d) or earliest"
    )


def parse_since(text: str, now: datetime) -> int:
    """`24h` or an ISO time → hours since the Unix epoch, rounded down. Raises ValueError."""
    target = parse_target(text, now)
    if target.lsn is not None:
        raise ValueError("expected how long ago (24h, 7d) or an ISO time")
    return (target.time_us or 0) // 3_600_000_000


def located(journal: Journal, target: Target) -> Position:
    """The position just before the target; for a time, just before the first transaction that committed at or after it.

    For a time that the journal has not reached, its end. Raises Stop if the target is older than the journal.
    """
    horizon = _horizon(journal)
    if target == EARLIEST:
        return horizon.start
    if target.lsn is None and (target.time_us or 0) >= horizon.first_time:
        return max(_from_time(journal, target.time_us or 0), horizon.start)
    found = Position(target.lsn if target.lsn is not None else 0, -1)
    if found < horizon.start:
        raise beyond(horizon)
    return found


def range_of(journal: Journal, start: Target, end: Target | None, upto: Position) -> tuple[Position, Position]:
    """Returns (after, upto), the smallest range of positions with every transaction for which start ≤ committed_at < end.

    If the server's clock was set back within the range, it includes the transactions in between, too. It ends at the given `upto`
    at the latest. Raises Stop if it begins before the journal's start, or at its end or later.
    """
    if end is not None and _precedes(end, start):
        raise Stop("The range ends before it begins.", hint="`--from` is the earlier of the two, `--to` the later.")
    horizon = _horizon(journal)
    after = located(journal, start)
    last = min(upto, horizon.last)
    if end is not None:
        last = min(last, _end_of(journal, end, horizon))
    if after >= horizon.last:
        raise Stop(
            f"The journal has nothing from there on: it reaches to {horizon.last} ({for_display(horizon.last_time)}).",
            hint="Nothing was captured since, or capture is behind: see `cdc-tracker status`.",
        )
    return after, max(after, last)


def beyond(horizon: Horizon) -> Stop:
    """The error for a point that is older than the journal."""
    return Stop(
        f"The journal does not reach back so far: it begins at {horizon.start} ({for_display(horizon.first_time)}). "
        "Nothing was sent or changed; older changes are no longer in it.",
        hint=f"Begin at {format_lsn(horizon.start.commit_lsn)} or later, or at `earliest`. Older history can only be read from "
        "the tables as they are now: `backfill` does that, for a mapping that has an `id`.",
    )


def bare_changes(segment: Segment, after: Position) -> Iterator[Change]:
    """The changes after a position without their columns: for positions and times."""
    return decoder(segment.plugin, lambda _: ((), ())).changes(segment, after)


def _horizon(journal: Journal) -> Horizon:
    horizon = journal.horizon()
    if horizon is None:
        raise Stop("The journal is empty: there is nothing to send again.", hint="It fills while `cdc-tracker run` captures.")
    return horizon


def _precedes(end: Target, start: Target) -> bool:
    if start.time_us is not None and end.time_us is not None:
        return end.time_us <= start.time_us
    return start.lsn is not None and end.lsn is not None and end.lsn <= start.lsn


def _end_of(journal: Journal, end: Target, horizon: Horizon) -> Position:
    if end.time_us is None:
        return located(journal, end)
    if end.time_us <= horizon.first_time:
        raise beyond(horizon)
    return _until_time(journal, end.time_us)


def _from_time(journal: Journal, time_us: int) -> Position:
    """Just before the first transaction committed at or after the time."""
    after = journal.locate(time_us)
    while segments := journal.read(after, 1):
        for change in bare_changes(segments[0], after):
            if change.transaction.committed_at >= time_us:
                return Position(change.transaction.commit_lsn, -1)
        after = segments[0].last
    return after


def _until_time(journal: Journal, time_us: int) -> Position:
    """Just after the last transaction committed before the time."""
    found = journal.locate_end(time_us)
    for segment in journal.read(found, 1):
        inside = False
        for change in bare_changes(segment, found):
            if change.transaction.committed_at < time_us:
                inside = True
            elif inside:
                found, inside = Position(change.transaction.commit_lsn, -1), False
        if inside:
            found = segment.last
    return found
