"""`check`: prints everything that would stop a run, or lose something later, and how to correct it."""

from __future__ import annotations

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


@click.command()
@click.option("--save-schema", "saved", type=_FILE, help="First write the catalog of the database to this file.")
@click.option("--offline", is_flag=True, help="Check the mappings by a saved catalog; open nothing else.")
@click.option("--schema", type=_FILE, help="The saved catalog (default: cdc-tracker.catalog.json beside the configuration).")
@output.as_json
@click.pass_obj
def check(invocation: Invocation, saved: Path | None, offline: bool, schema: Path | None, as_json: bool) -> None:
    """Report everything that would stop a run, and how to correct it.

    Looks at the configuration, the mappings against the tables, the server, the destinations (without sending an event) and the
    stores. Exit code 1 if there is an error; a warning does not count.
    """
    if schema and not offline:
        raise click.UsageError("--schema is for --offline")
    if saved and offline:
        raise click.UsageError("--save-schema reads the database, --offline does without")
    try:
        findings = list(_findings(invocation, saved, offline, schema))
    except ConfigError as error:
        findings = operations.check.problems_of(error, "configuration")
    failed = any(finding.severity == "error" for finding in findings)
    if as_json:
        output.emit({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if failed:
        raise SystemExit(FOUND_PROBLEMS)


def _findings(invocation: Invocation, saved: Path | None, offline: bool, schema: Path | None) -> Iterator[Problem]:
    if offline:
        yield from operations.snapshot.offline(invocation.offline_config, schema)
        return
    if saved:
        yield from operations.snapshot.save(invocation.config, saved)
    yield from operations.check.check(invocation.config)


def _print(findings: list[Problem]) -> None:
    rows = []
    for finding in findings:
        what = output.text(finding.message)
        if finding.hint:
            what.append(output.text(f"\n{finding.hint}", "dim"))
        rows.append((output.mark(finding.severity), ": ".join(part for part in (finding.where, finding.key) if part), what))
    output.console().print(output.table(("", "what", "finding"), rows))
    output.verdict(findings)
