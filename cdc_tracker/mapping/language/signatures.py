"""What the arguments of functions may be: the words of the column `takes` in functions.FUNCTIONS."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from cdc_tracker.mapping.language.moments import UNITS

TEXTS = frozenset({"text", "uuid", "time", "other"})
NUMBERS = frozenset({"integer", "decimal", "float", "number"})
TIMES = frozenset({"timestamptz", "timestamp", "date"})


class Argument(NamedTuple):
    """What an argument may be: as messages say it, and the kinds for which the function does not always raise; None: all.

    An argument of the kinds null, any and json may be anything.
    """

    what: str
    kinds: frozenset[str] | None


ARGUMENTS: dict[str, Argument] = {
    "any": Argument("any value", None),
    "text": Argument("text", TEXTS),
    "raw": Argument("text or bytes", TEXTS | {"bytes"}),
    "integer": Argument("an integer", frozenset({"integer", "number"})),
    "number": Argument("a number", NUMBERS),
    "list": Argument("a list", frozenset({"array"})),
    "object": Argument("an object", frozenset({"object"})),
    "sized": Argument("text, a list or an object", TEXTS | {"array", "object", "bytes"}),
    "whole": Argument("text, a list or an object", TEXTS | {"array", "object"}),
    "digits": Argument("text or a number", TEXTS | NUMBERS | {"boolean"}),
    "numeral": Argument("text or a number", TEXTS | NUMBERS),
    "truth": Argument("text, a boolean or an integer", TEXTS | {"boolean", "integer", "number"}),
    "zone": Argument("the name of a time zone", TEXTS),
    "moment": Argument("a time, text or a number of seconds", TEXTS | TIMES | {"integer", "decimal", "number"}),
}
CHOICES: dict[str, Collection[str]] = {"unit": tuple(UNITS)}
"""An argument that is one of these texts."""
