"""Whether mappings fit the tables as they are now, by the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cdc_tracker.errors import Problem
from cdc_tracker.mapping import Mappings, check_columns
from cdc_tracker.source import catalog
from cdc_tracker.source.values import codec


def misfits(connection: Any, mappings: Mappings) -> Iterator[Problem]:
    """What the mappings name that a table does not have, and other things that cannot work, or may not (warnings)."""
    for relation in catalog.relations(connection, mappings.tables()).values():
        yield from check_columns(mappings, relation, codec)


def missing(connection: Any, mappings: Mappings) -> Iterator[Problem]:
    """Tables that the mappings name and the database does not have (any more)."""
    found = catalog.relations(connection, mappings.tables())
    for table in mappings.tables():
        if table not in found:
            hint = "was it renamed? Name it in the mapping as it is called now, and run `cdc-tracker setup`"
            yield Problem(mappings.for_table(table)[0].where, "table", f"there is no table {table}", hint)
