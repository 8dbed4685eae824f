"""YAML files with places: every key and value knows its line, so that an error can name it.

A stricter YAML than PyYAML's: keys are always text, a repeated key is an error, only `true` and `false` are booleans (`on`, `yes`
and `no` stay text), numbers with a fraction are Decimal, and dates, leading zeros and `1_000` stay text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cdc_tracker.config.nearest import nearest
from cdc_tracker.errors import ConfigError, Problem

Loc = tuple[str | int, ...]
_MAX_BYTES = 4_000_000
_MAX_NODES = 200_000  # aliases count each time they are used, so that a few lines cannot grow into gigabytes
_MAX_DEPTH = 60
_MERGE = "tag:yaml.org,2002:merge"


class DocumentError(ConfigError):
    """A file is not YAML as we read it. `problems` lists what is wrong."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Place(NamedTuple):
    """Counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """What a file holds: plain dicts, lists, str, int, Decimal, bool and None. An empty file holds None."""

    path: Path
    value: Any
    keys: dict[Loc, Place] = field(default_factory=dict)
    values: dict[Loc, Place] = field(default_factory=dict)

    def place(self, loc: Sequence[str | int]) -> Place:
        """Where the key at `loc` stands (a list's element: the element itself), or else the nearest thing around it."""
        for length in range(len(loc), 0, -1):
            at = tuple(loc[:length])
            if found := self.keys.get(at) or self.values.get(at):
                return found
        return self.values.get((), Place(1, 1))

    def where(self, loc: Sequence[str | int] = ()) -> str:
        """`file:line` of the key at `loc`."""
        return f"{self.path}:{self.place(loc).line}"


def load(path: Path) -> Document:
    """Read a file. Raises DocumentError, which names file, line and key."""
    return parse(read_text(path), path)


def read_text(path: Path) -> str:
    """What `parse` takes. Raises DocumentError where the file cannot be read, is too large or is not UTF-8."""
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
    """Like `load`, for text that is already here; `path` is what errors name."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise DocumentError([Problem(place, "", f"is not YAML: {error.problem or error.context}")]) from None
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
    """The safe loader with our own idea of what plain text means."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  as its base class has it


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?", "-+0123456789."),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class _Reading:
    """One walk over a file's nodes."""

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
        """Read a mapping or a list, which may not be a part of itself."""
        if any(node is each for each in self.around):
            self.problem(node, loc, "holds itself, by an alias")
            return {}
        self.around.append(node)
        found = read(node, loc)
        self.around.pop()
        return found

    def _list(self, node: yaml.SequenceNode, loc: Loc) -> list[Any]:
        if node.tag != "tag:yaml.org,2002:seq":
            self.problem(node, loc, f"has the tag {node.tag!r}, which is not used here")
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
            self.problem(node, loc, f"has the tag {node.tag!r}, which is not used here")
        found: dict[str, Any] = {}
        own: set[str] = set()
        for key_node, value_node in node.value:  # merged first: a key of the mapping itself is stronger, and so is its place
            if key_node.tag == _MERGE:
                for source in self._merged(value_node, loc):
                    found |= self._within(source, self._mapping, loc)
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, loc, "has a key that is not plain text")
                continue
            if key_node.tag == _MERGE:
                continue
            key, at = key_node.value, (*loc, key_node.value)
            if key in own:
                self.problem(key_node, at, f"stands twice, first on line {self.document.keys[at].line}")
                continue
            own.add(key)
            self.document.keys[at] = _place(key_node)
            found[key] = self.value(value_node, at)
        return found

    def _merged(self, node: yaml.Node, loc: Loc) -> Iterator[yaml.MappingNode]:
        """What `<<` names, the weakest first: of a list, the first is the strongest."""
        for source in reversed(node.value if isinstance(node, yaml.SequenceNode) else [node]):
            if not isinstance(source, yaml.MappingNode):
                self.problem(node, loc, "`<<` takes a mapping, or a list of them")
            elif self._room(source, loc):
                yield source

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        text = str(node.value)
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            self.problem(node, loc, "holds half a surrogate pair, which is not text")
            return ""
        if kind in {"str", "merge"}:
            return text
        try:
            return _SCALARS[kind](text)
        except KeyError:
            self.problem(node, loc, f"has the tag {node.tag!r}, which is not used here")
        except (ValueError, ArithmeticError):
            self.problem(node, loc, f"is not {_KIND_WORDS[kind]}: {text[:40]!r}")
        return None


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(text)
    return text.lower() == "true"


_SCALARS: dict[str, Any] = {"bool": _boolean, "null": lambda _: None, "int": int, "float": Decimal}
_KIND_WORDS = {"bool": "true or false", "null": "empty", "int": "a whole number of reasonable length", "float": "a number"}


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def dotted(loc: Sequence[str | int]) -> str:
    """`("events", 0, "name")` → `events[0].name`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def explain(
    error: ValidationError, document: Document, model: type[BaseModel] | None = None, above: int | None = None
) -> list[Problem]:
    """The errors of a pydantic model in plain words, each with file, line and key, in the order of the file.

    `model` is what was validated; without it the model of the error's title is looked for. `above`: how many parts of an error's
    place lie outside the model; without it that is looked for.
    """
    model = model or _model_named(error.title)
    found = []
    for detail in error.errors(include_url=False, include_input=True):
        loc = _within(document, detail["loc"])
        found.append((document.place(loc), Problem(document.where(loc), dotted(loc), _message(detail, model, above))))
    return [problem for _, problem in sorted(found, key=lambda pair: pair[0])]


def _within(document: Document, loc: Loc) -> Loc:
    """The error's place without what pydantic adds of its own (the names of a union's members, `[key]`)."""
    path: Loc = ()
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if (*path, part) in document.values or (last and isinstance(part, str) and part.isidentifier()):
            path = (*path, part)
    return path


_WORDS = {
    "missing": "is missing",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "path_type": "must be a path",
    "too_short": "must hold at least {min_length}",
    "too_long": "must hold at most {max_length}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
}


def _message(detail: ErrorDetails, model: type[BaseModel] | None, above: int | None) -> str:
    kind, context = detail["type"], detail.get("ctx") or {}
    if kind == "extra_forbidden":
        name = str(detail["loc"][-1])
        return f"is not a known key{nearest(name, _known_keys(model, detail['loc'], above))}"
    if kind in {"literal_error", "enum"}:
        allowed = re.findall(r"'([^']*)'|(\d+)", str(context.get("expected", "")))
        names = [text or number for text, number in allowed]
        return (
            f"must be one of {', '.join(names)}, not {_shown(detail['input'], detail['loc'])}{_only_near(detail['input'], names)}"
        )
    if kind in _WORDS:
        text = _WORDS[kind].format(**context)
        return (
            text
            if kind in {"missing"} or isinstance(detail["input"], dict | list)
            else f"{text}, not {_shown(detail['input'], detail['loc'])}"
        )
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[:1].lower() + message[1:] if message.startswith("Input ") else message


def _only_near(value: object, names: list[str]) -> str:
    text = nearest(str(value), names, list_all=0)
    return text if "did you mean" in text else ""


_SECRET = re.compile(r"pass|secret|token|key|url|dsn|credential", re.IGNORECASE)


def _shown(value: object, loc: Loc) -> str:
    """A value within a message; never a long one, and never one that may be secret."""
    if any(_SECRET.search(str(part)) for part in loc):
        return "what is there"
    text = "nothing" if value is None else repr(value) if isinstance(value, str) else str(value)
    text = {"True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _known_keys(model: type[BaseModel] | None, loc: Loc, above: int | None) -> list[str]:
    """The keys allowed where `loc`'s last part stands. The model may be of a part of the file: its start is looked for."""
    starts = range(len(loc)) if above is None else (above,)
    for start in starts if model else ():
        found = list(_walk(model, loc[start:-1]))
        if found:
            return list(dict.fromkeys(name for each in found for name in _names(each)))
    return []


def _names(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _walk(annotation: Any, loc: Loc) -> Iterator[type[BaseModel]]:
    """The models that may stand at `loc` below something of this type."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _walk(parts[0], loc)
    elif origin in {Union, UnionType}:
        for part in parts:
            yield from _walk(part, loc)
            if loc and loc[0] == getattr(part, "__name__", None):
                yield from _walk(part, loc[1:])
    elif origin in {list, tuple} and loc:
        yield from _walk(parts[0], loc[1:])
    elif origin is dict and loc:
        yield from _walk(parts[1], loc[1:])
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _walk_model(annotation, loc)


def _walk_model(model: type[BaseModel], loc: Loc) -> Iterator[type[BaseModel]]:
    if not loc:
        yield model
        return
    for name, info in model.model_fields.items():
        if loc[0] in {name, info.alias}:
            yield from _walk(info.annotation, loc[1:])


def _model_named(title: str) -> type[BaseModel] | None:
    waiting: list[type[BaseModel]] = list(BaseModel.__subclasses__())
    while waiting:
        model = waiting.pop()
        if model.__name__ == title:
            return model
        waiting += model.__subclasses__()
    return None
