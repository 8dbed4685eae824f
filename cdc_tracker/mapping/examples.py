"""The examples of mapping files, run without a database through the functions that run in production."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from cdc_tracker.config.nearest import nearest
from cdc_tracker.mapping.compiler.compile import compile_plan
from cdc_tracker.mapping.compiler.scope import column_of
from cdc_tracker.mapping.language.moments import to_moment
from cdc_tracker.mapping.language.operators import equal
from cdc_tracker.mapping.schema.declared import Mapping, Mappings, Member
from cdc_tracker.mapping.schema.shape import Example
from cdc_tracker.model import (
    Change,
    Codec,
    Column,
    Event,
    Op,
    Position,
    Rejection,
    Relation,
    Row,
    Transaction,
    canonical,
    split_name,
)

_BOOL, _INT8, _TEXT, _DATE, _TIMESTAMP, _TIMESTAMPTZ, _NUMERIC, _JSONB = 16, 20, 25, 1082, 1114, 1184, 1700, 3802
_OIDS: list[tuple[type, int]] = [(bool, _BOOL), (int, _INT8), (Decimal, _NUMERIC), (dict, _JSONB), (list, _JSONB), (str, _TEXT)]
_DECLARED = {
    "number": _NUMERIC,
    "integer": _NUMERIC,
    "timestamp": _TIMESTAMPTZ,
    "date": _DATE,
    "boolean": _BOOL,
    "object": _JSONB,
    "array": _JSONB,
}
_FROM_TEXT = frozenset({_NUMERIC, _TIMESTAMPTZ, _DATE})
_LETTERS = {"insert": Op.INSERT.value, "update": Op.UPDATE.value, "delete": Op.DELETE.value}
_COMMITTED = Transaction(1, 0x1000000, 946_684_800_000_000)  # 2000-01-01T00:00:00Z
_CLOCK = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?")  # a time without a zone
_SPACE = uuid.UUID(int=0)


@dataclass(frozen=True)
class ExampleResult:
    """The result of one example. `differences` is empty if it passed; `expected` and `got` are texts for people."""

    mapping: str
    index: int  # counted from 0
    description: str
    where: str
    expected: str
    got: str
    differences: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the result is as expected."""
        return not self.differences

    def __str__(self) -> str:
        head = f"{self.where}: {self.mapping}, example {self.index + 1}: {'passed' if self.passed else 'failed'}"
        return "\n    ".join([head, *self.differences])


def run_examples(mappings: Mappings, codec: Callable[[int], Codec]) -> list[ExampleResult]:
    """Runs all examples, in the order of the files. Never raises for an example that fails or cannot be run."""
    return [_run(mapping, index, example, codec) for mapping in mappings.all for index, example in enumerate(mapping.examples)]


class Unusable(ValueError):
    """The example's rows are not a change that the mapping can read."""


def _run(mapping: Mapping, index: int, example: Example, codec: Callable[[int], Codec]) -> ExampleResult:
    expected = _expected(example)
    try:
        result = outcome(mapping, example, codec)
        got, differences = _got(result), list(_differences(example, result))
    except Unusable as error:
        got, differences = "nothing: the example cannot be run", [str(error)]
    return ExampleResult(mapping.key, index, example.description, mapping.example_places[index], expected, got, differences)


def _expected(example: Example) -> str:
    if example.event is not None:
        return canonical(example.event)
    return "no event" if example.no_event else f"rejected: {example.rejected}"


def _got(outcome: Event | Rejection | None) -> str:
    if isinstance(outcome, Event):
        return outcome.body.decode()
    return "no event" if outcome is None else _rejected(outcome)


def _rejected(rejection: Rejection) -> str:
    return f"rejected: {rejection.reason} ({': '.join(part for part in (rejection.field, rejection.detail) if part)})"


# The change


def outcome(mapping: Mapping, example: Example, codec: Callable[[int], Codec]) -> Event | Rejection | None:
    """What the mapping makes of the example's change; None: no event. Raises Unusable."""
    new, old = _rows(mapping, example)
    oids = {
        name: _oid(mapping, name, [row[name] for row in (new, old) if row and name in row])
        for name in {**(old or {}), **(new or {})}
    }
    schema, name = split_name(mapping.table)
    relation = Relation(schema, name, tuple(Column(column, oid, False) for column, oid in oids.items()), "f")
    plan = compile_plan(Mappings((mapping,)), relation, codec, space=_SPACE, database="example", destination=None)
    letter = _LETTERS[_operation(example)]
    if plan is None or letter not in plan.by_op:
        return None
    change = Change(
        letter,
        relation,
        _texts(new, plan.new_columns, oids, "new"),
        _texts(old, plan.old_columns, oids, "old"),
        Position(_COMMITTED.commit_lsn, 0),
        _COMMITTED.commit_lsn,
        0,
        _COMMITTED,
    )
    return plan.by_op[letter][0](change)


def _operation(example: Example) -> str:
    if example.op:
        return example.op
    return "delete" if example.new is None else "insert" if example.old is None else "update"


def _rows(mapping: Mapping, example: Example) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The rows before and after. On an update, what `old` leaves out is as in `new`."""
    operation, new, old = _operation(example), example.new, example.old
    if operation == "update":
        old = {**(new or {}), **(old or {})}
    for label, row, used in (("new", new, mapping.new_columns), ("old", old, mapping.old_columns)):
        missing = [name for name in used if name not in row] if row is not None else []
        if missing and row is not None:
            lines = (f"{label} has no column {name!r}, which the mapping reads{nearest(name, list(row))}" for name in missing)
            raise Unusable("; ".join(lines))
    everything = {**(new or {}), **(old or {})}
    other = {name: None for name in (*mapping.new_columns, *mapping.old_columns) if name not in everything}
    # columns of a row that the operation does not have: they must exist, but are never read
    return ({**new, **other} if new is not None else None), ({**old, **other} if old is not None else None)


def _oid(mapping: Mapping, name: str, values: list[Any]) -> int:
    """The type oid of a column, inferred from its values and from the type that the mapping declares.

    With `timezone`, a time that is written without a zone is in a column without one.
    """
    declared = _declared(mapping, name)
    texts = [value for value in values if value is not None]
    if mapping.timezone and texts and all(isinstance(text, str) and _CLOCK.fullmatch(text) for text in texts):
        return _TIMESTAMP
    found = {next(oid for kind, oid in _OIDS if isinstance(value, kind)) for value in texts}
    if not found:
        return declared or _TEXT
    if found == {_TEXT} and declared in _FROM_TEXT:
        return declared or _TEXT
    if found == {_INT8, _NUMERIC}:
        return _NUMERIC
    return found.pop() if len(found) == 1 else _TEXT


def _declared(mapping: Mapping, name: str) -> int | None:
    """The type declared for a property that is only this column; None if there is none."""
    if mapping.timestamp and (named := column_of(mapping.timestamp.expression.node)) and named[1] == name:
        return _TIMESTAMPTZ
    for member in _members((*mapping.body, *mapping.context)):
        named = column_of(member.placed.expression.node) if member.placed else None
        if named and named[1] == name and member.rules.type in _DECLARED:
            return _DECLARED[member.rules.type]
    return None


def _members(members: tuple[Member, ...]) -> Iterator[Member]:
    for member in members:
        yield member
        yield from _members(member.members)


def _texts(row: dict[str, Any] | None, columns: tuple[str, ...], oids: Dict[str, int], label: str) -> Row | None:
    return tuple(_text(row[name], oids[name], f"{label}.{name}") for name in columns) if row is not None else None


def _text(value: Any, oid: int, label: str) -> str | None:
    """The value as PostgreSQL's text output."""
    if value is None:
        return None
    if oid == _BOOL:
        return "t" if value else "f"
    if oid == _JSONB:
        return canonical(value)
    if oid == _NUMERIC:
        return _numeric(value, label)
    if oid in {_TIMESTAMP, _TIMESTAMPTZ}:
        return _time(value, label) if oid == _TIMESTAMPTZ else str(value).replace("T", " ")
    return value if isinstance(value, str) else canonical(value)


def _numeric(value: Any, label: str) -> str:
    try:
        number = Decimal(value)
    except ArithmeticError:
        raise Unusable(f"{label} is declared as a number, but {value!r} is not one") from None
    return f"{number:f}" if number.is_finite() else str(number)


def _time(value: Any, label: str) -> str:
    if value in {"infinity", "-infinity"} or str(value).endswith(" BC"):
        return str(value)
    found = to_moment(value)
    if found is None:
        raise Unusable(f"{label} is declared as a time, but {value!r} is not one; write it as 2026-01-31T12:00:00Z")
    return _printed(found)


def _printed(value: datetime) -> str:
    text = value.replace(tzinfo=None).isoformat(sep=" ")
    return f"{text.rstrip('0') if '.' in text else text}+00"


# The result


def _differences(example: Example, outcome: Event | Rejection | None) -> Iterator[str]:
    if example.event is not None and isinstance(outcome, Event):
        yield from _unlike(example.event, outcome.decoded())
    elif example.rejected is not None and isinstance(outcome, Rejection):
        if outcome.reason != example.rejected:
            yield f"expected rejected: {example.rejected}, got {_rejected(outcome)}"
    elif not (example.no_event and outcome is None):
        yield f"expected {_short(example)}, got {_got(outcome)}"


def _short(example: Example) -> str:
    return "an event" if example.event is not None else _expected(example)


def _unlike(expected: dict[str, Any], got: dict[str, Any]) -> Iterator[str]:
    """Differences from the example: what it omits may have any value, but properties and traits must match as a whole."""
    for name, value in expected.items():
        if name not in got:
            yield f"{name}: expected {canonical(value)}, but the event has none{nearest(name, list(got))}"
        else:
            yield from _compare(value, got[name], name, whole=name in {"properties", "traits"})


def _compare(expected: Any, got: Any, path: str, *, whole: bool) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(got, dict):
        for name, value in expected.items():
            if name in got:
                yield from _compare(value, got[name], f"{path}.{name}", whole=whole)
            else:
                yield f"{path}.{name}: expected {canonical(value)}, got nothing{nearest(name, list(got), list_all=0)}"
        for name in got if whole else ():
            if name not in expected:
                yield f"{path}.{name}: not expected, got {canonical(got[name])}"
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for index, (one, other) in enumerate(zip(expected, got, strict=True)):
            yield from _compare(one, other, f"{path}[{index}]", whole=whole)
    elif not equal(expected, got):
        yield f"{path}: expected {canonical(expected)}, got {canonical(got)}"
