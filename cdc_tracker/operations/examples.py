"""The examples in mapping files, run without a database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdc_tracker.config.config import Config
from cdc_tracker.errors import Problem
from cdc_tracker.mapping import ExampleResult, Mappings, findings, lints, load, run_examples
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.worker import assemble


@dataclass(frozen=True)
class Examples:
    """`problems`: what is found without a database. `results`: in the order of the files. `untested`: mappings without any."""

    problems: tuple[Problem, ...]
    results: tuple[ExampleResult, ...]
    untested: tuple[str, ...]

    @property
    def failed(self) -> list[ExampleResult]:
        return [result for result in self.results if not result.passed]

    @property
    def passed(self) -> bool:
        """Whether no example fails, and nothing found is an error."""
        return not self.failed and all(problem.severity != "error" for problem in self.problems)


def of_files(paths: Sequence[Path]) -> Examples:
    """Loads these files and folders and runs their examples. Raises MappingError."""
    return _run(load(paths), ())


def of_config(config: Config) -> Examples:
    """Runs the examples of the configured files. Raises MappingError, also if a mapping names an unknown destination."""
    mappings = assemble.load_mappings(config)
    return _run(mappings, lints.selections(config.destinations, mappings, outbox=config.source.outbox is not None))


def _run(mappings: Mappings, more: Iterable[Problem]) -> Examples:
    results = tuple(run_examples(mappings, codec))
    untested = {mapping.key for mapping in mappings.all} - {result.mapping for result in results}
    return Examples((*mappings.warnings, *findings(mappings, None, codec), *more), results, tuple(sorted(untested)))
