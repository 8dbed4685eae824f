"""Cents that are sent as an amount of money."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.lints.english import words
from cdc_tracker.mapping.lints.facts import Facts, warning, whole
from cdc_tracker.mapping.lints.values import passed_on
from cdc_tracker.mapping.schema.declared import Mapping, Member

_MONEY = {"revenue", "value", "price", "amount"}
"""The last word of a property that tools read as money in units of its currency."""
_MINOR = re.compile(r"(.* )?(cents?|pence|pennies|minor (units?|amount|value))|.+ minor")


def minor_units(mapping: Mapping, facts: Facts) -> Iterator[Problem]:
    """A property such as `revenue` whose value is a column in cents, not divided: it is a hundred times too much."""
    for member in _leaves(mapping.body):
        if member.placed is None or words(member.name)[-1] not in _MONEY or _in_minor(member.name, facts):
            continue
        for row, column in dict.fromkeys(passed_on(whole(mapping, member.placed))):
            if _in_minor(column, facts):
                yield warning(
                    member.placed,
                    f"{member.name} is sent in cents: {row}.{column} is not divided",
                    f"Write {row}.{column} / 100, or name the property {member.name}_cents.",
                )
                break


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
