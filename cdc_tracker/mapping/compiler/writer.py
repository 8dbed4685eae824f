"""The parts of a generated function: lines, the JSON's template, columns, constants and rejections.

Text from a mapping file enters the source only as `repr`, as a named constant, or as part of an identifier (scope.Names).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cdc_tracker import envelope
from cdc_tracker.errors import Problem
from cdc_tracker.generated import Names
from cdc_tracker.mapping.compiler.expressions import ExpressionCompiler
from cdc_tracker.mapping.compiler.kinds import TOASTABLE
from cdc_tracker.mapping.compiler.rejections import Reject, Rejections
from cdc_tracker.mapping.compiler.scope import FIXED_NAMES, TEXT_KINDS, ColumnRef, Scope, column_of
from cdc_tracker.mapping.compiler.timestamp import committed_at, in_zone
from cdc_tracker.mapping.schema.declared import Mapping, Placed
from cdc_tracker.model import Codec, Event, Op, Relation, canonical, format_lsn

_OPERATIONS = {"c": "insert", "r": "insert", "u": "update", "d": "delete"}
_CHEAP = TEXT_KINDS | {"integer", "boolean"}
_BPCHAR, _TIMESTAMP, _TIMESTAMPS = 1042, 1114, 1115  # type oids of char(n), of timestamps without time zone, of their arrays


@dataclass(frozen=True)
class MappingFault:
    """A fault found at compile time: a Rejection's reason and field, and the Problem that `check` shows."""

    reason: str
    field: str
    value_type: str
    problem: Problem


def _unknown(text: str) -> str:
    return text


_UNKNOWN = Codec("any", _unknown, _unknown)


class RowLayout:
    """A relation, and which of its columns a change's `new` and `old` have, in that order."""

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
        self.names = Names(FIXED_NAMES)
        self._columns = {
            (row, name): (place, self.names.unique(f"{row}_{name}"))
            for row, columns in (("new", new), ("old", old))
            for place, name in enumerate(columns)
        }
        self._types = {column.name: column.type_oid for column in relation.columns}
        self._codec = codec
        self.make_id = envelope.id_maker(space)
        self.source_prefix = envelope.source_prefix(database, relation)

    def column(self, op: str, row: str, name: str, timezone: str | None = None) -> ColumnRef | None:
        """The column, or None if the operation does not have that row: expressions see None then.

        `timezone`: of the clocks that a timestamp without time zone was read from; it then is a time in UTC.
        """
        if (row == "new" and op == Op.DELETE) or (row == "old" and op in {Op.INSERT, Op.READ}):
            return None
        if name not in self._types:  # a fault already; the rest of the mapping is still checked
            return ColumnRef(f"{row}.{name}", "absent", "None", _UNKNOWN, may_be_missing=False)
        (place, variable), oid = self._columns[row, name], self._types[name]
        zoned = timezone is not None and oid in {_TIMESTAMP, _TIMESTAMPS}
        codec = in_zone(self._codec(oid), timezone) if zoned and timezone else self._codec(oid)
        missing = self.relation.identity != "f" if row == "old" else op == Op.UPDATE and codec.kind in TOASTABLE
        missing = missing or self.relation.incomplete
        return ColumnRef(f"{row}.{name}", variable, f"{row}[{place}]", codec, missing, zoned, padded=oid == _BPCHAR)


class Writer:
    """One function being written. `lines` are its body; `message_id` is the source of the event's id, once that is computed."""

    def __init__(self, mapping: Mapping, layout: RowLayout, op: str, faults: Sequence[MappingFault]) -> None:
        self.mapping = mapping
        self.layout = layout
        self.op = op
        self.faults = list(faults)
        self.rejections = Rejections(mapping.key)
        self.lines: list[str] = []
        self.template: list[str] = []
        self.message_id = "''"
        self._read: set[str] = set()
        self.scope = self._scope()
        self.variable, self.constant, self.runtime = self.scope.names.unique, self.scope.constant, self.scope.runtime

    def _scope(self) -> Scope:
        constants: dict[str, Any] = {"__builtins__": {}, "Event": Event, "Error": Exception}
        named = {name: placed.expression.node for name, placed in self.mapping.let.items()}
        scope = Scope(self.column, {}, named, constants, self.layout.names.copy(), self._repeated())
        scope.keywords |= {
            "op": (repr(_OPERATIONS[self.op]), "text"),
            "table": (repr(self.layout.relation.name), "text"),
            "schema": (repr(self.layout.relation.schema), "text"),
            "committed_at": (f"{scope.runtime(committed_at)}(change.transaction.committed_at)", "timestamptz"),
            "lsn": (f"{scope.runtime(format_lsn)}(change.lsn)", "text"),
            "xid": ("change.transaction.xid", "integer"),
        }
        return scope

    def _repeated(self) -> frozenset[str]:
        """Variables of columns whose value is used more than once and costs something to compute."""
        counts: dict[str, int] = {}
        for placed in self.mapping.expressions():
            for use in placed.expression.uses if column_of(placed.expression.node) is None else ():
                column = self.column(use.row, use.name)
                if column is not None and column.codec.kind not in _CHEAP:
                    counts[column.variable] = counts.get(column.variable, 0) + 1
        return frozenset(variable for variable, count in counts.items() if count > 1)

    # Source

    def line(self, text: str, depth: int = 0) -> None:
        """Adds a line, indented by `depth` levels."""
        self.lines.append("    " * depth + text)

    def value(self, placed: Placed) -> tuple[str, str]:
        """Source of an expression's value, and its kind."""
        return ExpressionCompiler(self.scope).value(placed.expression.node)

    def guarded(self, statement: str, field: str) -> None:
        """Adds a statement that may raise. A `try` costs nothing if nothing is raised."""
        self.line("try:")
        self.line(statement, 1)
        self.line("except Error as error:")
        self.line(self.reject(self.rejections.error(field), "error"), 1)

    def branches(self, branches: Sequence[tuple[str, str]]) -> None:
        """Adds `if … elif …` for (condition, statement) pairs."""
        for index, (condition, statement) in enumerate(branches):
            self.line(f"{'elif' if index else 'if'} {condition}:")
            self.line(statement, 1)

    # The JSON

    def json(self, text: str) -> None:
        """Adds constant JSON text."""
        self.template.append(doubled(text))

    def piece(self, variable: str) -> None:
        """Adds the JSON text that a variable has."""
        self.template.append(f"{{{variable}}}")

    # Rejections

    def reject(self, reject: Reject, value: str) -> str:
        """A statement that ends the function with this rejection; `value` is the source of what is wrong."""
        return f"return {self.constant(reject.call, reject.name)}(change, {self.message_id}, {value})"

    def fault(self, reason: str, field: str, kind: str, problem: Problem) -> None:
        """Notes what cannot work: the function then only rejects."""
        self.faults.append(MappingFault(reason, field, kind, problem))

    # Columns

    def column(self, row: str, name: str) -> ColumnRef | None:
        """The column as the mapping reads it, or None if the operation does not have that row."""
        return self.layout.column(self.op, row, name, self.mapping.timezone)

    def bare(self, placed: Placed) -> ColumnRef | None:
        """The column, if the expression is nothing but a column."""
        named = column_of(placed.expression.node)
        return self.column(*named) if named else None

    def text(self, column: ColumnRef) -> str:
        """The variable with the column's text (or None, or Missing)."""
        if column.variable not in self._read:
            self._read.add(column.variable)
            self.line(f"{column.variable} = {column.source}")
        return column.variable

    def missing(self, column: ColumnRef, field: str) -> tuple[str, str]:
        """(condition, statement) for a column that the row does not carry. None must have been ruled out before."""
        condition = f"{column.variable}.__class__ is not {self.runtime(str)}"
        return condition, self.reject(self.rejections.missing(field, column.label), column.variable)

    def carried(self, column: ColumnRef, field: str) -> str:
        """The variable with the column's text or None; a Missing is rejected before."""
        text = self.text(column)
        if column.may_be_missing:
            condition, statement = self.missing(column, field)
            self.branches([(f"{text} is not None and {condition}", statement)])
        return text

    def json_of(self, column: ColumnRef, text: str, to_json: Callable[[str], str] | None = None) -> str:
        """Source of the column's JSON, as `to_json` makes it; without, as its codec does. `text` is not None."""
        kind = column.codec.kind
        if kind == "integer":
            return text
        if kind == "boolean":
            return f"('true' if {text} == 't' else 'false')"
        converted = f"{self.runtime(to_json or column.codec.to_json)}({text})"
        if kind == "decimal":  # from 1 on the text is as in JSON; below 1, and for NaN and infinity, the codec is asked
            return f"({text} if '1' <= {text}[0] <= '9' else {converted})"
        return converted

    def json_value(self, placed: Placed, field: str) -> str:
        """A variable with the JSON of an expression, or `null` if it always is."""
        column, variable = self.bare(placed), self.variable(f"json_{field}")
        if column is not None:
            text = self.carried(column, field)
            self.line(f"{variable} = 'null' if {text} is None else {self.json_of(column, text)}")
            return variable
        source, kind = self.value(placed)
        if kind == "null":
            return "null"
        self.guarded(f"{variable} = {self.runtime(canonical)}({source})", field)
        return variable


def doubled(text: str) -> str:
    """Text as part of an f-string: braces are doubled."""
    return text.replace("{", "{{").replace("}", "}}")


def f_string(*parts: str) -> str:
    """Source of an f-string. The parts have their braces doubled, except around names of the generated code."""
    return f"f{''.join(parts)!r}"
