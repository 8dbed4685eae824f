"""Dates and times in expressions: they are converted to UTC; those without a zone are taken as UTC."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from cdc_tracker.mapping.language import operators as op
from cdc_tracker.mapping.language import zones
from cdc_tracker.mapping.language.operators import ExpressionError, type_name
from cdc_tracker.model import Special
from cdc_tracker.times import from_micros, to_micros

_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:.,]{5,20} ?(?:Z|[-+][0-9:]{2,8})?)?")


def to_moment(value: Any) -> datetime | None:
    """A date, datetime or ISO 8601 text as a datetime in UTC; None for anything else."""
    if isinstance(value, str) and not isinstance(value, Special) and _ISO.fullmatch(value):
        try:
            value = datetime.fromisoformat(value.replace(" ", "T", 1).replace(" ", ""))
        except ValueError:
            return None
    if not isinstance(value, date):
        return None
    try:
        return op.moment(value).astimezone(UTC)
    except OverflowError:
        return None


def moment(name: str, value: Any) -> datetime:
    """As `to_moment`, and for seconds since 1970. Raises ExpressionError, which names the function `name`, for anything else."""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        try:
            return from_micros(int(Decimal(value).scaleb(6, op.EXACT)))
        except (OverflowError, ArithmeticError):
            raise ExpressionError(f"{name}() takes seconds since 1970 up to the year 9999") from None
    found = to_moment(value)
    if found is None:
        raise ExpressionError(f"{name}() takes a timestamp, ISO 8601 text or seconds since 1970, not this {type_name(value)}")
    return found


def clock(name: str, value: Any, zone: Any = "UTC") -> datetime | None:
    """What the clocks of the zone show at the moment; a day without a time is its midnight in any zone. None without a zone.

    Raises ExpressionError, which names the function `name`, if there is no such zone.
    """
    if zone is None:
        return None
    found = zones.zone(zone) if isinstance(zone, str) else None
    if found is None:
        raise ExpressionError(f"{name}() takes the name of a time zone, such as 'Europe/Berlin', not this {type_name(zone)}")
    at = moment(name, value)
    day = isinstance(value, date) and not isinstance(value, datetime)
    if zone == "UTC" or day or (isinstance(value, str) and len(value) == len("2026-01-31")):
        return at
    try:
        return at.astimezone(found)
    except OverflowError:
        raise ExpressionError(f"{name}() takes times up to the year 9999") from None


def iso(value: Any) -> str:
    """ISO 8601 text of a date, or of what `moment` takes."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    return op.to_text(moment("iso", value))


def epoch(value: Any) -> Any:
    """Seconds since 1970, exact: an int, or a Decimal if there is a fraction."""
    seconds, rest = divmod(to_micros(moment("epoch", value)), 1_000_000)
    return seconds + Decimal(rest).scaleb(-6).normalize() if rest else seconds


UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}


def date_diff(unit: Any, start: Any, end: Any) -> int | None:
    """Whole units from start to end, rounded towards zero; None if either is None."""
    seconds = UNITS.get(unit) if isinstance(unit, str) else None
    if seconds is None:
        raise ExpressionError(f"date_diff() takes one of {', '.join(UNITS)} first")
    if start is None or end is None:
        return None
    apart = to_micros(moment("date_diff", end)) - to_micros(moment("date_diff", start))
    whole = abs(apart) // (seconds * 1_000_000)
    return whole if apart >= 0 else -whole
