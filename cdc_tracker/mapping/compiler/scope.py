"""What generated code sees of a row, and the names it may use."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cdc_tracker.model import Codec, Missing

TEXT_KINDS = frozenset({"text", "uuid", "time", "other"})
"""Kinds whose value is their text."""


class _Unset:
    """The mark of a variable that was not computed yet."""


UNSET = _Unset()


class MissingValue(ValueError):
    """A cell that the row does not carry was needed."""

    def __init__(self, missing: Missing, column: str) -> None:
        super().__init__(column)
        self.missing = missing
        self.column = column


@dataclass(frozen=True)
class Cell:
    """A column of this relation as the code sees it. `source` reads its text; `gone` says whether it may be Missing."""

    label: str  # new.status
    name: str  # n3: unique among cells
    source: str
    codec: Codec
    gone: bool


@dataclass
class Scope:
    """What names mean in one generated function. `cell` gives None for a row that this operation has not."""

    cell: Callable[[str, str], Cell | None]
    names: dict[str, tuple[str, str]]  # name → (source, kind)
    constants: dict[str, Any]  # the namespace of the generated module
    repeated: frozenset[str] = frozenset()  # cells to make a value of once
    kept: set[str] = field(default_factory=set)  # those that the code so far keeps in a variable
    metered: bool = False  # the code spends of the event's budget

    @property
    def budget(self) -> str:
        """The variable with what the event may still cost."""
        self.metered = True
        return "b"

    def constant(self, value: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def runtime(self, value: object) -> str:
        """The name of a function of ours within the generated code."""
        for name, known in self.constants.items():
            if known is value:
                return name
        return self.constant(value)


def column_of(node: ast.expr) -> tuple[str, str] | None:
    """(row, column) of `new.x`, `old["x"]`; None for anything else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id, node.attr
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in {"new", "old"}:
        return node.value.id, str(node.slice.value) if isinstance(node.slice, ast.Constant) else ""
    return None


def gone(missing: Missing, label: str) -> None:
    raise MissingValue(missing, label)


def present(label: str) -> Callable[[Any], Any]:
    def present(cell: Any) -> Any:
        if isinstance(cell, Missing):
            raise MissingValue(cell, label)
        return cell

    return present


def optional(load: Callable[[str], Any]) -> Callable[[str | None], Any]:
    return lambda text: None if text is None else load(text)
