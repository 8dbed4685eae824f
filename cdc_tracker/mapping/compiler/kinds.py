"""Facts that the kind of a column gives before any row is read, and checks that need a value's text only."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from cdc_tracker.mapping.compiler.scope import TEXT_KINDS, Scope
from cdc_tracker.mapping.schema.shape import Property
from cdc_tracker.patterns import searcher

TOASTABLE = frozenset({"text", "json", "array", "bytes", "other", "decimal"})
"""Kinds of variable length: an update may leave out such a value. (A numeric would have to be very long.)"""

SPECIAL = {
    "decimal": "{x}[-1] > '9'",  # NaN, Infinity; every number ends in a digit
    "float": "{x}[-1] > '9'",
    "timestamptz": "({x}[4] != '-' or {x}[-1] == 'C')",  # infinity, a year of five digits, BC
    "timestamp": "({x}[4] != '-' or {x}[-1] == 'C')",
    "date": "({x}[4] != '-' or {x}[-1] == 'C')",
}
"""Source of a condition on a text `x`: its value has no Python or JSON form."""

WORDS = {
    "decimal": "number",
    "float": "number",
    "text": "string",
    "uuid": "string",
    "time": "string",
    "other": "string",
    "bytes": "string",
    "timestamptz": "timestamp",
    "json": "JSON",
}
"""Kinds as messages name them, if the name differs."""

NO_IDENTIFIER = frozenset({"boolean", "float", "array", "object", "timestamptz", "timestamp", "date", "bytes"})
NO_TIME = frozenset({"boolean", "integer", "decimal", "number", "float", "array", "object", "uuid", "bytes", "time"})

_FITS: dict[str, frozenset[str]] = {
    "string": TEXT_KINDS | {"bytes"},
    "number": frozenset({"integer", "decimal", "float", "number"}),
    "integer": frozenset({"integer"}),
    "boolean": frozenset({"boolean"}),
    "object": frozenset({"object"}),
    "array": frozenset({"array"}),
    "timestamp": frozenset({"timestamptz", "timestamp"}),
    "date": frozenset({"date"}),
}


def fits(kind: str, declared: str) -> bool | None:
    """Whether values of this kind have the declared type: True, False, or None if it depends on the value.

    NULL and Special values are left to the caller.
    """
    if declared == "any" or kind == "null" or kind in _FITS[declared]:
        return True
    if kind in {"any", "json"} or (declared == "integer" and kind in {"decimal", "number"}):
        return None
    return False


Condition = tuple[str, str, str]  # source that is true if the check fails, reason, what is expected


def quick_checks(rules: Property, kind: str, text: str, scope: Scope) -> list[Condition] | None:
    """The rules as conditions on the text in the variable `text`; None if they need the value."""
    if rules.properties is not None or rules.items is not None:
        return None
    found: list[Condition] = []
    for each in (_enum(rules, kind, text, scope), _bounds(rules, kind, text, scope), _texts(rules, kind, text, scope)):
        if each is None:
            return None
        found += each
    return found


def _enum(rules: Property, kind: str, text: str, scope: Scope) -> list[Condition] | None:
    if rules.enum is None:
        return []
    allowed = [value for value in rules.enum if value is not None]
    if kind in {"text", "other", "time"} and all(isinstance(value, str) for value in allowed):
        texts = frozenset(allowed)
    elif kind == "integer" and all(value.__class__ is int for value in allowed):
        texts = frozenset(map(str, allowed))
    else:
        return None
    return [(f"{text} not in {scope.constant(texts, f'{text}_allowed')}", "not_in_enum", "must be one of those declared")]


def _bounds(rules: Property, kind: str, text: str, scope: Scope) -> list[Condition] | None:
    bounds = (
        (rules.minimum, "<", "below_minimum", "must be at least"),
        (rules.maximum, ">", "above_maximum", "must be at most"),
    )
    found: list[Condition] = []
    for bound, sign, reason, expected in bounds:
        if bound is None:
            continue
        if kind not in {"integer", "decimal"}:
            return None
        if bound == 0 and sign == "<":  # PostgreSQL prints no negative zero in these types
            condition = f"{text}[0] == '-'"
        else:
            load: Callable[[str], Any] = int if kind == "integer" else Decimal
            limit = int(bound) if kind == "integer" and bound == bound.to_integral_value() else bound
            condition = f"{scope.runtime(load)}({text}) {sign} {scope.constant(limit, f'{text}_bound')}"
        found.append((condition, reason, f"{expected} {bound}"))
    return found


def _texts(rules: Property, kind: str, text: str, scope: Scope) -> list[Condition] | None:
    if rules.pattern is None and rules.min_length is None and rules.max_length is None:
        return []
    if kind not in TEXT_KINDS:
        return None
    found: list[Condition] = []
    if rules.pattern is not None:
        matches = scope.constant(searcher(rules.pattern), f"{text}_matches")
        found.append((f"not {matches}({text})", "pattern_mismatch", "must match its pattern"))
    length = scope.runtime(len)
    if rules.min_length is not None:
        found.append(
            (f"{length}({text}) < {rules.min_length}", "too_short", f"must have a length of at least {rules.min_length}")
        )
    if rules.max_length is not None:
        found.append((f"{length}({text}) > {rules.max_length}", "too_long", f"must have a length of at most {rules.max_length}"))
    return found
