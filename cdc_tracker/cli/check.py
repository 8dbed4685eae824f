"""`check`: prints everything that would stop a run, or lose something later, and how to correct it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import FOUND_PROBLEMS, Invocation, output
from cdc_tracker.errors import ConfigError
from cdc_tracker.units import plural

if TYPE_CHECKING:
    from cdc_tracker.errors import Problem


@click.command()
@output.as_json
@click.pass_obj
def check(invocation: Invocation, as_json: bool) -> None:
    """Report everything that would stop a run, and how to correct it.

    Looks at the configuration, the mappings against the tables, the server, the destinations (without sending an event) and the
    stores. Exit code 1 if there is an error; a warning does not count.
    """
    try:
        findings = list(operations.check.check(invocation.config))
    except ConfigError as error:
        findings = operations.check.problems_of(error, "configuration")
    failed = any(finding.severity == "error" for finding in findings)
    if as_json:
        output.emit({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if failed:
        raise SystemExit(FOUND_PROBLEMS)


def _print(findings: list[Problem]) -> None:
    rows = []
    for finding in findings:
        what = output.text(finding.message)
        if finding.hint:
            what.append(output.text(f"\n{finding.hint}", "dim"))
        rows.append((output.mark(finding.severity), ": ".join(part for part in (finding.where, finding.key) if part), what))
    output.console().print(output.table(("", "what", "finding"), rows))
    errors, warnings = (sum(finding.severity == severity for finding in findings) for severity in ("error", "warning"))
    counted = plural(warnings, "warning")
    if errors:
        output.say(f"{plural(errors, 'error')}, {counted}.")
    else:
        output.say(f"Nothing would stop a run. {counted}." if warnings else "Nothing would stop a run.")
