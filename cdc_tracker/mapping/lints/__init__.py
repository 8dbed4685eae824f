"""Warnings about mappings that compile and can run, and likely do not do what was meant. Pure.

A rule is a function that yields Problems: of one mapping and its table, or of all mappings together. It reports a cause
once, says what follows from it, and how to write what was likely meant. A rule that needs the catalog is silent where the table
is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.lints.facts import Facts
from cdc_tracker.mapping.lints.ids import narrow_id, repeated_id
from cdc_tracker.mapping.lints.money import minor_units
from cdc_tracker.mapping.lints.names import event_spellings, property_spellings, twice
from cdc_tracker.mapping.lints.people import other_person, personal
from cdc_tracker.mapping.lints.selections import selections
from cdc_tracker.mapping.lints.transitions import state
from cdc_tracker.mapping.schema.declared import Mapping, Mappings
from cdc_tracker.model import Codec
from cdc_tracker.tables import Table

Rule = Callable[[Mapping, Facts], Iterator[Problem]]

_OF_ONE: tuple[Rule, ...] = (state, narrow_id, repeated_id, property_spellings, other_person, personal, minor_units)
_OF_ALL: tuple[Callable[[Mappings], Iterator[Problem]], ...] = (event_spellings, twice)


def of_table(mappings: Sequence[Mapping], table: Table | None, codec: Callable[[int], Codec]) -> Iterator[Problem]:
    """The warnings about mappings of one table. `table`: what the catalog says of it; None: it is unknown."""
    facts = Facts(table, codec)
    for mapping in mappings:
        for rule in _OF_ONE:
            yield from rule(mapping, facts)


def of_all(mappings: Mappings) -> Iterator[Problem]:
    """The warnings about mappings beside each other."""
    for rule in _OF_ALL:
        yield from rule(mappings)


__all__ = ["of_all", "of_table", "selections"]
