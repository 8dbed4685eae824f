"""What the generated function is written with: lines, the JSON's template, constants, cells and rejections.

Text from a mapping file enters the source only as `repr` or as a named constant; names in the source are ours.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cdc_tracker import envelope
from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.kinds import TOASTABLE
from cdc_tracker.mapping.compiler.rejections import Refusal, Refusals
from cdc_tracker.mapping.compiler.scope import TEXT_KINDS, Cell, Scope, column_of
from cdc_tracker.mapping.compiler.times import committed_at
from cdc_tracker.mapping.language.expression_compiler import ExpressionCompiler
from cdc_tracker.mapping.schema.declared import Mapping, Placed
from cdc_tracker.model import Codec, Event, Op, Relation, canonical, format_lsn

_OPERATIONS = {"c": "insert", "r": "insert", "u": "update", "d": "delete"}
_CHEAP = TEXT_KINDS | {"integer", "boolean"}


@dataclass(frozen=True)
class Fault:
    """Something that cannot work, known at compile time: a Rejection's reason and field, and the Problem that `check` shows."""

    reason: str
    field: str
    value_type: str
    problem: Problem


def _unknown(text: str) -> str:
    return text


_UNKNOWN = Codec("any", _unknown, _unknown)


class Table:
    """A relation and the columns of it that changes will carry."""

    def __init__(
        self,
        relation: Relation,
        codec: Callable[[int], Codec],
        new: Sequence[str],
        old: Sequence[str],
        space: uuid.UUID,
        database: str,
    ) -> None:
        self.relation = relation
        self.places = {
            "new": {name: index for index, name in enumerate(new)},
            "old": {name: index for index, name in enumerate(old)},
        }
        self.codecs = {column.name: codec(column.type_oid) for column in relation.columns}
        self.make_id = envelope.id_maker(space)
        self.source_prefix = envelope.source_prefix(database, relation)

    def cell(self, op: str, row: str, name: str) -> Cell | None:
        """The cell, or None where this operation has no such row: None is what expressions see then."""
        if (row == "new" and op == Op.DELETE) or (row == "old" and op in {Op.INSERT, Op.READ}):
            return None
        if name not in self.codecs:  # a fault of its own; the rest is still looked at for more
            return Cell(f"{row}.{name}", "x", "None", _UNKNOWN, gone=False)
        place, codec = self.places[row][name], self.codecs[name]
        gone = self.relation.identity != "f" if row == "old" else op == Op.UPDATE and codec.kind in TOASTABLE
        return Cell(f"{row}.{name}", f"{row[0]}{place}", f"{row[0]}[{place}]", codec, gone or self.relation.incomplete)


class Writer:
    """One function in the making. `lines` are its body; `message_id` is the source of the event's id, once it is known."""

    def __init__(self, mapping: Mapping, table: Table, op: str, faults: Sequence[Fault]) -> None:
        self.mapping = mapping
        self.table = table
        self.op = op
        self.faults = list(faults)
        self.refusals = Refusals(mapping.key)
        self.lines: list[str] = []
        self.template: list[str] = []
        self.message_id = '""'
        self._counter = 0
        self._hoisted: set[str] = set()
        self.scope = self._scope()

    def _scope(self) -> Scope:
        constants: dict[str, Any] = {"__builtins__": {}, "Event": Event, "Error": Exception}
        scope = Scope(lambda row, name: self.table.cell(self.op, row, name), {}, constants, self._repeated())
        scope.names |= {
            "op": (repr(_OPERATIONS[self.op]), "text"),
            "table": (repr(self.table.relation.name), "text"),
            "schema": (repr(self.table.relation.schema), "text"),
            "committed_at": (f"{scope.runtime(committed_at)}(c.transaction.committed_at)", "timestamptz"),
            "lsn": (f"{scope.runtime(format_lsn)}(c.lsn)", "text"),
            "xid": ("c.transaction.xid", "integer"),
        }
        return scope

    def _repeated(self) -> frozenset[str]:
        """Cells whose value is needed more than once and costs something to make."""
        seen: dict[str, int] = {}
        for placed in self.mapping.expressions():
            for use in placed.expression.uses if column_of(placed.expression.node) is None else ():
                cell = self.table.cell(self.op, use.row, use.name)
                if cell is not None and cell.codec.kind not in _CHEAP:
                    seen[cell.name] = seen.get(cell.name, 0) + 1
        return frozenset(name for name, count in seen.items() if count > 1)

    # Source

    def line(self, text: str, depth: int = 0) -> None:
        self.lines.append("    " * depth + text)

    def fresh(self, letter: str) -> str:
        """A name not used yet."""
        self._counter += 1
        return f"{letter}{self._counter}"

    def constant(self, value: Any) -> str:
        return self.scope.constant(value)

    def runtime(self, function: object) -> str:
        return self.scope.runtime(function)

    def value(self, placed: Placed) -> tuple[str, str]:
        """Source of an expression's value, and its kind."""
        return ExpressionCompiler(self.scope).value(placed.expression.node)

    def guarded(self, statement: str, field: str) -> None:
        """A statement that may raise. A `try` costs nothing where nothing is raised."""
        self.line("try:")
        self.line(statement, 1)
        self.line("except Error as e:")
        self.line(self.refuse(self.refusals.error(field), "e"), 1)

    def branches(self, branches: Sequence[tuple[str, str]]) -> None:
        """if … elif …"""
        for index, (condition, action) in enumerate(branches):
            self.line(f"{'elif' if index else 'if'} {condition}:")
            self.line(action, 1)

    # The JSON

    def json(self, text: str) -> None:
        """Constant JSON text."""
        self.template.append(doubled(text))

    def piece(self, variable: str) -> None:
        """JSON text that is in a variable."""
        self.template.append(f"{{{variable}}}")

    # Rejections

    def refuse(self, refusal: Refusal, value: str) -> str:
        return f"return {self.constant(refusal)}(c, {self.message_id}, {value})"

    def fault(self, reason: str, field: str, kind: str, problem: Problem) -> None:
        self.faults.append(Fault(reason, field, kind, problem))

    # Cells

    def bare(self, placed: Placed) -> Cell | None:
        """The cell that the expression is, where it is nothing else."""
        named = column_of(placed.expression.node)
        return self.table.cell(self.op, *named) if named else None

    def text(self, cell: Cell) -> str:
        """The cell's text (or None, or Missing) in a variable."""
        if cell.name not in self._hoisted:
            self._hoisted.add(cell.name)
            self.line(f"{cell.name} = {cell.source}")
        return cell.name

    def gone(self, cell: Cell, field: str) -> tuple[str, str]:
        """(condition, action) for a cell that the row does not carry. None must have been dealt with before."""
        return f"{cell.name}.__class__ is not {self.runtime(str)}", self.refuse(self.refusals.cell(field, cell.label), cell.name)

    def carried(self, cell: Cell, field: str) -> str:
        """The cell's text or None in a variable; where it may be Missing, a rejection."""
        text = self.text(cell)
        if cell.gone:
            condition, action = self.gone(cell, field)
            self.branches([(f"{text} is not None and {condition}", action)])
        return text

    def json_of(self, cell: Cell, text: str) -> str:
        """Source of the cell's JSON. `text` is not None."""
        kind = cell.codec.kind
        if kind == "integer":
            return text
        if kind == "boolean":
            return f"('true' if {text} == 't' else 'false')"
        to_json = f"{self.runtime(cell.codec.to_json)}({text})"
        if kind == "decimal":  # from 1 on the text is as in JSON; below, and for NaN and infinity, the codec knows
            return f"({text} if '1' <= {text}[0] <= '9' else {to_json})"
        return to_json

    def json_value(self, placed: Placed, field: str) -> str:
        """A variable with the JSON of an expression, or `null` where it always is."""
        cell, made = self.bare(placed), self.fresh("p")
        if cell is not None:
            text = self.carried(cell, field)
            self.line(f"{made} = 'null' if {text} is None else {self.json_of(cell, text)}")
            return made
        source, kind = self.value(placed)
        if kind == "null":
            return "null"
        self.guarded(f"{made} = {self.runtime(canonical)}({source})", field)
        return made


def doubled(text: str) -> str:
    """Text as it stands in an f-string."""
    return text.replace("{", "{{").replace("}", "}}")


def f_string(*parts: str) -> str:
    """Source of an f-string. The parts have their braces doubled, except around what is filled in, which is our own code."""
    return f"f{''.join(parts)!r}"
