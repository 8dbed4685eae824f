"""What the types of its expressions say of a mapping, for each of its operations."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.identifiers import KEYS, needed
from cdc_tracker.mapping.compiler.kinds import NO_IDENTIFIER, NO_TIME
from cdc_tracker.mapping.compiler.scope import column_of
from cdc_tracker.mapping.schema import declared
from cdc_tracker.mapping.schema.declared import Member, Placed
from cdc_tracker.mapping.typing.expressions import ExpressionTyper, excluded
from cdc_tracker.mapping.typing.properties import unmet
from cdc_tracker.mapping.typing.reporter import Reporter
from cdc_tracker.mapping.typing.rows import Rows
from cdc_tracker.mapping.typing.types import Type


@dataclass
class _Operation:
    """One operation of a mapping. `rows`: those that pass `when`; `matches`: whether one can."""

    name: str
    rows: Rows
    matches: bool = True
    types: dict[str, Type] = field(default_factory=dict)  # by the expression's key

    def __str__(self) -> str:
        return "in a backfill" if self.name == "backfill" else f"on {self.name}"


def problems(mapping: declared.Mapping, columns: Mapping[str, Type] | None) -> list[Problem]:
    """All that its expressions' types tell. `columns`: the table's; None: they are unknown."""
    return _MappingTyper(mapping, columns).problems()


def value_types(mapping: declared.Mapping, columns: Mapping[str, Type]) -> dict[str, str]:
    """The type of each expression but `when`, as messages name it, by the expression's key. Leaves out what is not known."""
    typer = _MappingTyper(mapping, columns)
    typer.problems()
    found: dict[str, set[str]] = {}
    for operation in typer.operations:
        for key, value in operation.types.items():
            found.setdefault(key, set()).update({str(value)} if value.family else ())
    return {key: " or ".join(sorted(words)) for key, words in found.items() if words}


class _MappingTyper:
    def __init__(self, mapping: declared.Mapping, columns: Mapping[str, Type] | None) -> None:
        self.mapping = mapping
        self.found: list[Problem] = []
        lets = {name: placed.expression.node for name, placed in mapping.let.items()}
        backfilled = ["backfill"] if mapping.backfill and "insert" not in mapping.on else []
        self.operations = [_Operation(name, Rows(name, columns, lets)) for name in (*mapping.on, *backfilled)]

    def problems(self) -> list[Problem]:
        """Everything, an error of `when` first."""
        self._type_when()
        self._type_values()
        absent = list(_absent_rows(self.mapping, [each.name for each in self.operations]))
        self.found += absent
        if not absent:
            self._never_matches()
            for operation in self.operations:
                self.found += _dead_letters(self.mapping, operation)
        for operation in self.operations:
            self.found += _properties(self.mapping, operation)
        return list(dict.fromkeys(self.found))

    def _type_when(self) -> None:
        when = self.mapping.when
        if when is None:
            return
        typers = [ExpressionTyper(each.rows) for each in self.operations]
        for each, typer in zip(self.operations, typers, strict=True):
            each.matches = typer.condition(when.expression.node) is not False
            each.rows = each.rows.assuming(excluded(when.expression.node, each.rows), null=False)
        self._report(when, typers)

    def _type_values(self) -> None:
        for placed in self.mapping.expressions():
            if placed is self.mapping.when:
                continue
            typers = [ExpressionTyper(each.rows) for each in self.operations]
            for each, typer in zip(self.operations, typers, strict=True):
                each.types[placed.key] = typer.type(placed.expression.node)
            self._report(placed, typers)

    def _report(self, placed: Placed, typers: Sequence[Reporter]) -> None:
        """What was found for one operation, or for every one if it is wrong only then.

        What is possible for one operation is right: coalesce(old.state, 'none') == 'none' asks for an insert.
        """
        everywhere = set.intersection(*(set(typer.found) for typer in typers))
        right = {node for typer in typers for node in typer.possible - {each.node for each in typer.found}}
        for each in dict.fromkeys(each for typer in typers for each in typer.found):
            if not (each.severity == "error" and each.node in right) and (not each.everywhere or each in everywhere):
                message = f"column {column(placed, each.node)}: {each.message}"
                self.found.append(Problem(placed.where, placed.key, message, each.hint, each.severity))

    def _never_matches(self) -> None:
        """Operations for which `when` is never true, unless an error in it says so already."""
        when, never = self.mapping.when, [each for each in self.operations if not each.matches]
        if when is None or not never or any(problem.key == when.key for problem in self.found):
            return
        chosen = any(isinstance(node, ast.Name) and node.id == "op" for node in ast.walk(when.expression.node))
        if len(never) == len(self.operations):
            severity = "warning" if isinstance(when.expression.node, ast.Constant) else "error"  # `when: False` may be meant
            self.found.append(Problem(when.where, when.key, "is never true: there is never an event", "", severity))
        elif not chosen and (change := [each for each in never if each.name != "backfill"]):
            names = " and ".join(each.name for each in change)
            message = f"is never true on {names}, where {_lacking(change[0])} is None"
            self.found.append(Problem(when.where, when.key, message, f"Take {names} out of `on`.", "warning"))


def column(placed: Placed, node: ast.AST) -> int:
    """Where a node is in the text of its expression, counted from 1."""
    lines, line = placed.expression.text.strip().split("\n"), getattr(node, "lineno", 1)
    before = int(getattr(node, "col_offset", 0)) - (line == 1 < len(lines))  # of several lines, which are in parentheses
    return len(lines[line - 1].encode()[: max(before, 0)].decode(errors="ignore")) + 1


def _lacking(operation: _Operation) -> str:
    """The row that the operation does not have."""
    return "old" if operation.rows.has("new") else "new"


# Rows that no operation of the mapping has


def _absent_rows(mapping: declared.Mapping, operations: Sequence[str]) -> Iterator[Problem]:
    for row, other in (("new", "old"), ("old", "new")):
        if any(Rows(each, None).has(row) for each in operations):
            continue
        uses = [(placed, node) for placed in _own(mapping) for node in _exposed(placed.expression.node) if _row(node) == row]
        if uses:
            (placed, node), *others = uses
            name = (column_of(node) or ("", ""))[1]
            message = f"column {column(placed, node)}: {row}.{name} is None: there is no {row} row on {' and '.join(operations)}"
            more = f"; the same of {', '.join(each.key for each, _ in others)}" if others else ""
            yield Problem(placed.where, placed.key, message + more, f"Write {other}.{name}, or change `on`.")


def _own(mapping: declared.Mapping) -> Iterator[Placed]:
    """The expressions that the mapping does not share with others."""
    return (placed for placed in mapping.expressions() if not placed.key.startswith("defaults"))


def _exposed(node: ast.AST) -> Iterator[ast.expr]:
    """The columns in an expression, except where it is prepared for a row that is not there."""
    if isinstance(node, ast.IfExp) or (isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or)):
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "coalesce":
        return
    if isinstance(node, ast.expr) and column_of(node):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _exposed(child)


def _row(node: ast.expr) -> str:
    return (column_of(node) or ("", ""))[0]


# Values that are missing


def _dead_letters(mapping: declared.Mapping, operation: _Operation) -> Iterator[Problem]:
    """What is needed and NULL: always, for the operation, or where a column is."""
    if not operation.matches:
        return
    identities = {name: placed for name, placed in mapping.ids if placed is not None}
    times = [mapping.timestamp] if mapping.timestamp is not None else []
    yield from _wrong_kinds(identities.values(), operation, NO_IDENTIFIER, "text or a whole number")
    yield from _wrong_kinds(times, operation, NO_TIME, "a time")
    for group in needed(mapping.type):
        given = [(KEYS[name], identities[name]) for name in group if name in identities]
        if given and all(operation.types[placed.key].kind == "null" for _, placed in given):
            yield _always_null(given[0][1], operation, "identity_missing")
        elif len(given) == 1:
            yield from _nullable(given[0][1], operation, "identity_missing")
    if mapping.id and all(operation.types[placed.key].kind == "null" for placed in mapping.id):
        yield _always_null(mapping.id[0], operation, "id_missing")
    for member in _computed((*mapping.body, *mapping.context)):
        if member.placed is None or not member.rules.required:
            continue
        if operation.types[member.placed.key].kind == "null":
            yield _always_null(member.placed, operation, "required_missing")
        else:
            yield from _nullable(member.placed, operation, "required_missing")


def _wrong_kinds(given: Iterable[Placed], operation: _Operation, kinds: Collection[str], what: str) -> Iterator[Problem]:
    """Expressions whose values are of one of these kinds, which are never accepted."""
    for placed in given:
        if operation.types[placed.key].kind.removesuffix("_value") in kinds:
            message = f"must be {what}, and {placed.expression.text.strip()!r} is {operation.types[placed.key]}"
            yield Problem(placed.where, placed.key, message)


def _always_null(placed: Placed, operation: _Operation, reason: str) -> Problem:
    message = f"{placed.expression.text.strip()!r} is None {operation}: every such event becomes a dead letter ({reason})"
    hint = ""
    if named := column_of(placed.expression.node):
        instead = "remove `backfill`" if operation.name == "backfill" else f"take {operation.name} out of `on`"
        hint = f"Write coalesce(new.{named[1]}, old.{named[1]}), or {instead}."
    return Problem(placed.where, placed.key, message, hint)


def _nullable(placed: Placed, operation: _Operation, reason: str) -> Iterator[Problem]:
    """A warning if NULL in a column is what makes a needed value None."""
    node, rows = placed.expression.node, operation.rows
    if not operation.types[placed.key].nullable:
        return
    used = sorted({(use.row, use.name) for use in placed.expression.uses if rows.column(use.row, use.name).nullable})
    known = [each for each in used if rows.column(*each).family]
    if known and not ExpressionTyper(rows.assuming(known, null=False)).type(node).nullable:
        names = ", ".join(f"{row}.{name}" for row, name in known)
        message = f"{names} may be NULL: such an event becomes a dead letter ({reason})"
        hint = f"Add to `when`: {known[0][0]}.{known[0][1]} is not None."
        if reason == "identity_missing":
            hint = f"{hint[:-1]}; or declare another id of who it is about."
        yield Problem(placed.where, placed.key, message, hint, "warning")


def _computed(members: Sequence[Member]) -> Iterator[Member]:
    """The members that have expressions, at any depth."""
    for member in members:
        if member.placed is not None:
            yield member
        yield from _computed(member.members)


# Declared properties


def _properties(mapping: declared.Mapping, operation: _Operation) -> Iterator[Problem]:
    if not operation.matches:
        return
    for member in _computed((*mapping.body, *mapping.context)):
        assert member.placed is not None  # noqa: S101  _computed looked
        for each in unmet(member.rules, operation.types[member.placed.key], member.placed.expression.text.strip()):
            yield Problem(member.where, f"{member.key}{each.path}", each.message, each.hint, each.severity)
