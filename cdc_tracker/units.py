"""Durations and sizes as text, such as `7d`, `250ms`, `10GB`, to and from seconds and bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, NamedTuple

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
_NUMBER_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_duration(value: object) -> float:
    """`7d`, `1.5h`, `250ms` or a number of seconds → seconds. Raises ValueError."""
    return _parse(value, _SECONDS, "s", "a duration such as 250ms, 10s, 5m, 2h or 7d")


def parse_size(value: object) -> int:
    """`10GB`, `64MiB` or a number of bytes → bytes. Raises ValueError."""
    return int(_parse(value, _BYTES, "b", "a size such as 64KB, 100MB or 10GB"))


def _parse(value: object, units: Mapping[str, float], default: str, expected: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = _NUMBER_UNIT.fullmatch(value) if isinstance(value, str) else None
    unit = found[2].lower() or default if found else ""
    if not found or unit not in units:
        raise ValueError(f"expected {expected}, got {value!r}")
    return float(found[1]) * units[unit]


def format_size(size: float) -> str:
    """1500000 → `1.5 MB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_duration(seconds: float) -> str:
    """5400 → `1.5 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, limit in (("s", 120.0), ("m", 7200.0), ("h", 172800.0)):
        if seconds < limit:
            return f"{seconds / _SECONDS[unit]:.3g} {unit}"
    return f"{seconds / 86400:.3g} d"


def plural(count: int, noun: str) -> str:
    """`1 event`, `2,000 events`."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


class _Written(NamedTuple):
    """Has pydantic `parse` the value first, as its BeforeValidator does, without the 150 ms that importing pydantic takes."""

    parse: Callable[[object], float]

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # noqa: PLC0415

        return core_schema.no_info_before_validator_function(self.parse, handler(source))


Duration = Annotated[float, _Written(parse_duration)]
"""Seconds; written as `7d`, `10s`, `250ms`."""

Size = Annotated[int, _Written(parse_size)]
"""Bytes; written as `10GB`, `64MiB`."""
