"""Mapping files → Mappings, or all problems of all files at once."""

from __future__ import annotations

import collections.abc
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from cdc_tracker.config import yaml_file
from cdc_tracker.config.explain import explain
from cdc_tracker.config.yaml_file import Document, DocumentError
from cdc_tracker.errors import MappingError, Problem
from cdc_tracker.mapping.schema.declared import Mapping, Mappings
from cdc_tracker.mapping.schema.events import EventReader
from cdc_tracker.mapping.schema.shape import FileShape


def load(paths: Sequence[Path]) -> Mappings:
    """Reads mapping files, and the *.yml and *.yaml files of folders. Raises MappingError with all problems found."""
    problems: list[Problem] = []
    return _load((partial(yaml_file.load, path) for path in _files(paths, problems)), problems)


def texts(paths: Sequence[Path]) -> dict[str, str]:
    """File name → text of all files that `load` would read. Raises MappingError if one cannot be read."""
    problems: list[Problem] = []
    found: dict[str, str] = {}
    for path in _files(paths, problems):
        try:
            found[str(path)] = yaml_file.read_text(path)
        except DocumentError as error:
            problems += error.problems
    if problems:
        raise MappingError(problems)
    return found


def load_texts(given: collections.abc.Mapping[str, str]) -> Mappings:
    """As `load`, for the result of `texts`. Raises MappingError."""
    return _load((partial(yaml_file.parse, text, Path(name)) for name, text in given.items()), [])


def _load(opened: Iterable[Callable[[], Document]], problems: list[Problem]) -> Mappings:
    found: list[Mapping] = []
    for document in opened:
        try:
            found += read(document(), problems)
        except DocumentError as error:
            problems += error.problems
    warnings = [problem for problem in problems if problem.severity == "warning"]
    errors = [problem for problem in problems if problem.severity != "warning"] + list(_duplicates(found))
    if errors:
        raise MappingError(errors)
    return Mappings(tuple(found), tuple(warnings))


def _files(paths: Sequence[Path], problems: list[Problem]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix in {".yml", ".yaml"} and each.is_file())
            if not inside:
                problems.append(Problem(str(path), "", "contains no mapping file (*.yml, *.yaml)"))
            yield from inside
        elif path.is_file():
            yield path
        else:
            problems.append(Problem(str(path), "", "no such file or folder"))


def _duplicates(found: Sequence[Mapping]) -> Iterator[Problem]:
    first: dict[str, Mapping] = {}
    for mapping in found:
        other = first.setdefault(mapping.key, mapping)
        if other is not mapping:
            yield Problem(
                mapping.where,
                mapping.key,
                f"duplicate key, first defined at {other.where}",
                "Two mappings may declare the same event: give one of them a `key` of its own.",
            )


def read(document: Document, problems: list[Problem]) -> list[Mapping]:
    """The valid mappings of one file. Problems of the others are appended to `problems`."""
    if not isinstance(document.value, dict):
        problems.append(Problem(document.where(), "", "must be a mapping with `version: 1` and `events`"))
        return []
    try:
        shape = FileShape.model_validate(document.value)
    except ValidationError as error:
        problems += [_outdented(problem, document) for problem in explain(error, document, FileShape)]
        return []
    except RecursionError:
        problems.append(Problem(document.where(), "", "is nested too deeply"))
        return []
    mappings = []
    for index, event in enumerate(shape.events):
        reader = EventReader(document, shape.defaults, event, ("events", index))
        mapping = reader.mapping()
        problems += reader.problems
        if all(problem.severity == "warning" for problem in reader.problems):
            mappings.append(mapping)
    return mappings


def _outdented(problem: Problem, document: Document) -> Problem:
    """Asks of an unknown key of an event that has an empty `properties:` or the like whether it belongs under that."""
    found = re.fullmatch(r"events\[(\d+)\]\.\w+", problem.key)
    if found is None or not problem.message.startswith("is not a known key"):
        return problem
    event = document.value["events"][int(found[1])]
    empty = next((name for name in ("properties", "traits", "context", "let") if name in event and not event[name]), None)
    if empty is None:
        return problem
    return replace(problem, message=f"{problem.message} Or does it belong under `{empty}` (indent it)?")
