"""What the arguments of functions may be: the words of the column `takes` in functions.FUNCTIONS."""

from __future__ import annotations

from collections.abc import Collection

from cdc_tracker.mapping.language.moments import UNITS

TEXTS = frozenset({"text", "uuid", "time", "other"})
NUMBERS = frozenset({"integer", "decimal", "float", "number"})
TIMES = frozenset({"timestamptz", "timestamp", "date"})
ARGUMENTS: dict[str, frozenset[str] | None] = {
    "any": None,
    "text": TEXTS,
    "raw": TEXTS | {"bytes"},
    "integer": frozenset({"integer", "number"}),
    "number": NUMBERS,
    "list": frozenset({"array"}),
    "object": frozenset({"object"}),
    "sized": TEXTS | {"array", "object", "bytes"},
    "whole": TEXTS | {"array", "object"},
    "digits": TEXTS | NUMBERS | {"boolean"},
    "numeral": TEXTS | NUMBERS,
    "truth": TEXTS | {"boolean", "integer", "number"},
    "zone": TEXTS,
    "moment": TEXTS | TIMES | {"integer", "decimal", "number"},
}
"""What an argument may be: the kinds for which the function does not always raise; None: all.

An argument of the kinds null, any and json may be anything.
"""
CHOICES: dict[str, Collection[str]] = {"unit": tuple(UNITS)}
"""An argument that is one of these texts."""
