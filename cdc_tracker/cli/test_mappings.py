"""`test-mappings`: runs the examples in the mapping files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdc_tracker.cli import FOUND_PROBLEMS, Invocation, output, tell
from cdc_tracker.errors import ConfigError, MappingError

if TYPE_CHECKING:
    from cdc_tracker.mapping import ExampleResult, Mappings


@click.command("test-mappings")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))
@output.as_json
@click.pass_obj
def test_mappings(invocation: Invocation, paths: tuple[Path, ...], as_json: bool) -> None:
    """Run the examples in the mapping files. Needs no database.

    PATHS are files or folders; without them, those of the configuration. Exit code 1 where an example or a file does not hold.
    """
    from cdc_tracker.mapping import run_examples  # noqa: PLC0415
    from cdc_tracker.sources.postgres.values import codec  # noqa: PLC0415

    try:
        mappings = _loaded(invocation, paths)
    except ConfigError as error:
        if invocation.debug:
            raise
        _refused(error, as_json)
        raise SystemExit(FOUND_PROBLEMS) from None
    results = run_examples(mappings, codec)
    if as_json:
        output.emit(_as_json(mappings, results))
    else:
        _print(mappings, results)
    if not all(result.passed for result in results):
        raise SystemExit(FOUND_PROBLEMS)


def _loaded(invocation: Invocation, paths: tuple[Path, ...]) -> Mappings:
    """Without paths, also checked against the destinations that are configured."""
    if paths:
        from cdc_tracker.mapping import load  # noqa: PLC0415

        return load(paths)
    from cdc_tracker.cli.stores import load_config  # noqa: PLC0415

    return load_config(invocation).load_mappings()


def _refused(error: ConfigError, as_json: bool) -> None:
    if not as_json:
        tell(error)
        return
    problems = error.problems if isinstance(error, MappingError) else []
    output.emit({"problems": [output.problem(each) for each in problems] or [{"message": str(error)}], "examples": []})


def _print(mappings: Mappings, results: list[ExampleResult]) -> None:
    failed = [result for result in results if not result.passed]
    for warning in mappings.warnings:
        output.say("⚠ ", fg="yellow", nl=False)
        output.say(str(warning))
    for result in failed:
        output.say("✗ ", fg="red", nl=False)
        output.say(f"{result.where}: {result.mapping}, example {result.index + 1}" + _described(result))
        output.say(f"    expected  {result.expected}")
        output.say(f"    got       {result.got}")
        for difference in result.differences:
            output.say(f"    - {difference}")
    without = sorted({mapping.key for mapping in mappings.all} - {result.mapping for result in results})
    if without:
        output.say(f"without an example: {', '.join(without)}")
    passed = f"{output.plural(len(results) - len(failed), 'example')} passed"
    output.say(f"{passed}, {len(failed)} failed" if failed else passed, fg="red" if failed else "green")


def _described(result: ExampleResult) -> str:
    return f" ({result.description})" if result.description else ""


def _as_json(mappings: Mappings, results: list[ExampleResult]) -> dict[str, object]:
    return {
        "problems": [output.problem(warning) for warning in mappings.warnings],
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
            for result in results
        ],
    }
