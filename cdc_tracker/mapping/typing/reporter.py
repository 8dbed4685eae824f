"""What typing an expression reports, and what the classes that type its nodes share."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Self

from cdc_tracker.mapping.typing.comparisons import Operand, from_text
from cdc_tracker.mapping.typing.rows import Rows
from cdc_tracker.mapping.typing.types import Type

NOTHING: Mapping[str, Type] = MappingProxyType({})
Names = Mapping[str, Type]
"""Loop variables in scope → their types."""


class Found(NamedTuple):
    """Something wrong in an expression. `everywhere`: it is wrong only if it is so for every operation of the mapping."""

    node: ast.expr
    severity: str
    message: str
    hint: str = ""
    everywhere: bool = False


class Reporter:
    """Types nodes by the method of their name. `found` collects what is wrong, in the order of reading, some of it twice.

    `possible`: comparisons that can be true, and keys and indexes that there can be. `narrows`: in a branch, columns that
    cannot be NULL there are not. `root`: types what `let` names, for a typer of a branch.
    """

    def __init__(self, rows: Rows, *, narrows: bool = True, root: Self | None = None) -> None:
        self.rows = rows
        self.narrows = narrows
        self.found: list[Found] = []
        self.possible: set[ast.expr] = set()
        self._types: dict[ast.expr, Type] = {}
        self._lets: dict[str, Type] = {}
        self._root = self if root is None else root

    def type(self, node: ast.expr, names: Names = NOTHING) -> Type:
        """The type of the node's value. `names`: the types of loop variables."""
        typed: Type = getattr(self, f"_{node.__class__.__name__}")(node, names)
        self._types[node] = typed
        return typed

    def error(self, node: ast.expr, message: str, hint: str = "") -> None:
        """Notes what cannot work."""
        self.found.append(Found(node, "error", message, hint))

    def warn(self, node: ast.expr, message: str, hint: str = "", *, everywhere: bool = False) -> None:
        """Notes what works, but not as meant."""
        self.found.append(Found(node, "warning", message, hint, everywhere))

    def refuse(self, node: ast.expr, needed: str, given: Operand, hint: str = "") -> None:
        """Notes a part of the wrong type. `needed`: a clause such as `` `-` takes a number``."""
        self.error(node, f"{needed}, and {given.text} is {given.type}", hint or from_text(given))

    def _operand(self, node: ast.expr, names: Names) -> Operand:
        return Operand(self.type(node, names), node)
