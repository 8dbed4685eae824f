"""`sql`: prints the scripts that a DBA reads and runs."""

from __future__ import annotations

import click

from cdc_tracker.cli import output

SCRIPTS = {
    "role": "A role with no more rights than the worker needs.",
    "outbox": "The outbox table.",
    "functions": "Functions such as track(), which write events to the WAL.",
    "publication": "The publications, by hand; `setup --print-sql` prints those that your mappings need.",
    "teardown": "Removes everything.",
}


@click.command(epilog="\b\n" + "\n".join(f"{name:12} {text}" for name, text in SCRIPTS.items()))
@click.argument("name", type=click.Choice(list(SCRIPTS)))
def sql(name: str) -> None:
    """Print one of the SQL scripts that come with cdc-tracker, as in: cdc-tracker sql role | psql -d shop"""
    from cdc_tracker.sources.postgres import scripts  # noqa: PLC0415

    output.say(scripts.script(name), nl=False)
