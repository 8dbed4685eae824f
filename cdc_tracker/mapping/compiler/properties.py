"""Generated code for properties, traits and context.

A bare column of a fitting type is converted from PostgreSQL's text to JSON without becoming a Python value; a bound that needs
the value computes it for the check alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from cdc_tracker import envelope
from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.checks import checker, holds_special, without_specials
from cdc_tracker.mapping.compiler.kinds import SPECIAL, WORDS, fits, quick_checks
from cdc_tracker.mapping.compiler.rejections import short
from cdc_tracker.mapping.compiler.scope import ColumnRef
from cdc_tracker.mapping.compiler.writer import Writer
from cdc_tracker.mapping.schema.declared import Member, Placed
from cdc_tracker.model import Missing, canonical

_FITS_JSON = "must be a value that JSON can express"


def number_json(value: Any) -> str:
    """JSON of a value. A zero has its decimals, not an exponent: 0.00000000, where the canonical form, which ids use, is 0E-8."""
    return f"{value:f}" if value.__class__ is Decimal and not value else canonical(value)


@cache
def with_zeros(to_json: Callable[[str], str]) -> Callable[[str], str]:
    """The same from a numeric's text, which has its decimals."""

    def decimal_json(text: str) -> str:
        return to_json(text) if text.strip("0.") else text

    return decimal_json


def write_members(writer: Writer, members: Sequence[Member], *, pii: bool = False) -> None:
    """Adds the members of a JSON object, in order. `pii`: the object around them is declared as personal."""
    for index, member in enumerate(members):
        writer.json(f"{',' if index else ''}{envelope.quote(member.name)}:")
        _MemberWriter(writer, member, pii=pii or member.rules.pii).write()


class _MemberWriter:
    """Writes one member: its value, its checks, and the piece of JSON."""

    def __init__(self, writer: Writer, member: Member, *, pii: bool) -> None:
        self.writer = writer
        self.member = member
        self.rules = member.rules
        self.path = member.path
        self.name = short(member.path)
        self.pii = pii
        self.specials = writer.mapping.special_values

    def write(self) -> None:
        writer, member = self.writer, self.member
        if self.rules.is_const:
            writer.json(canonical(self.rules.const))
        elif member.placed is None:
            writer.json("{")
            write_members(writer, member.members, pii=self.pii)
            writer.json("}")
        elif (column := writer.bare(member.placed)) is not None:
            self._column(column, member.placed)
        else:
            self._computed(member.placed)

    def _fits(self, placed: Placed, kind: str) -> bool:
        """Whether the type is certain to be the declared one. A type that cannot be is a fault."""
        declared = self.rules.type or "any"
        fitting = fits(kind, declared)
        if fitting is False:
            message = f"is declared as {declared}, but {placed.expression.text.strip()!r} is {WORDS.get(kind, kind)}"
            problem = Problem(self.member.where, self.member.key, message, CONVERSIONS.get(declared, ""))
            self.writer.fault("type_mismatch", self.path, WORDS.get(kind, kind), problem)
        return fitting is True

    def _reject(self, reason: str, expected: str, value: str, kind: str = "") -> str:
        return self.writer.reject(self.writer.rejections.value(reason, self.path, expected, pii=self.pii, kind=kind), value)

    # A bare column

    def _column(self, column: ColumnRef, placed: Placed) -> None:
        writer, rules, kind = self.writer, self.rules, column.codec.kind
        certain = self._fits(placed, kind)
        text, variable = writer.text(column), writer.variable(f"json_{self.name}")
        word = WORDS.get(kind, kind)
        empty = self._reject("required_missing", "is required", text) if rules.required else f"{variable} = 'null'"
        branches = [(f"{text} is None", empty)]
        if writer.layout.relation.incomplete and self.specials == "null":
            branches.append((f"{text} is {writer.runtime(Missing.SPECIAL, 'SPECIAL')}", empty))
        if column.may_be_missing:
            branches.append(writer.missing(column, self.path))
        if special := self._special(kind, text, empty):
            branches.append(special)
        deep = self.specials != "text" and kind in {"array", "json"}
        quick = quick_checks(rules, kind, text, writer.scope) if certain and not deep else None
        if quick is None:
            writer.branches(branches)
            writer.line("else:")
            self._valued(f"{writer.runtime(column.codec.load)}({text})", kind, variable, 1)
            return
        branches += [(condition, self._reject(reason, expected, text, word)) for condition, reason, expected in quick]
        json = writer.json_of(column, text, with_zeros(column.codec.to_json) if kind == "decimal" else column.codec.to_json)
        if len(branches) == 1 and not rules.required:
            writer.line(f"{variable} = 'null' if {text} is None else {json}")
        else:
            variable = self._last(branches, variable, json, text)
        writer.piece(variable)

    def _special(self, kind: str, text: str, empty: str) -> tuple[str, str] | None:
        """(condition, statement) for a value that Python or JSON cannot express; None if it may pass as text."""
        if kind not in SPECIAL:
            return None
        condition = SPECIAL[kind].format(x=text)
        if self.specials == "null":
            return condition, empty
        if self.specials == "reject":
            return condition, self._reject("special_value", _FITS_JSON, text, "special")
        if self.rules.type in {None, "any"} and not self.rules.checked:
            return None
        return condition, self._reject("type_mismatch", f"must be a {self.rules.type or WORDS.get(kind, kind)}", text, "special")

    def _last(self, branches: list[tuple[str, str]], variable: str, json: str, text: str) -> str:
        """All branches, then the one in which every check passes. Returns the variable with the JSON, which may be `text`."""
        self.writer.branches(branches)
        leaves = all(action.startswith("return") for _, action in branches)
        if leaves and json == text:
            return text
        if leaves:
            self.writer.line(f"{variable} = {json}")
        else:
            self.writer.line("else:")
            self.writer.line(f"{variable} = {json}", 1)
        return variable

    # Anything else

    def _computed(self, placed: Placed) -> None:
        variable = self.writer.variable(f"json_{self.name}")
        source, kind = self.writer.value(placed)
        self._fits(placed, kind)
        self._valued(source, kind, variable, 0)

    def _valued(self, source: str, kind: str, variable: str, depth: int) -> None:
        """Computes a value, checks it, and sets the variable to its JSON."""
        writer, value = self.writer, self.writer.variable(f"value_{self.name}")
        writer.line("try:", depth)
        writer.line(f"{value} = {source}", depth + 1)
        self._checked(value, depth + 1)
        json = f"{writer.runtime(canonical)}({value})"
        if kind in {"decimal", "number", "any"}:  # most are no zeros, and cost no second call
            json = f"{json} if {value} else {writer.runtime(number_json)}({value})"
        writer.line(f"{variable} = {json}", depth + 1)
        writer.line("except Error as error:", depth)
        writer.line(writer.reject(writer.rejections.error(self.path), "error"), depth + 1)
        writer.piece(variable)

    def _checked(self, value: str, depth: int) -> None:
        """All checks of the value in a variable."""
        writer = self.writer
        if self.specials == "null":
            writer.line(f"{value} = {writer.runtime(without_specials)}({value})", depth)
        elif self.specials == "reject":
            writer.line(f"if {writer.runtime(holds_special)}({value}):", depth)
            writer.line(self._reject("special_value", _FITS_JSON, value), depth + 1)
        if self.rules.required:
            writer.line(f"if {value} is None:", depth)
            writer.line(self._reject("required_missing", "is required", value), depth + 1)
        if (check := checker(self.rules, pii=self.pii)) is not None:
            failure = writer.variable(f"failure_{self.name}")
            writer.line(f"if {value} is not None:", depth)
            writer.line(f"{failure} = {writer.constant(check, f'check_{self.name}')}({value}, {self.path!r})", depth + 1)
            writer.line(f"if {failure} is not None:", depth + 1)
            writer.line(writer.reject(writer.rejections.failure(self.path), failure), depth + 2)


CONVERSIONS = {
    "string": "Values are not converted implicitly: write string(…).",
    "number": "Values are not converted implicitly: write number(…), or int(…).",
    "integer": "Values are not converted implicitly: write int(…), round(…) or floor(…).",
    "boolean": "Values are not converted implicitly: write boolean(…), or compare.",
    "timestamp": "Values are not converted implicitly: write timestamp(…).",
    "date": "Values are not converted implicitly: write date(…).",
    "object": "Values are not converted implicitly: write json(…).",
    "array": "Values are not converted implicitly: write json(…) or split(…).",
}
"""What to write for a value of another type, by the declared type."""
