"""Whether the server counts the stream among the standbys that commits wait for.

Any walsender is a candidate by its application_name, also a logical one: https://www.postgresql.org/docs/current/warm-standby.html
"""

from __future__ import annotations

import re

from cdc_tracker.errors import Problem
from cdc_tracker.sources.postgres.connection import Connection, translated

_NAMES = re.compile(r'"((?:[^"]|"")*)"|([^\s,()"]+)')


@translated()
def synchronous(connection: Connection, application_name: str) -> Problem | None:
    """The problem, if `synchronous_standby_names` names the stream: the application's commits then wait for its confirmation."""
    [(names,)] = connection.execute("SELECT current_setting('synchronous_standby_names')").fetchall()
    named = {(quoted.replace('""', '"') or plain).lower() for quoted, plain in _NAMES.findall(names)}
    if named.isdisjoint(("*", application_name.lower())):
        return None
    return Problem(
        "source",
        "synchronous_standby_names",
        f"is {names!r}, which includes the stream {application_name}: the application's commits wait until the worker confirms "
        "them (with `ack: delivered`: until every destination has them), and count as replicated although no standby has them",
        "list the standbys by name instead of `*`, then SELECT pg_reload_conf(); or give source.url an application_name "
        "that is not in it",
    )
