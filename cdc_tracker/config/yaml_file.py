"""YAML files with places: the line of every key and value is known, so that an error can name it.

Stricter than PyYAML: keys are always text, a duplicate key is an error, only `true` and `false` are booleans (`on`, `yes` and
`no` stay text), numbers with a fraction are Decimal, and dates, leading zeros and `1_000` stay text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cdc_tracker.config.yaml_habits import wrong_with
from cdc_tracker.errors import ConfigError, Problem

Loc = tuple[str | int, ...]
_MAX_BYTES = 4_000_000
_MAX_NODES = 200_000  # an alias counts each time it is used: a few lines cannot grow into gigabytes
_MAX_DEPTH = 60
_MERGE = "tag:yaml.org,2002:merge"


class DocumentError(ConfigError):
    """A file cannot be read, or is not YAML of this strict kind. `problems` lists what is wrong."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Place(NamedTuple):
    """A place in a file, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """The content of a file as dict, list, str, int, Decimal, bool, None (also for an empty file). `keys`, `values`: places."""

    path: Path
    value: Any
    keys: dict[Loc, Place] = field(default_factory=dict)
    values: dict[Loc, Place] = field(default_factory=dict)

    def place(self, loc: Sequence[str | int]) -> Place:
        """The place of the key at `loc` (of a list's element: of the element), or else of the innermost one around it."""
        for length in range(len(loc), 0, -1):
            at = tuple(loc[:length])
            if found := self.keys.get(at) or self.values.get(at):
                return found
        return self.values.get((), Place(1, 1))

    def where(self, loc: Sequence[str | int] = ()) -> str:
        """`file:line` of the key at `loc`."""
        return f"{self.path}:{self.place(loc).line}"


def load(path: Path) -> Document:
    """Reads a file. Raises DocumentError, which names file, line and key."""
    return parse(read_text(path), path)


def read_text(path: Path) -> str:
    """The text of a file. Raises DocumentError if the file cannot be read, is too large or is not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DocumentError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None
    if len(raw) > _MAX_BYTES:
        raise DocumentError([Problem(str(path), "", f"is larger than {_MAX_BYTES // 1_000_000} MB")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DocumentError([Problem(f"{path}:{line}", "", "is not UTF-8 text")]) from None


def parse(text: str, path: Path) -> Document:
    """Like `load`, for the text of a file; errors name `path`."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        wrong = wrong_with(text.splitlines(), mark.line) if mark else ""
        raise DocumentError([Problem(place, "", f"is not YAML: {wrong or error.problem or error.context}")]) from None
    except yaml.YAMLError as error:
        raise DocumentError([Problem(str(path), "", f"is not YAML: {' '.join(str(error).split())}")]) from None
    except (RecursionError, ValueError):
        raise DocumentError([Problem(str(path), "", "is nested too deeply, or is not YAML")]) from None
    reading = _Reading(Document(path, None))
    value = reading.value(node, ()) if node is not None else None
    if reading.problems:
        raise DocumentError(reading.problems)
    return Document(path, value, reading.document.keys, reading.document.values)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with fewer kinds of scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  as in its base class


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?", "-+0123456789."),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class _Reading:
    """Converts the nodes of one file, and collects problems and places."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.nodes = 0
        self.around: list[yaml.Node] = []  # the mappings and lists that are being read

    def problem(self, node: yaml.Node, loc: Loc, message: str) -> None:
        self.problems.append(Problem(f"{self.document.path}:{node.start_mark.line + 1}", dotted(loc), message))

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        if not self._room(node, loc):
            return None
        self.document.values[loc] = _place(node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, loc)
        return self._within(node, self._mapping if isinstance(node, yaml.MappingNode) else self._list, loc)

    def _within(self, node: yaml.Node, read: Callable[[Any, Loc], Any], loc: Loc) -> Any:
        """Reads a mapping or a list, which must not contain itself."""
        if any(node is each for each in self.around):
            self.problem(node, loc, "contains itself through an alias")
            return {}
        self.around.append(node)
        found = read(node, loc)
        self.around.pop()
        return found

    def _list(self, node: yaml.SequenceNode, loc: Loc) -> list[Any]:
        if node.tag != "tag:yaml.org,2002:seq":
            self.problem(node, loc, _no_tag(node))
        return [self.value(inner, (*loc, index)) for index, inner in enumerate(node.value)]

    def _room(self, node: yaml.Node, loc: Loc) -> bool:
        self.nodes += 1
        if self.nodes <= _MAX_NODES and len(loc) <= _MAX_DEPTH:
            return True
        if not self.problems or self.problems[-1].message != "is too large or nested too deeply":
            self.problem(node, loc, "is too large or nested too deeply")
        return False

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        if node.tag != "tag:yaml.org,2002:map":
            self.problem(node, loc, _no_tag(node))
        found: dict[str, Any] = {}
        own: set[str] = set()
        for key_node, value_node in node.value:  # merged first: the mapping's own keys, and their places, override them
            if key_node.tag == _MERGE:
                for source in self._merged(value_node, loc):
                    found |= self._within(source, self._mapping, loc)
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, loc, "has a key that is not plain text; {{ … }} is no template here")
                continue
            if key_node.tag == _MERGE:
                continue
            key, at = key_node.value, (*loc, key_node.value)
            if key in own:
                self.problem(key_node, at, f"duplicate key, first defined on line {self.document.keys[at].line}")
                continue
            own.add(key)
            self.document.keys[at] = _place(key_node)
            found[key] = self.value(value_node, at)
        return found

    def _merged(self, node: yaml.Node, loc: Loc) -> Iterator[yaml.MappingNode]:
        """The mappings that `<<` names, those that are overridden first: of a list, the first overrides the others."""
        for source in reversed(node.value if isinstance(node, yaml.SequenceNode) else [node]):
            if not isinstance(source, yaml.MappingNode):
                self.problem(node, loc, "`<<` takes a mapping, or a list of them")
            elif self._room(source, loc):
                yield source

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        text = str(node.value)
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            self.problem(node, loc, "contains half a surrogate pair, which is not text")
            return ""
        if kind in {"str", "merge"}:
            return text
        try:
            return _SCALARS[kind](text)
        except KeyError:
            self.problem(node, loc, _no_tag(node))
        except (ValueError, ArithmeticError):
            self.problem(node, loc, f"is not {_KIND_WORDS[kind]}: {text[:40]!r}")
        return None


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(text)
    return text.lower() == "true"


_SCALARS: dict[str, Any] = {"bool": _boolean, "null": lambda _: None, "int": int, "float": Decimal}
_KIND_WORDS = {"bool": "true or false", "null": "empty", "int": "a whole number of reasonable length", "float": "a number"}


def _no_tag(node: yaml.Node) -> str:
    return f"has the tag {node.tag!r}, which is not supported; a value that begins with ! must be quoted"


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def dotted(loc: Sequence[str | int]) -> str:
    """`("events", 0, "name")` → `events[0].name`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
