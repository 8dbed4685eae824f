"""The rows that an operation has, and the types of their columns."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cdc_tracker.mapping.typing.types import ANY, NULL, Type

OPERATIONS = {"insert": (True, False), "update": (True, True), "delete": (False, True), "backfill": (True, False)}
"""Operation → whether it has a new row, and an old one. A backfill reads rows of the table."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one operation.

    `columns`: the table's; None: they are unknown. `lets`: the expressions that the mapping names.
    `assumed`: (row, column) → whether it is taken as NULL.
    """

    operation: str
    columns: Mapping[str, Type] | None
    lets: Mapping[str, ast.expr] = field(default_factory=dict)
    assumed: Mapping[tuple[str, str], bool] = field(default_factory=dict)

    def has(self, row: str) -> bool:
        """Whether the operation has the row `new` or `old`."""
        return OPERATIONS[self.operation][row == "old"]

    def column(self, row: str, name: str) -> Type:
        """The type of `new.x` or `old.x`."""
        if not self.has(row):
            return NULL
        found = self.declared(name)
        null = self.assumed.get((row, name))
        return found if null is None else NULL if null else replace(found, nullable=False)

    def declared(self, name: str) -> Type:
        """The type that the table has for a column."""
        return ANY if self.columns is None else self.columns.get(name, ANY)

    def assuming(self, columns: Sequence[tuple[str, str]], *, null: bool) -> Rows:
        """The same rows with these columns NULL, or not NULL."""
        return replace(self, assumed={**self.assumed, **dict.fromkeys(columns, null)})
