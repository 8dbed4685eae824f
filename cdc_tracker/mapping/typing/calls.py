"""Calls of functions: arguments that always fail, and the types of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from cdc_tracker.config.nearest import nearest
from cdc_tracker.mapping.language.checking import refused_zone
from cdc_tracker.mapping.language.functions import FUNCTIONS
from cdc_tracker.mapping.language.operators import ExpressionError
from cdc_tracker.mapping.language.signatures import ARGUMENTS, CHOICES
from cdc_tracker.mapping.typing.comparisons import Mismatch, Operand, from_text
from cdc_tracker.mapping.typing.types import ANY, BOOLEAN, NULL, TEXT, UNTYPED, Type, common, exact, type_of

Result = Callable[[Sequence[Type]], Type]
_SLOW = frozenset({"replace", "split", "join", "concat"})
"""Functions of constants that are not computed here: their results may be large."""
_OWN_TYPE = frozenset({"string", "coalesce", "min", "max"})
"""Functions that give a value of the type of their arguments, or take None for a value."""


def wrong_arguments(name: str, arguments: Sequence[Operand]) -> Iterator[tuple[int, Mismatch]]:
    """(index, why) of each argument for which the call always raises, or gives None."""
    takes = FUNCTIONS[name].takes
    for index, each in enumerate(arguments):
        word = takes[min(index, len(takes) - 1)]
        if word in CHOICES:
            if (wrong := _not_chosen(name, word, each)) is not None:
                yield index, wrong
        elif word == "zone" and each.type.labels and all(map(refused_zone, each.type.labels)):
            yield index, Mismatch(refused_zone(min(each.type.labels)))
        elif not _accepts(ARGUMENTS[word].kinds, each.type):
            yield index, Mismatch(f"{name}() takes {ARGUMENTS[word].what}, and {each.text} is {each.type}", from_text(each))


def _accepts(kinds: frozenset[str] | None, given: Type) -> bool:
    return kinds is None or given.kind in UNTYPED or given.kind in kinds or (given.nested and "array" in kinds)


def _not_chosen(name: str, word: str, given: Operand) -> Mismatch | None:
    choices = CHOICES[word]
    if given.type.family not in {"", "text"}:
        return Mismatch(f"{name}() takes a {word} here, and {given.text} is {given.type}")
    if given.type.labels is None or not given.type.labels.isdisjoint(choices):
        return None
    wrong = min(given.type.labels)
    return Mismatch(f"{name}() knows no {word} {wrong!r}{nearest(wrong, list(choices))}")


def known_call(name: str, arguments: Sequence[Type]) -> Type | Mismatch | None:
    """The result of a call of constants, or of each label and constants, or why it raises; None if they are not all known."""
    first, *others = arguments
    labelled = first.labels if name not in _OWN_TYPE else None
    values = [first.only] if first.known else sorted(labelled or ())
    if name in _SLOW or not values or not all(each.known for each in others):
        return None
    results: list[Type] = []
    why: Mismatch | None = None
    for value in values:
        try:
            results.append(type_of(FUNCTIONS[name].call(value, *(each.only for each in others))))
        except ExpressionError as error:
            why = Mismatch(str(error))
        except Exception:  # such as a division by zero: what it depends on is not said by its message
            return None
    if not results:
        return why
    found = common(results)
    return replace(found, nullable=found.nullable or (first.nullable and not first.known))


def result(name: str, arguments: Sequence[Type]) -> Type:
    """The type of a call's value, if it does not raise."""
    if name in RESULTS:
        return RESULTS[name](arguments)
    if arguments[0].kind == "null":
        return NULL
    return Type(FUNCTIONS[name].result, any(each.nullable for each in arguments))


def _string(arguments: Sequence[Type]) -> Type:
    given = arguments[0]
    if given.kind == "null" or given.family == "text":
        return given
    return replace(TEXT, nullable=given.nullable)


def _coalesce(arguments: Sequence[Type]) -> Type:
    some: list[Type] = []
    for each in arguments:
        if each.kind != "null":
            some.append(each)
        if not each.nullable:
            return replace(common(some), nullable=False)
    return common(some)


def _nullif(arguments: Sequence[Type]) -> Type:
    return replace(arguments[0], nullable=True)


def _extreme(arguments: Sequence[Type]) -> Type:
    """Of min and max: of one list, or of several values."""
    if len(arguments) == 1:
        return _element(arguments)
    return replace(common(arguments), nullable=all(each.nullable for each in arguments))


def _element(arguments: Sequence[Type]) -> Type:
    given = arguments[0]
    if given.kind == "null":
        return NULL
    return replace(given.element, nullable=True) if given.element is not None else ANY


def _same_list(arguments: Sequence[Type]) -> Type:
    given = arguments[0]
    return given if given.kind == "null" else Type("array", given.nullable, element=given.element)


def _list_of(element: Type) -> Result:
    return lambda arguments: Type("array", any(each.nullable for each in arguments), element=element)


def _rounded(arguments: Sequence[Type]) -> Type:
    digits = arguments[1].value if len(arguments) > 1 else 0
    known = digits.__class__ is int
    kind = ("integer" if digits <= 0 else "decimal") if known else "number"
    return Type(kind, arguments[0].nullable)


def _absolute(arguments: Sequence[Type]) -> Type:
    given = arguments[0]
    return NULL if given.kind == "null" else Type(exact(given.kind), given.nullable)


def _between(least: int, most: int | None) -> Result:
    return lambda arguments: Type("integer", any(each.nullable for each in arguments), least=least, most=most)


def _never_null(kind: str) -> Result:
    return lambda _: Type(kind, nullable=False)


def _unknown(_: Any) -> Type:
    return ANY


RESULTS: dict[str, Result] = {
    "concat": _never_null("text"),
    "string": _string,
    "split": _list_of(TEXT),
    "keys": _list_of(TEXT),
    "coalesce": _coalesce,
    "nullif": _nullif,
    "min": _extreme,
    "max": _extreme,
    "first": _element,
    "last": _element,
    "sorted": _same_list,
    "distinct": _same_list,
    "round": _rounded,
    "abs": _absolute,
    "length": _between(0, None),
    "hour": _between(0, 23),
    "weekday": _between(1, 7),
    "changed": lambda _: BOOLEAN,
    "entered": lambda _: BOOLEAN,
    "get": _unknown,
    "json": _unknown,
}
"""Functions whose result depends on more than the kind in their row."""
