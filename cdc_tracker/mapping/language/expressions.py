"""The expression language, a whitelist of Python's syntax: what its names mean, and an expression that was parsed and checked."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

NAMES: dict[str, str] = {
    "new": "the row after the change; None on delete",
    "old": "the row before the change; None on insert",
    "op": "'insert', 'update' or 'delete'",
    "table": "the table's name",
    "schema": "the table's schema",
    "committed_at": "when the transaction committed, a UTC time",
    "lsn": "the change's WAL address, such as '16/B374D848'",
    "xid": "the transaction's id",
}
"""What an expression may name besides functions and its own loop variables."""

ROWS = ("new", "old")


class SyntaxProblem(ValueError):
    """The text is not an expression of this language. `column` counts from 1, in the text's first line; 0: unknown."""

    def __init__(self, message: str, column: int = 0) -> None:
        super().__init__(message)
        self.column = column


@dataclass(frozen=True)
class ColumnUse:
    """A use of a column in an expression's text."""

    row: str  # new or old
    name: str
    column: int  # where in the text


@dataclass(frozen=True)
class Expression:
    """A checked expression. `node` has passed checking.py. A name that `let` gives to nothing but a
    column is that column in it.

    `uses`: the columns that the text names, and those of `old` that entered() reads. `lets`: the names of `let` that it needs,
    those of the ones that it names included. `depth`: how deep it is nested, with them.
    """

    text: str
    node: ast.expr
    uses: tuple[ColumnUse, ...]
    lets: frozenset[str] = frozenset()
    depth: int = 0

    @property
    def column(self) -> str | None:
        """The column of `new`, if the expression is nothing but one: `new.paid_at`."""
        return self.uses[0].name if self.is_column and self.uses[0].row == "new" else None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of which the expression chooses one by `if … else …`; none if it can be anything else."""
        found: list[str] = []
        nodes = [self.node]
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.IfExp):
                nodes += [node.orelse, node.body]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            else:
                return ()
        return tuple(dict.fromkeys(found))

    @property
    def is_column(self) -> bool:
        """Whether the expression is nothing but a column of `new` or `old`."""
        row = self.node.value if isinstance(self.node, ast.Attribute | ast.Subscript) else None
        return isinstance(row, ast.Name) and row.id in ROWS


Lets = Mapping[str, Expression | None]
"""What an expression may name of the event's `let`; None: it is there, but is the expression itself or comes after it."""


def cut(text: str, *, quote: bool = True) -> str:
    """The text as messages show it: shortened, in quotes."""
    text = text if len(text) <= 60 else f"{text[:57]}…"
    return repr(text) if quote else text
