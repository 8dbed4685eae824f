"""Time zones by their names, such as Europe/Berlin.

Their rules come from the package tzdata, not from the machine: whatever host replays a journal, it computes the same bytes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

_DATA = files("tzdata")


@cache
def names() -> tuple[str, ...]:
    """The names of all zones."""
    return tuple((_DATA / "zones").read_text().split())


def zone(name: str) -> ZoneInfo | None:
    """The zone of this name; None if there is none."""
    return _zone(name) if name in _known() else None


@cache
def _known() -> frozenset[str]:
    return frozenset(names())


@cache
def _zone(name: str) -> ZoneInfo:
    with (_DATA / "zoneinfo" / name).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def instant(clock: datetime, zone: ZoneInfo) -> datetime:
    """The time in UTC at which the clocks of the zone show this time without a zone. Raises OverflowError.

    As PostgreSQL's AT TIME ZONE: of a time that clocks show twice, the second; a time that they skip is read as if they had not
    been moved yet. Both are the lesser of the two offsets around the move.
    """
    offsets = [clock.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1)]
    return (clock - min(each for each in offsets if each is not None)).replace(tzinfo=UTC)
