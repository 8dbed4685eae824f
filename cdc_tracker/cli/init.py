"""`init`: writes a configuration and starting mapping files."""

from __future__ import annotations

from pathlib import Path

import click

from cdc_tracker import operations
from cdc_tracker.cli import output


@click.command()
@click.option(
    "--url", required=True, envvar="DATABASE_URL", show_envvar=True, help="The database, as a libpq URL or conninfo string."
)
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where to write.")
@click.option("--schema", "schemas", multiple=True, help="Only this schema; may be given several times.")
@click.option("--with-examples", is_flag=True, help="Add an example from a row of the table, without personal columns.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def init(url: str, folder: Path, schemas: tuple[str, ...], with_examples: bool, force: bool) -> None:
    """Write cdc-tracker.yml and a starting mapping file for each table.

    The database is only read: its catalog and, for --with-examples, a few rows of each table. A password is never written: the
    file refers to $DATABASE_URL.
    """
    files = operations.scaffold.starting_files(url, schemas, with_examples=with_examples)
    texts = {folder / name: text for name, text in files.items()}
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
    steps = [] if folder == Path() else [f"cd {folder}"]
    if export := operations.scaffold.export_line(url):
        steps.append(export)
    steps += ["cdc-tracker check", "cdc-tracker setup", "cdc-tracker run"]
    output.say("\nNext:\n" + "\n".join(f"  {step}" for step in steps))
