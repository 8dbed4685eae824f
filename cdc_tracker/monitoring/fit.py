"""Whether mappings fit the tables as they are now, by the catalog."""

from __future__ import annotations

from cdc_tracker.errors import Problem
from cdc_tracker.mapping import Mappings, findings
from cdc_tracker.sources.postgres import catalog
from cdc_tracker.sources.postgres.connection import Connection
from cdc_tracker.sources.postgres.values import codec


def misfits(connection: Connection, mappings: Mappings) -> list[Problem]:
    """What the mappings name that a table does not have, and other things that cannot work, or may not (warnings)."""
    return findings(mappings, catalog.tables(connection, mappings.tables()), codec)
