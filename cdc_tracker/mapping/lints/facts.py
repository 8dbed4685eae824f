"""What a rule may ask about the table of a mapping."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.schema.declared import Mapping, Member, Placed
from cdc_tracker.model import Codec
from cdc_tracker.tables import Table, TableColumn


@dataclass(frozen=True)
class Facts:
    """`table` None: the catalog is not known, or has no such table. Rules that need it are then silent."""

    table: Table | None
    codec: Callable[[int], Codec]

    def column(self, name: str) -> TableColumn | None:
        """The column of that name, if the catalog is known and has it."""
        return self.table.column(name) if self.table is not None else None

    def kind(self, name: str) -> str:
        """The kind of the column, below its domain; empty if it is not known."""
        column = self.column(name)
        return self.codec(column.base_oid).kind if column is not None else ""


def written(row: str, name: str) -> str:
    """A column as an expression writes it: `new.status`, `new["Order Status"]`."""
    return f"{row}.{name}" if name.isascii() and name.isidentifier() else f"{row}[{json.dumps(name, ensure_ascii=False)}]"


def whole(mapping: Mapping, placed: Placed) -> ast.expr:
    """The expression with what the mapping's `let` names in place of its names: of each name the first, which is enough to find
    every column, and keeps names of names of names short."""
    node = placed.expression.node
    return _named(node, dict(mapping.let)) if placed.expression.lets else node


def _named(node: Any, let: dict[str, Placed]) -> Any:
    """A copy of a node, with each named expression in the place of its name, once. What is no node is returned as it is."""
    if isinstance(node, list):
        return [_named(each, let) for each in node]
    if not isinstance(node, ast.expr | ast.comprehension):
        return node
    if isinstance(node, ast.Name) and (placed := let.pop(node.id, None)) is not None:
        return _named(placed.expression.node, let)
    return ast.copy_location(type(node)(**{name: _named(value, let) for name, value in ast.iter_fields(node)}), node)


def warning(at: Mapping | Member | Placed, message: str, hint: str) -> Problem:
    """A finding about a part of a mapping."""
    return Problem(at.where, at.key, message, hint, "warning")
