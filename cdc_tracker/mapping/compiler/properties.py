"""Generated code for properties, traits and context.

A bare column of a fitting type goes from PostgreSQL's text to JSON without becoming a Python value; where a bound needs the
value, it is made for that alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdc_tracker import envelope
from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.checks import checker, holds_special, without_specials
from cdc_tracker.mapping.compiler.kinds import SPECIAL, WORDS, fits, quick_checks
from cdc_tracker.mapping.compiler.scope import Cell
from cdc_tracker.mapping.compiler.writer import Writer
from cdc_tracker.mapping.schema.declared import Member, Placed
from cdc_tracker.model import Missing, canonical

_HOLDS = "must be a value that JSON can hold"


def write_members(writer: Writer, members: Sequence[Member], *, pii: bool = False) -> None:
    """The inside of a JSON object."""
    for index, member in enumerate(members):
        writer.json(f"{',' if index else ''}{envelope.quote(member.name)}:")
        _MemberWriter(writer, member, pii=pii or member.rules.pii).write()


class _MemberWriter:
    def __init__(self, writer: Writer, member: Member, *, pii: bool) -> None:
        self.writer = writer
        self.member = member
        self.rules = member.rules
        self.path = member.path
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
        elif (cell := writer.bare(member.placed)) is not None:
            self._column(cell, member.placed)
        else:
            self._computed(member.placed)

    def _fits(self, placed: Placed, kind: str) -> bool:
        """Whether the type is known to be right. A type that cannot be right is a fault."""
        declared = self.rules.type or "any"
        fitting = fits(kind, declared)
        if fitting is False:
            message = f"is declared as {declared}, but {placed.expression.text.strip()!r} is {WORDS.get(kind, kind)}"
            problem = Problem(self.member.where, self.member.key, message, _CONVERSIONS.get(declared, ""))
            self.writer.fault("type_mismatch", self.path, WORDS.get(kind, kind), problem)
        return fitting is True

    def _refuse(self, reason: str, expected: str, value: str, kind: str = "") -> str:
        return self.writer.refuse(self.writer.refusals.value(reason, self.path, expected, pii=self.pii, kind=kind), value)

    # A bare column

    def _column(self, cell: Cell, placed: Placed) -> None:
        writer, rules, kind = self.writer, self.rules, cell.codec.kind
        certain = self._fits(placed, kind)
        text, made = writer.text(cell), writer.fresh("p")
        word = WORDS.get(kind, kind)
        empty = self._refuse("required_missing", "is required", text) if rules.required else f"{made} = 'null'"
        branches = [(f"{text} is None", empty)]
        if writer.table.relation.incomplete and self.specials == "null":
            branches.append((f"{text} is {writer.runtime(Missing.SPECIAL)}", empty))
        if cell.gone:
            branches.append(writer.gone(cell, self.path))
        if special := self._special(kind, text, empty):
            branches.append(special)
        deep = self.specials != "text" and kind in {"array", "json"}
        quick = quick_checks(rules, kind, text, writer.scope) if certain and not deep else None
        if quick is None:
            self._loaded(cell, branches, made)
            return
        branches += [(condition, self._refuse(reason, expected, text, word)) for condition, reason, expected in quick]
        json = writer.json_of(cell, text)
        if len(branches) == 1 and not rules.required:
            writer.line(f"{made} = 'null' if {text} is None else {json}")
        else:
            made = self._last(branches, made, json, text)
        writer.piece(made)

    def _special(self, kind: str, text: str, empty: str) -> tuple[str, str] | None:
        """What to do with a value that Python or JSON cannot hold."""
        if kind not in SPECIAL:
            return None
        condition = SPECIAL[kind].format(x=text)
        if self.specials == "null":
            return condition, empty
        if self.specials == "reject":
            return condition, self._refuse("special_value", _HOLDS, text, "special")
        if self.rules.type in {None, "any"} and not self.rules.checked:
            return None
        return condition, self._refuse("type_mismatch", f"must be a {self.rules.type or WORDS.get(kind, kind)}", text, "special")

    def _last(self, branches: list[tuple[str, str]], made: str, json: str, text: str) -> str:
        """All branches, and then the one where everything is right. Returns the variable: the text itself needs no other."""
        self.writer.branches(branches)
        leaves = all(action.startswith("return") for _, action in branches)
        if leaves and json == text:
            return text
        if leaves:
            self.writer.line(f"{made} = {json}")
        else:
            self.writer.line("else:")
            self.writer.line(f"{made} = {json}", 1)
        return made

    def _loaded(self, cell: Cell, branches: list[tuple[str, str]], made: str) -> None:
        """Checks that need the column's value."""
        writer, value = self.writer, self.writer.fresh("q")
        writer.branches(branches)
        writer.line("else:")
        writer.line("try:", 1)
        writer.line(f"{value} = {writer.runtime(cell.codec.load)}({cell.name})", 2)
        self._checked(value, 2)
        writer.line(f"{made} = {writer.runtime(canonical)}({value})", 2)
        writer.line("except Error as e:", 1)
        writer.line(writer.refuse(writer.refusals.error(self.path), "e"), 2)
        writer.piece(made)

    # Anything else

    def _computed(self, placed: Placed) -> None:
        writer, value, made = self.writer, self.writer.fresh("q"), self.writer.fresh("p")
        source, kind = writer.value(placed)
        self._fits(placed, kind)
        writer.line("try:")
        writer.line(f"{value} = {source}", 1)
        self._checked(value, 1)
        writer.line(f"{made} = {writer.runtime(canonical)}({value})", 1)
        writer.line("except Error as e:")
        writer.line(writer.refuse(writer.refusals.error(self.path), "e"), 1)
        writer.piece(made)

    def _checked(self, value: str, depth: int) -> None:
        """Everything that is asked of a value."""
        writer = self.writer
        if self.specials == "null":
            writer.line(f"{value} = {writer.runtime(without_specials)}({value})", depth)
        elif self.specials == "reject":
            writer.line(f"if {writer.runtime(holds_special)}({value}):", depth)
            writer.line(self._refuse("special_value", _HOLDS, value), depth + 1)
        if self.rules.required:
            writer.line(f"if {value} is None:", depth)
            writer.line(self._refuse("required_missing", "is required", value), depth + 1)
        if (check := checker(self.rules, pii=self.pii)) is not None:
            failure = writer.fresh("f")
            writer.line(f"if {value} is not None:", depth)
            writer.line(f"{failure} = {writer.constant(check)}({value}, {self.path!r})", depth + 1)
            writer.line(f"if {failure} is not None:", depth + 1)
            writer.line(writer.refuse(writer.refusals.failure, failure), depth + 2)


_CONVERSIONS = {
    "string": "Nothing is converted by itself: write string(…).",
    "number": "Nothing is converted by itself: write number(…), or int(…).",
    "integer": "Nothing is converted by itself: write int(…), round(…) or floor(…).",
    "boolean": "Nothing is converted by itself: write boolean(…), or compare.",
    "timestamp": "Nothing is converted by itself: write timestamp(…).",
    "date": "Nothing is converted by itself: write date(…).",
    "object": "Nothing is converted by itself: write json(…).",
    "array": "Nothing is converted by itself: write json(…) or split(…).",
}
