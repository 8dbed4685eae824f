"""`schema`: prints the JSON Schema of the configuration and of mapping files."""

from __future__ import annotations

from pathlib import Path

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, output
from cdc_tracker.errors import ConfigError
from cdc_tracker.units import plural


@click.command()
@click.option(
    "--schema", "path", type=click.Path(path_type=Path, dir_okay=False), help="A catalog that `check --save-schema` wrote."
)
@click.pass_obj
def schema(invocation: Invocation, path: Path | None) -> None:
    """Print the JSON Schema of cdc-tracker.yml and mapping files, for editors.

    Write it to cdc-tracker.schema.json, and begin each file with `# yaml-language-server: $schema=cdc-tracker.schema.json`, as
    `init` does. It knows the tables and columns of a saved catalog or, without one, of the database.
    """
    try:
        config = invocation.offline_config
    except ConfigError:
        config = None
    tables, origin = operations.json_schema.known_tables(config, path)
    output.say(operations.json_schema.text(tables), nl=False)
    note = f"With {plural(len(tables), 'table')} of {origin}." if origin else "Without tables: neither a catalog nor a database."
    output.say(note, err=True)
