"""`test-mappings`: runs the examples in the mapping files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import FOUND_PROBLEMS, Invocation, output, report
from cdc_tracker.errors import ConfigError, MappingError
from cdc_tracker.units import plural

if TYPE_CHECKING:
    from cdc_tracker.operations.examples import Examples


@click.command("test-mappings")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))
@output.as_json
@click.pass_obj
def test_mappings(invocation: Invocation, paths: tuple[Path, ...], as_json: bool) -> None:
    """Check the mapping files and run their examples. Needs no database.

    PATHS are files or folders; without them, those of the configuration. Exit code 1 if an example fails or there is an error; a
    warning does not count.
    """
    try:
        found = operations.examples.of_files(paths) if paths else operations.examples.of_config(invocation.config)
    except ConfigError as error:
        if invocation.debug:
            raise
        _refused(error, as_json)
        raise SystemExit(FOUND_PROBLEMS) from None
    if as_json:
        output.emit(_as_json(found))
    else:
        _print(found)
    if not found.passed:
        raise SystemExit(FOUND_PROBLEMS)


def _refused(error: ConfigError, as_json: bool) -> None:
    problems = error.problems if isinstance(error, MappingError) else []
    if as_json:
        output.emit({"problems": [asdict(each) for each in problems] or [{"message": str(error)}], "examples": []})
    elif problems:
        for problem in problems:
            output.finding(problem)
        output.verdict(problems)
    else:
        report(error)


def _print(found: Examples) -> None:
    for problem in found.problems:
        output.finding(problem)
    for result in found.failed:
        output.say("✗ ", fg="red", nl=False)
        described = f" ({result.description})" if result.description else ""
        output.say(f"{result.where}: {result.mapping}, example {result.index + 1}{described}")
        output.say(f"    expected  {result.expected}")
        output.say(f"    got       {result.got}")
        for difference in result.differences:
            output.say(f"    - {difference}")
    if found.untested:
        output.say(f"without an example: {', '.join(found.untested)}")
    failed = len(found.failed)
    passed = f"{plural(len(found.results) - failed, 'example')} passed"
    output.say(f"{passed}, {failed} failed" if failed else passed, fg="red" if failed else "green")
    if found.problems:
        output.verdict(found.problems)


def _as_json(found: Examples) -> dict[str, object]:
    return {
        "problems": [asdict(problem) for problem in found.problems],
        "examples": [
            {
                "mapping": result.mapping,
                "example": result.index + 1,
                "where": result.where,
                "passed": result.passed,
                "expected": result.expected,
                "got": result.got,
                "differences": result.differences,
            }
            for result in found.results
        ],
    }
