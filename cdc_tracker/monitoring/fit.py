"""Whether mappings fit the tables as they are now, by the catalog."""

from __future__ import annotations

from contextlib import closing

from cdc_tracker.errors import CdcTrackerError, MappingError, Problem
from cdc_tracker.mapping import Mappings, faults, findings
from cdc_tracker.sources.postgres import catalog
from cdc_tracker.sources.postgres.connection import Connection, connect
from cdc_tracker.sources.postgres.values import codec

AT_HAND = 3  # seconds that the source has to answer, before mappings are taken without asking it


def require(url: str, mappings: Mappings) -> None:
    """Raises MappingError if the mappings have errors. A source that does not answer at once is not waited for."""
    try:
        with closing(connect(url, connect_timeout=AT_HAND, statement_timeout=AT_HAND)) as connection:
            tables = catalog.tables(connection, mappings.tables())
    except CdcTrackerError:
        tables = None
    if errors := [problem for problem in findings(mappings, tables, codec) if problem.severity == "error"]:
        raise MappingError(errors)


def misfits(connection: Connection, mappings: Mappings) -> list[Problem]:
    """What the mappings name that a table does not have, and other things that cannot work, or may not (warnings)."""
    return findings(mappings, catalog.tables(connection, mappings.tables()), codec)


def certain_and_other(connection: Connection, mappings: Mappings) -> tuple[list[str], list[str]]:
    """The errors among the misfits, as texts: those that make mappings reject what they match, and all others."""
    tables = catalog.tables(connection, mappings.tables())
    certain = [str(problem) for problem in faults(mappings, tables, codec)]
    found = [str(problem) for problem in findings(mappings, tables, codec) if problem.severity == "error"]
    return certain, [each for each in found if each not in certain]
