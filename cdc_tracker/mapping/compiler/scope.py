"""What the generated code may name: columns of the change's rows, its own variables, and constants."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from cdc_tracker.generated import Names
from cdc_tracker.mapping.language.budget import MAX_STEPS
from cdc_tracker.model import Codec, Missing

TEXT_KINDS = frozenset({"text", "uuid", "time", "other"})
"""Kinds whose value is their text."""

FIXED_NAMES = ("mapper", "change", "new", "old", "transaction", "message_id", "lsn_hex", "lsn_text", "body", "budget", "error")
"""The names that every generated function uses."""


class _Unset:
    """The value of a variable that was not computed yet."""


UNSET = _Unset()


class MissingValue(ValueError):
    """An expression needs a column that the row does not carry."""

    def __init__(self, missing: Missing, column: str) -> None:
        super().__init__(column)
        self.missing = missing
        self.column = column


@dataclass(frozen=True)
class ColumnRef:
    """A column of the change's new or old row. `source` reads its text; `may_be_missing`: that may be a Missing instead."""

    label: str  # new.status
    variable: str  # new_status, which no other column of the function has
    source: str  # new[3]
    codec: Codec
    may_be_missing: bool
    zoned: bool = False  # its text is not that of the codec's kind
    padded: bool = False  # trailing blanks do not count when it is compared


class Let(NamedTuple):
    """A value that `let` names: the variable that holds it, and the function that computes it when it is first needed."""

    variable: str
    function: str
    source: str
    kind: str


@dataclass
class Scope:
    """What names mean in one generated function. `column` returns None for a row that the operation does not have."""

    column: Callable[[str, str], ColumnRef | None]
    keywords: dict[str, tuple[str, str]]  # `op`, `lsn` and the like → (source, kind)
    named: dict[str, ast.expr]  # by `let`
    constants: dict[str, Any]  # the function's globals
    names: Names
    repeated: frozenset[str] = frozenset()  # variables of columns whose value is to be computed once
    variables: dict[str, str] = field(default_factory=dict)  # those that the code so far needs from the beginning → their source
    earlier: bool = False  # new.x is old.x
    lets: dict[tuple[str, bool], Let] = field(default_factory=dict)  # (name, earlier) → what the code so far needs of `named`

    @property
    def budget(self) -> str:
        """The variable that holds what the event's expressions may still cost."""
        self.variables["budget"] = f"[{MAX_STEPS}]"
        return "budget"

    def cache(self, variable: str) -> str:
        """Source of the condition that a value was already computed and is in the variable."""
        self.variables[variable] = unset = self.runtime(UNSET, "UNSET")
        return f"{variable} is not {unset}"

    def before(self) -> Scope:
        """The scope of the same function in which `new.x` is old.x."""
        return replace(self, column=lambda _, name: self.column("old", name), earlier=True)

    def has(self, row: str) -> bool:
        """Whether the operation has the row `new` or `old`."""
        return self.column(row, "") is not None

    def constant(self, value: Any, name: str) -> str:
        """A constant's identifier, which reads as `name`."""
        identifier = self.names.unique(name)
        self.constants[identifier] = value
        return identifier

    def runtime(self, function: Any, name: str = "") -> str:
        """A function's identifier: its own name, or the one given. The same for the same function."""
        for identifier, known in self.constants.items():
            if known is function:
                return identifier
        return self.constant(function, name or getattr(function, "__name__", type(function).__name__))


def column_of(node: ast.expr) -> tuple[str, str] | None:
    """(row, column) of `new.x` and `old["x"]`; None for anything else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id, node.attr
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in {"new", "old"}:
        return node.value.id, str(node.slice.value) if isinstance(node.slice, ast.Constant) else ""
    return None


def missing(value: Missing, label: str) -> None:
    """Raises MissingValue."""
    raise MissingValue(value, label)


def trimmed(text: str | None) -> str | None:
    """The text of a char(n) as PostgreSQL compares it: without trailing blanks."""
    return text and text.rstrip(" ")


def present(label: str) -> Callable[[Any], Any]:
    """A function that returns a column's text or None; it raises MissingValue if the row does not carry the column."""

    def present(text: Any) -> Any:
        if isinstance(text, Missing):
            raise MissingValue(text, label)
        return text

    return present


def optional(load: Callable[[str], Any]) -> Callable[[str | None], Any]:
    """`load` for a text that may be None, which it returns as it is."""
    return lambda text: None if text is None else load(text)
