"""The examples in mapping files, run without a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdc_tracker.config.config import Config
from cdc_tracker.errors import Problem
from cdc_tracker.mapping import ExampleResult, Mappings, load, run_examples
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.worker import assemble


@dataclass(frozen=True)
class Examples:
    """`warnings`: of the files. `results`: in the order of the files. `untested`: keys of mappings without an example."""

    warnings: tuple[Problem, ...]
    results: tuple[ExampleResult, ...]
    untested: tuple[str, ...]

    @property
    def failed(self) -> list[ExampleResult]:
        return [result for result in self.results if not result.passed]


def of_files(paths: Sequence[Path]) -> Examples:
    """Loads these files and folders and runs their examples. Raises MappingError."""
    return _run(load(paths))


def of_config(config: Config) -> Examples:
    """Runs the examples of the configured files. Raises MappingError, also if a mapping names an unknown destination."""
    return _run(assemble.load_mappings(config))


def _run(mappings: Mappings) -> Examples:
    results = tuple(run_examples(mappings, codec))
    untested = {mapping.key for mapping in mappings.all} - {result.mapping for result in results}
    return Examples(mappings.warnings, results, tuple(sorted(untested)))
