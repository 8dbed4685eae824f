"""Checks of a computed value against its rules. A column whose text is enough is checked inline: see kinds.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from cdc_tracker.mapping.language import operators as op
from cdc_tracker.mapping.schema.shape import Property
from cdc_tracker.model import Special
from cdc_tracker.patterns import searcher


class Failure(NamedTuple):
    """A failed check. `path` is within the event; `expected` is a clause such as `must be a number`, without the value."""

    reason: str
    path: str
    expected: str
    value: Any
    pii: bool


Check = Callable[[Any, str], "Failure | None"]


def _is_integer(value: Any) -> bool:
    return value.__class__ is int or (value.__class__ is Decimal and value == value.to_integral_value())


_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda v: isinstance(v, str | UUID | bytes),
    "number": lambda v: v.__class__ in {int, Decimal, float},
    "integer": _is_integer,
    "boolean": lambda v: v.__class__ is bool,
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list | tuple),
    "timestamp": lambda v: isinstance(v, datetime),
    "date": lambda v: isinstance(v, date) and not isinstance(v, datetime),
}


def checker(rules: Property, *, pii: bool = False) -> Check | None:
    """A function (value, path) that returns a Failure or None, for values other than None; None if there is nothing to check."""
    checks = list(_checks(rules, pii or rules.pii))
    if not checks:
        return None
    if len(checks) == 1:
        return checks[0]

    def check(value: Any, path: str) -> Failure | None:
        for each in checks:
            failure = each(value, path)
            if failure is not None:
                return failure
        return None

    return check


def _checks(rules: Property, pii: bool) -> Iterator[Check]:
    if rules.type in _TYPES:
        yield _simple("type_mismatch", f"must be {_article(rules.type)}", _TYPES[rules.type], pii)
    if rules.enum is not None:
        yield _simple("not_in_enum", "must be one of those declared", _one_of(rules.enum), pii)
    if rules.pattern is not None:
        matches = searcher(rules.pattern)
        yield _simple("type_mismatch", "must be text, as it has a pattern", _TYPES["string"], pii)
        yield _simple("pattern_mismatch", "must match its pattern", lambda v: matches(str(v)), pii)
    yield from _bounds(rules, pii)
    yield from _lengths(rules, pii)
    if rules.properties is not None:
        yield _members(rules.properties, pii)
    if rules.items is not None:
        yield _items(rules.items, pii)


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _simple(reason: str, expected: str, passes: Callable[[Any], bool], pii: bool) -> Check:
    def check(value: Any, path: str) -> Failure | None:
        return None if passes(value) else Failure(reason, path, expected, value, pii)

    return check


def _one_of(enum: list[Any]) -> Callable[[Any], bool]:
    texts = frozenset(value for value in enum if isinstance(value, str))

    def allowed(value: Any) -> bool:
        return value in texts if value.__class__ is str else any(op.equal(value, each) for each in enum)

    return allowed


def _bounds(rules: Property, pii: bool) -> Iterator[Check]:
    least, most = rules.minimum, rules.maximum
    if least is not None or most is not None:
        yield _simple("type_mismatch", "must be a number, as it has bounds", _TYPES["number"], pii)
    if least is not None:
        yield _simple("below_minimum", f"must be at least {least}", lambda v: op.greater_equal(v, least), pii)
    if most is not None:
        yield _simple("above_maximum", f"must be at most {most}", lambda v: op.less_equal(v, most), pii)


def _lengths(rules: Property, pii: bool) -> Iterator[Check]:
    least, most = rules.min_length, rules.max_length
    if least is not None or most is not None:
        sized = lambda v: isinstance(v, str | list | tuple)  # noqa: E731
        yield _simple("type_mismatch", "must be a text or a list, as its length is bounded", sized, pii)
    if least is not None:
        yield _simple("too_short", f"must have a length of at least {least}", lambda v: len(v) >= least, pii)
    if most is not None:
        yield _simple("too_long", f"must have a length of at most {most}", lambda v: len(v) <= most, pii)


def _members(properties: dict[str, Property], pii: bool) -> Check:
    inner = [(name, rules.required, pii or rules.pii, checker(rules, pii=pii)) for name, rules in properties.items()]

    def check(value: Any, path: str) -> Failure | None:
        if not isinstance(value, dict):
            return Failure("type_mismatch", path, "must be an object", value, pii)
        for name, required, private, rest in inner:
            member = value.get(name)
            if member is None:
                if required:
                    return Failure("required_missing", f"{path}.{name}", "is required", None, private)
            elif rest is not None and (failure := rest(member, f"{path}.{name}")) is not None:
                return failure
        return None

    return check


def _items(rules: Property, pii: bool) -> Check:
    rest = checker(rules, pii=pii)

    def check(value: Any, path: str) -> Failure | None:
        if not isinstance(value, list | tuple):
            return Failure("type_mismatch", path, "must be an array", value, pii)
        for index, element in enumerate(value):
            if element is None:
                if rules.required:
                    return Failure("required_missing", f"{path}[{index}]", "is required", None, pii or rules.pii)
            elif rest is not None and (failure := rest(element, f"{path}[{index}]")) is not None:
                return failure
        return None

    return check


def without_specials(value: Any) -> Any:
    """The value with None in place of each Special, at any depth (special_values: null)."""
    if isinstance(value, Special):
        return None
    if isinstance(value, list | tuple):
        return [without_specials(each) for each in value]
    if isinstance(value, dict):
        return {key: without_specials(each) for key, each in value.items()}
    return value


def holds_special(value: Any) -> bool:
    """Whether the value is or contains a Special (special_values: reject)."""
    if isinstance(value, list | tuple):
        return any(map(holds_special, value))
    if isinstance(value, dict):
        return any(map(holds_special, value.values()))
    return isinstance(value, Special)
