"""Whether mappings fit the tables as they are now, by the catalog."""

from __future__ import annotations

from cdc_tracker.errors import Problem
from cdc_tracker.mapping import Mappings, faults, findings
from cdc_tracker.sources.postgres import catalog
from cdc_tracker.sources.postgres.connection import Connection
from cdc_tracker.sources.postgres.values import codec


def misfits(connection: Connection, mappings: Mappings) -> list[Problem]:
    """What the mappings name that a table does not have, and other things that cannot work, or may not (warnings)."""
    return findings(mappings, catalog.tables(connection, mappings.tables()), codec)


def errors(connection: Connection, mappings: Mappings) -> tuple[list[str], list[str]]:
    """The errors among the misfits, as texts: those that make mappings reject what they match, and all others."""
    tables = catalog.tables(connection, mappings.tables())
    certain = [str(problem) for problem in faults(mappings, tables, codec)]
    found = [str(problem) for problem in findings(mappings, tables, codec) if problem.severity == "error"]
    return certain, [each for each in found if each not in certain]
