"""`check`: prints everything that would stop a run, or lose something later, and how to correct it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import FOUND_PROBLEMS, Invocation, output
from cdc_tracker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdc_tracker.errors import Problem


_FILE = click.Path(path_type=Path, dir_okay=False)
_SQL = click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True)


@click.command()
@click.option("--save-schema", "saved", type=_FILE, help="First write the catalog of the database to this file.")
@click.option("--offline", is_flag=True, help="Check the mappings by a saved catalog; open nothing else.")
@click.option("--migration", "first", type=_SQL, help="Say what this file of SQL would break, then FILES. -: standard input.")
@click.option("--schema", type=_FILE, help="The saved catalog (default: cdc-tracker.catalog.json); for a migration also .sql.")
@click.option("--scratch", "url", help="Try the migration on this server instead of an embedded one.")
@click.argument("files", nargs=-1, type=_SQL)
@output.as_json
@click.pass_obj
def check(
    invocation: Invocation,
    saved: Path | None,
    offline: bool,
    first: Path | None,
    schema: Path | None,
    url: str | None,
    files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Report everything that would stop a run, and how to correct it.

    Looks at the configuration, the mappings against the tables, the server, the destinations (without sending an event) and the
    stores. Exit code 1 if there is an error; a warning does not count.

    With --offline only at configuration and mappings. With --migration at what changes for the mappings if the SQL runs: it is
    tried in a database that is thrown away, made from the catalog of the source or from --schema. Check only what you would run.
    """
    migrations = [first, *files] if first else []
    _combined(migrations, saved=bool(saved), offline=offline, schema=bool(schema), url=bool(url), files=bool(files))
    try:
        if migrations:
            findings = list(_migration(invocation, migrations, offline, schema, url))
        elif offline:
            findings = list(operations.snapshot.offline(invocation.offline_config, schema))
        else:
            findings = list(operations.snapshot.save(invocation.config, saved)) if saved else []
            findings += operations.check.check(invocation.config)
    except ConfigError as error:
        findings = operations.check.problems_of(error, "configuration")
    failed = any(finding.severity == "error" for finding in findings)
    if as_json:
        output.emit({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if failed:
        raise SystemExit(FOUND_PROBLEMS)


def _combined(migrations: list[Path], *, saved: bool, offline: bool, schema: bool, url: bool, files: bool) -> None:
    if saved and (offline or migrations):
        raise click.UsageError("--save-schema is for a check of the database")
    if schema and not (offline or migrations):
        raise click.UsageError("--schema is for --offline and --migration")
    if (url or files) and not migrations:
        raise click.UsageError("--scratch and FILES are for --migration")


def _migration(
    invocation: Invocation, files: list[Path], offline: bool, schema: Path | None, url: str | None
) -> Iterator[Problem]:
    config = invocation.offline_config if offline or schema else invocation.config
    if offline and schema is None:
        schema = config.base / operations.snapshot.DEFAULT_FILE
    migration = operations.migration
    piped = [migration.Script("standard input", sys.stdin.read(), Path.cwd()) for file in files if str(file) == "-"]
    scripts = [migration.script(file) if str(file) != "-" else piped[0] for file in files]
    return migration.check_migration(config, scripts, schema=schema, url=url)


def _print(findings: list[Problem]) -> None:
    rows = []
    for finding in findings:
        what = output.text(finding.message)
        if finding.hint:
            what.append(output.text(f"\n{finding.hint}", "dim"))
        rows.append((output.mark(finding.severity), ": ".join(part for part in (finding.where, finding.key) if part), what))
    output.console().print(output.table(("", "what", "finding"), rows))
    output.verdict(findings)
