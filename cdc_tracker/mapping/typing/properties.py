"""Declared properties against the types of their values: rules that no value can meet, or not every one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

from cdc_tracker.mapping.compiler.checks import checker
from cdc_tracker.mapping.compiler.kinds import fits
from cdc_tracker.mapping.compiler.properties import CONVERSIONS
from cdc_tracker.mapping.language.signatures import NUMBERS, TEXTS
from cdc_tracker.mapping.schema.shape import Property
from cdc_tracker.mapping.typing.comparisons import Operand, bounds, never_equal, outside
from cdc_tracker.mapping.typing.types import UNKNOWN, Type, type_of

_STRINGS = TEXTS | {"bytes", "uuid_value"}
_NEEDED: dict[str, tuple[frozenset[str], str]] = {
    "minimum": (NUMBERS, "a number, as it has bounds"),
    "maximum": (NUMBERS, "a number, as it has bounds"),
    "pattern": (_STRINGS, "text, as it has a pattern"),
    "min_length": (_STRINGS | {"array"}, "text or a list, as its length is bounded"),
    "max_length": (_STRINGS | {"array"}, "text or a list, as its length is bounded"),
    "properties": (frozenset({"object"}), "an object, as it has properties"),
    "items": (frozenset({"array"}), "a list, as it has items"),
}
"""Rules, the kinds that can meet them, and how a message says it."""
_SHOWN = 5
_UUID = 36  # characters


class Unmet(NamedTuple):
    """A rule that a value of the type does not meet. `severity`: error if none does."""

    severity: str
    path: str  # within the property: empty, `.sku`, `[]`
    message: str
    hint: str = ""


def unmet(rules: Property, given: Type, text: str, path: str = "") -> Iterator[Unmet]:
    """The rules that not every value of a type meets. `text`: the expression. NULL is left aside."""
    if given.kind == "null":
        return
    for message, hint in (*_wrong_kind(rules, given, text), *((each, "") for each in _size(rules, given, text))):
        yield Unmet("error", path, message, hint)
        return
    yield from _values(rules, given, path)
    if rules.items is not None and given.element is not None:
        yield from unmet(rules.items, given.element, f"an element of {text}", f"{path}[]")
    for name, inner in (rules.properties or {}).items() if given.keys is not None else ():
        yield from _member(name, inner, given, text, path)


def _wrong_kind(rules: Property, given: Type, text: str) -> Iterator[tuple[str, str]]:
    """(message, hint) of a kind that the rules never accept."""
    kind = "uuid" if given.kind == "uuid_value" else given.kind
    declared = rules.type or "any"
    if fits(kind, declared) is False and not (given.nested and declared == "array"):
        yield f"is declared as {declared}, but {text!r} is {given}", CONVERSIONS.get(declared, "")
    if not given.family or given.nested:
        return
    for rule, (kinds, what) in _NEEDED.items():
        if getattr(rules, rule) is not None and given.kind not in kinds:
            yield f"must be {what}, but {text!r} is {given}", ""


def _size(rules: Property, given: Type, text: str) -> Iterator[str]:
    """Bounds that no integer of the type meets, bounds of a length that char(n), varchar(n) or a UUID cannot meet."""
    if outside(rules.minimum, rules.maximum, given):
        bound = f"at least {rules.minimum}" if rules.minimum is not None else f"at most {rules.maximum}"
        yield f"must be {bound}, but {text!r} is {bounds(given)}"
    length = _UUID if given.kind == "uuid" else given.length
    if length is None:
        return
    if rules.min_length is not None and rules.min_length > length:
        yield f"must have a length of at least {rules.min_length}, but the column holds {length} characters at most"
    if rules.max_length is not None and rules.max_length < length:
        if given.kind == "uuid":
            yield f"must have a length of at most {rules.max_length}, but a uuid always has {length}"
        elif given.fixed:
            yield f"must have a length of at most {rules.max_length}, but a char({length}) always has {length}, blanks included"


def _values(rules: Property, given: Type, path: str) -> Iterator[Unmet]:
    """What is known of the values: constants, labels, and kinds that equal no member of a declared enum."""
    check = checker(rules)
    if check is None or not given.family:
        return
    values = [given.value] if given.value is not UNKNOWN else sorted(given.labels or ())
    failures = [(value, failure) for value in values if (failure := check(value, "")) is not None]
    if failures and len(failures) == len(values):
        shown = f"{failures[0][0]!r} is" if len(values) == 1 else f"{_listed(values)} are"
        yield Unmet("error", path, f"{failures[0][1].expected}, but {shown} all that it can be")
    elif failures:
        reason = failures[0][1]
        lost = _listed([value for value, _ in failures])
        yield Unmet("warning", path, f"{reason.expected}: events with {lost} become dead letters ({reason.reason})")
    elif not values and rules.enum is not None:
        yield from _enum(rules.enum, given, path)


def _enum(enum: list[object], given: Type, path: str) -> Iterator[Unmet]:
    value = Operand(given, ast.Name("the value"))
    members = [each for each in enum if each is not None]
    if members and all(never_equal(value, Operand(type_of(each), ast.Constant(each))) for each in members):  # type: ignore[arg-type]
        yield Unmet("error", path, f"must be one of those declared, and none of them is a value of {given}")


def _listed(values: list[object]) -> str:
    return ", ".join(map(repr, values[:_SHOWN])) + (", …" if len(values) > _SHOWN else "")


def _member(name: str, rules: Property, given: Type, text: str, path: str) -> Iterator[Unmet]:
    assert given.keys is not None  # noqa: S101  the caller looked
    if name in given.keys:
        yield from unmet(rules, given.keys[name], f"{text}[{name!r}]", f"{path}.{name}")
    elif rules.required:
        yield Unmet("error", f"{path}.{name}", f"is required, and {text!r} has no such key")
