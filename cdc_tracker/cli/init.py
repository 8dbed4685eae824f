"""`init`: a configuration and starting mapping files from what the database holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdc_tracker.cli import output
from cdc_tracker.errors import Stop

if TYPE_CHECKING:
    from cdc_tracker.sources.postgres.catalog import Table

CONFIG_FILE = "cdc-tracker.yml"
VARIABLE = "DATABASE_URL"

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
  # max_wal: 10GB              # above this much retained WAL, what is in the journal is confirmed, delivered or not
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


@click.command()
@click.option("--url", required=True, envvar=VARIABLE, show_envvar=True, help="The database, as a libpq URL or conninfo string.")
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where to write.")
@click.option("--schema", "schemas", multiple=True, help="Only this schema; may be given several times.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def init(url: str, folder: Path, schemas: tuple[str, ...], force: bool) -> None:
    """Write cdc-tracker.yml and a starting mapping file for each table.

    The database is only read. A password is never written: the file refers to $DATABASE_URL.
    """
    from cdc_tracker.operations import scaffold  # noqa: PLC0415

    tables = _tables(url, schemas)
    texts = {folder / "mappings" / name: text for name, text in scaffold.mapping_files(tables).items()}
    texts = {folder / CONFIG_FILE: config_text(url), **texts}
    existing = [path for path in texts if path.exists()]
    if existing and not force:
        raise click.UsageError(
            f"{', '.join(map(str, existing[:5]))}{' …' if existing[5:] else ''} exist already, and nothing was written. "
            "Give --force to overwrite them, or --dir to write elsewhere."
        )
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        output.say(f"wrote {path}")
    _next_steps(url, folder)


def _tables(url: str, schemas: tuple[str, ...]) -> list[Table]:
    from cdc_tracker.sources.postgres import catalog  # noqa: PLC0415

    connection = catalog.connect(url)
    try:
        tables = catalog.user_tables(connection)
    finally:
        connection.close()
    found = {table.schema for table in tables}
    if missing := [schema for schema in schemas if schema not in found]:
        raise Stop(f"There is no table in {', '.join(missing)}.", hint=f"There are: {', '.join(sorted(found)) or 'none'}.")
    tables = [table for table in tables if not schemas or table.schema in schemas]
    if not tables:
        raise Stop(
            "The database has no tables of its own: there is nothing to map.", hint="Does the URL name the right database?"
        )
    return tables


def config_text(url: str) -> str:
    """The configuration file. The URL stands in it as a default only where it holds no password."""
    from cdc_tracker.logs import hide  # noqa: PLC0415

    if hide(url) != url or re.search(r"[}$]", url):
        note = f"Holds a password, so it is not written here: set {VARIABLE} to the URL that you gave to `init`."
        return _CONFIG.format(note=note, url=f"${{{VARIABLE}}}")
    note = f"{VARIABLE} overrides this. Give a password there, or by PGPASSWORD or ~/.pgpass."
    return _CONFIG.format(note=note, url=json.dumps(f"${{{VARIABLE}:-{url}}}", ensure_ascii=False))


def _next_steps(url: str, folder: Path) -> None:
    from cdc_tracker.logs import hide  # noqa: PLC0415

    steps = [] if folder == Path() else [f"cd {folder}"]
    if "${" + VARIABLE + "}" in config_text(url):
        steps.append(f"export {VARIABLE}='{hide(url)}'   # with the password")
    steps += ["cdc-tracker check", "cdc-tracker setup", "cdc-tracker run"]
    output.say("\nNext:\n" + "\n".join(f"  {step}" for step in steps))
