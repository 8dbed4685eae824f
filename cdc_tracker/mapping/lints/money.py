"""Cents that are sent as an amount of money."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.lints.english import words
from cdc_tracker.mapping.lints.facts import Facts, warning, whole, written
from cdc_tracker.mapping.lints.values import passed_on
from cdc_tracker.mapping.schema.declared import Mapping, Member

_MONEY = {"revenue", "value", "price", "amount"}
"""The last word of a property that tools read as money in units of its currency."""
_MINOR = re.compile(r"(.* )?(cents?|pence|pennies|minor (units?|amount|value))|.+ minor")


def minor_units(mapping: Mapping, facts: Facts) -> Iterator[Problem]:
    """A property such as `revenue` whose value is a column in cents, not divided: it is a hundred times too much."""
    for member in _leaves(mapping.body):
        for name, value in _amounts(member, mapping):
            column = next((each for each in passed_on(value) if _in_minor(each[1], facts)), None)
            if column is not None and member.placed is not None and not _in_minor(name, facts):
                cents = written(*column)
                text = f"{name} is sent in cents: {cents} is not divided"
                yield warning(member.placed, text, f"Write {cents} / 100, or name the property {name}_cents.")
                break


def _amounts(member: Member, mapping: Mapping) -> Iterator[tuple[str, ast.expr]]:
    """The property, and keys of objects that its expression makes, of which the name says money; with their values."""
    if member.placed is None:
        return
    value = whole(mapping, member.placed)
    found: list[tuple[object, ast.expr]] = [(member.name, value)]
    for node in ast.walk(value):
        if isinstance(node, ast.Dict):
            keys = (key.value if isinstance(key, ast.Constant) else None for key in node.keys)
            found += zip(keys, node.values, strict=True)
    yield from ((name, each) for name, each in found if isinstance(name, str) and words(name)[-1] in _MONEY)


def _in_minor(name: str, facts: Facts) -> bool:
    """Whether the column's name, or that of its type, says cents."""
    column = facts.column(name)
    if facts.kind(name) == "boolean":
        return False
    named = [name, column.type_name.rpartition(".")[2]] if column is not None else [name]
    return any(_MINOR.fullmatch(" ".join(words(each))) for each in named)


def _leaves(members: tuple[Member, ...]) -> Iterator[Member]:
    for member in members:
        yield member
        yield from _leaves(member.members)
