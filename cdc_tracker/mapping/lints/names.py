"""Names that differ only in how they are written, and events that are declared twice."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import TypeVar

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.lints.facts import Facts, warning, whole
from cdc_tracker.mapping.schema.declared import Mapping, Mappings, Member, Placed

_Bearer = TypeVar("_Bearer", Mapping, Member)
_SENT_NAMES = {"track", "page", "screen"}
_COUNTED = {2: "two", 3: "three", 4: "four"}


def event_spellings(mappings: Mappings) -> Iterator[Problem]:
    """Names of events that differ only in case or punctuation, over all files. Tools count them apart."""
    named = [(name, mapping) for mapping in mappings.all if mapping.type in _SENT_NAMES for name in mapping.names]
    for spellings in _alike(named):
        listed = ", ".join(f"{name!r} ({mapping.where})" for name, mapping in spellings.items())
        text = f"{_counted(spellings)} spellings of one event's name, which tools count apart: {listed}"
        hint = f"Write one of them everywhere, such as {_best(spellings)!r}."
        yield warning(list(spellings.values())[1], text, hint)


def property_spellings(mapping: Mapping, facts: Facts) -> Iterator[Problem]:
    """Properties of one event whose names differ only in case or punctuation."""
    for members in _levels(mapping.body, mapping.context):
        for spellings in _alike((member.name, member) for member in members):
            second = list(spellings.values())[1]
            listed = " and ".join(repr(name) for name in spellings)
            text = f"{listed} differ only in case or punctuation: the event has both, and many tools do not tell them apart"
            yield warning(second, text, "Keep one, or name them by what differs.")


def twice(mappings: Mappings) -> Iterator[Problem]:
    """The same event declared twice: one change gives two events, as their keys differ."""
    groups: dict[tuple[str, ...], list[Mapping]] = defaultdict(list)
    for mapping in mappings.all:
        asked = (_text(mapping, placed) for placed in (mapping.when, *(placed for _, placed in mapping.ids)))
        groups[mapping.table, mapping.type, mapping.name, *asked].append(mapping)
    for found in groups.values():
        again = next((pair for pair in combinations(found, 2) if _overlap(*pair)), None)
        if again is not None:
            first, second = again
            on = " and ".join(each for each in second.on if each in first.on)
            text = f"the same {on} of {second.table} gives {first.name!r} at {first.where}, too: two events for one change"
            yield warning(second, text, "Remove one, or let their `on` or `when` exclude each other.")


def _overlap(one: Mapping, other: Mapping) -> bool:
    """Whether some operation and some destination get both."""
    everywhere = one.destinations is None or other.destinations is None
    return bool(set(one.on) & set(other.on)) and (everywhere or bool(set(one.destinations or ()) & set(other.destinations or ())))


def _text(mapping: Mapping, placed: Placed | None) -> str:
    return "" if placed is None else ast.unparse(whole(mapping, placed))


def _alike(named: Iterable[tuple[str, _Bearer]]) -> Iterator[dict[str, _Bearer]]:
    """The groups of names that are one when only letters and digits count, each name with its first bearer."""
    groups: dict[str, dict[str, _Bearer]] = defaultdict(dict)
    for name, bearer in named:
        folded = "".join(letter for letter in name.casefold() if letter.isalnum())
        groups[folded or name].setdefault(name, bearer)
    yield from (spellings for spellings in groups.values() if len(spellings) > 1)


def _levels(*levels: tuple[Member, ...]) -> Iterator[tuple[Member, ...]]:
    for members in levels:
        yield members
        yield from _levels(*(member.members for member in members if member.members))


def _counted(found: Iterable[object]) -> str:
    count = len(list(found))
    return _COUNTED.get(count, str(count))


def _best(spellings: Iterable[str]) -> str:
    """The one with most capitals: `Order Paid` of `order paid` and `Order paid`."""
    return max(spellings, key=lambda name: (name.title() == name, sum(letter.isupper() for letter in name)))
