"""Errors of pydantic models in plain words, each at its place in the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, Tag, ValidationError
from pydantic_core import ErrorDetails

from cdc_tracker.config.nearest import nearest
from cdc_tracker.config.yaml_file import Document, Loc, dotted
from cdc_tracker.errors import Problem

_HIDDEN = SecretStr("hidden")


def explain(
    error: ValidationError,
    document: Document,
    model: type[BaseModel],
    *,
    prefix: Loc = (),
    overridden: Callable[[Loc], str | None] = lambda _: None,
    hidden: Callable[[Loc], bool] = lambda _: False,
) -> list[Problem]:
    """The errors of a pydantic model in plain words, each with file, line and key, in the order of the file.

    `model` is what was validated, `prefix` its place in the document. `overridden`: the environment variable, if any, that a
    value came from in place of the file. `hidden`: whether the value at a place must not be shown.
    """
    found = []
    for detail in error.errors(include_url=False, include_input=True):
        full = (*prefix, *detail["loc"])
        loc = _within(document, full)
        value = _HIDDEN if hidden(full) else detail["input"]
        variable = overridden(full)
        where, key = (variable, dotted(full)) if variable else (document.where(loc), dotted(loc))
        text = _message(detail, full, value, model, len(prefix))
        found.append((document.place(full if variable else loc), Problem(where, key, text)))
    return [problem for _, problem in sorted(found, key=lambda pair: pair[0])]


def _within(document: Document, loc: Loc) -> Loc:
    """The error's location without the parts that pydantic adds (names of a union's members, `[key]`)."""
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
    "too_short": "must contain at least {min_length}",
    "too_long": "must contain at most {max_length}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
}


def _message(detail: ErrorDetails, loc: Loc, value: object, model: type[BaseModel], above: int) -> str:
    kind, context = detail["type"], detail.get("ctx") or {}
    if kind == "extra_forbidden":
        return f"is not a known key{nearest(str(loc[-1]), _known_keys(model, loc, above))}"
    if kind in {"literal_error", "enum"}:
        allowed = re.findall(r"'([^']*)'|(\d+)", str(context.get("expected", "")))
        names = [text or number for text, number in allowed]
        return f"must be one of {', '.join(names)}, not {_shown(value, loc)}{_only_near(value, names)}"
    if kind in _WORDS:
        text = _WORDS[kind].format(**context)
        return text if kind == "missing" or isinstance(value, dict | list) else f"{text}, not {_shown(value, loc)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[:1].lower() + message[1:] if message.startswith("Input ") else message


def _only_near(value: object, names: list[str]) -> str:
    text = nearest(str(value), names, list_all=0)
    return text if "did you mean" in text else ""


_SECRET = re.compile(r"pass|secret|token|key|url|dsn|credential", re.IGNORECASE)


def _shown(value: object, loc: Loc) -> str:
    """A value as a message shows it: shortened, and replaced if it may be secret."""
    if any(_SECRET.search(str(part)) for part in loc):
        return "what is there"
    text = "nothing" if value is None else repr(value) if isinstance(value, str) else str(value)
    text = {"True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _known_keys(model: type[BaseModel], loc: Loc, above: int) -> list[str]:
    """The keys that are allowed beside the last part of `loc`."""
    return list(dict.fromkeys(name for each in _walk(model, loc[above:-1]) for name in _names(each)))


def _names(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _walk(annotation: Any, loc: Loc) -> Iterator[type[BaseModel]]:
    """The models that a value at `loc` within this type may have."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        tagged = any(isinstance(each, Tag) and loc[:1] == (each.tag,) for each in parts[1:])
        yield from _walk(parts[0], loc[1:] if tagged else loc)
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
