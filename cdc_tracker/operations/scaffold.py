"""The files that `init` writes: a configuration, and a mapping file for each table that the catalog names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import closing

from cdc_tracker.errors import Stop
from cdc_tracker.logs import hide
from cdc_tracker.operations import json_schema, scaffold_examples
from cdc_tracker.operations.scaffold_mappings import mapping_files
from cdc_tracker.sources.postgres import catalog
from cdc_tracker.sources.postgres.connection import connect

CONFIG_FILE = "cdc-tracker.yml"
VARIABLE = "DATABASE_URL"
"""The environment variable that overrides the URL in the configuration file."""

_CONFIG = """\
# cdc-tracker: changes of the database become events. `cdc-tracker check` says what is wrong in here or with the server.
# Any value may hold ${{VAR}} or ${{VAR:-default}}; CDC_TRACKER_SOURCE__URL and the like override a key.
version: 1

source:
  # {note}
  url: {url}
  # plugin: auto               # wal2json where the server has it, else pgoutput
  # slot: cdc_tracker          # what `cdc-tracker setup` makes in the database
  # publication: cdc_tracker
  # max_wal: 10GB              # above this much retained WAL, journaled changes are acknowledged before they are delivered
  # never_capture:             # columns that must not leave the database (PostgreSQL 15+)
  #   shop.users: [password_hash]

data_dir: ./data               # journal and state, where they have no URL of their own
journal:
  retention: {{age: 7d, size: 10GB}}   # how far a rewind reaches back

mappings: [mappings/]

destinations:
  events:                      # files that hold each event exactly once: events-000001.jsonl, …
    type: jsonl
    path: events.jsonl
  # segment:
  #   type: segment
  #   write_key: ${{SEGMENT_WRITE_KEY}}

http:                          # /healthz, /readyz, /metrics; port: null turns it off
  host: 127.0.0.1
  port: 9464
"""


def starting_files(url: str, schemas: Sequence[str] = (), *, with_examples: bool = False) -> dict[str, str]:
    """Relative path → text: the configuration, a mapping file for each table of the database, or of the `schemas`, and the
    JSON Schema by which editors help with them.

    Reads the database's catalog only; with examples, a few rows of each table besides. Raises Stop if a schema has no table, or
    the database has none.
    """
    with closing(connect(url)) as connection:
        tables = catalog.user_tables(connection)
        found = {table.schema for table in tables}
        if missing := [schema for schema in schemas if schema not in found]:
            raise Stop(f"There is no table in {', '.join(missing)}.", hint=f"There are: {', '.join(sorted(found)) or 'none'}.")
        tables = [table for table in tables if not schemas or table.schema in schemas]
        if not tables:
            raise Stop("The database has no tables to map.", hint="Does the URL name the right database?")
        examples = scaffold_examples.from_rows(connection, tables) if with_examples else {}
    line = f"# yaml-language-server: $schema={{}}{json_schema.FILE}\n"
    files = {f"mappings/{name}": line.format("../") + text for name, text in mapping_files(tables, examples).items()}
    return {CONFIG_FILE: line.format("") + config_text(url), **files, json_schema.FILE: json_schema.text(tables)}


def export_line(url: str) -> str:
    """The shell command that sets the URL, without its password; empty if the configuration file has the URL."""
    hidden = hide(url)  # a file would take } and $ for a reference
    return f"export {VARIABLE}='{hidden}'   # with the password" if hidden != url or re.search(r"[}$]", url) else ""


def config_text(url: str) -> str:
    """The configuration file. The URL is in it, as a default, only if it may be written down."""
    if export_line(url):
        note = f"It has a password, so it is not written here: set {VARIABLE} to the URL that you gave to `init`."
        return _CONFIG.format(note=note, url=f"${{{VARIABLE}}}")
    note = f"{VARIABLE} overrides this. Give a password there, or by PGPASSWORD or ~/.pgpass."
    return _CONFIG.format(note=note, url=json.dumps(f"${{{VARIABLE}:-{url}}}", ensure_ascii=False))
