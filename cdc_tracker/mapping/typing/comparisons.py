"""Comparisons that can have one result only, by the types of both sides."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from cdc_tracker.config.nearest import nearest
from cdc_tracker.mapping.language.signatures import NUMBERS
from cdc_tracker.mapping.typing.types import FORMS, UNKNOWN, WORDS, Type

_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
_NO_TIME = re.compile(r"-?infinity|[0-9]{5,}-.*|.* BC")
_CONVERSIONS = {
    "integer": "number",
    "decimal": "number",
    "float": "number",
    "number": "number",
    "boolean": "boolean",
    "timestamptz": "timestamp",
    "timestamp": "timestamp",
    "date": "date",
    "json": "json",
}
"""Kind → the function that reads it from text."""
_DECIMAL = re.compile(r"Decimal\('([^']*)'\)")
_LONGEST = 80
_UNORDERED = frozenset({"object"})


class Operand(NamedTuple):
    """A part of an expression and its type."""

    type: Type
    node: ast.expr

    @property
    def text(self) -> str:
        """As the expression writes it."""
        return written(self.node)


def written(node: ast.expr) -> str:
    """Source of a node, cut to what a message can hold."""
    source = _DECIMAL.sub(r"\1", ast.unparse(node))  # parse() makes constants of the type Decimal
    return source if len(source) <= _LONGEST else f"{source[:_LONGEST]}…"


class Mismatch(NamedTuple):
    """Why two sides cannot be equal, or cannot be compared, and what to write instead."""

    message: str
    hint: str = ""


def never_equal(a: Operand, b: Operand) -> Mismatch | None:
    """Why no value of the one equals any of the other, None being left aside; None if they may be equal."""
    if not a.type.family or not b.type.family:
        return None
    if a.type.family == b.type.family == "text":
        return _unlike_texts(a, b) or _unlike_texts(b, a)
    if a.type.family == b.type.family:
        return _no_integer(a, b) or _no_integer(b, a)
    if _may_be_list(a, b) or _special(a.type, b.type) or _special(b.type, a.type):
        return None
    return Mismatch(f"{_named(a)} never equals {_named(b)}", conversion(a, b))


def _no_integer(a: Operand, b: Operand) -> Mismatch | None:
    """Why a number is none of those that an integer can be."""
    if a.type.kind != "integer" or b.type.family != "number" or b.type.value is UNKNOWN:
        return None
    if b.type.value % 1:
        return Mismatch(f"{_named(a)} never equals {b.text}")
    if outside(b.type.value, b.type.value, a.type):
        return Mismatch(f"{a.text} never equals {b.text}: it is {bounds(a.type)}")
    return None


def outside(least: Any, most: Any, given: Type) -> bool:
    """Whether no integer of the type is at least and at most so much."""
    return (given.least is not None and most is not None and most < given.least) or (
        given.most is not None and least is not None and least > given.most
    )


def bounds(given: Type) -> str:
    """`0 to 23`."""
    return f"{given.least} or more" if given.most is None else f"{given.least} to {given.most}"


def _may_be_list(a: Operand, b: Operand) -> bool:
    return any(one.type.nested and other.type.family == "array" for one, other in ((a, b), (b, a)))


def _special(typed: Type, texts: Type) -> bool:
    """Whether a label can be the text of a value that Python cannot represent."""
    if texts.family != "text" or texts.labels is None:
        return False
    if typed.kind in {"decimal", "float"}:
        return bool(texts.labels & _NOT_FINITE)
    return typed.family == "time" and any(map(_NO_TIME.fullmatch, texts.labels))


def _unlike_texts(a: Operand, b: Operand) -> Mismatch | None:
    """Why none of b's labels is a text that `a` can have."""
    labels = b.type.labels
    if labels is None:
        return None
    if a.type.value is not UNKNOWN and b.type.value is UNKNOWN:
        return _unlike_texts(b, a)  # 'x' == new.state: what is said is about the column
    one, *others = sorted(labels)
    shown = f"{one!r}{f' or {len(others)} others' if others else ''}"
    if a.type.labels is not None:
        if not _plain(a.type.labels, a.type, b.type) & _plain(labels, a.type, b.type):
            return Mismatch(f"{_owner(a)} has no value {shown}{nearest_label(one, a.type.labels)}")
    elif all(_too_long(label, a.type) for label in labels):
        return Mismatch(f"{a.text} never equals {shown}: {_length(a.type)}")
    elif (form := FORMS.get(a.type.holds or a.type.kind)) and not any(map(form.fullmatch, labels)):
        what = WORDS.get(a.type.kind, a.type.kind) if not a.type.holds else str(a.type)
        kind = a.type.holds or a.type.kind
        lower = kind == "uuid" and form.fullmatch(one.lower())
        hint = "PostgreSQL prints a uuid in lower case." if lower else conversion(a, b)
        return Mismatch(f"{a.text} never equals {shown}: {what} that holds {_article(kind)}", hint)
    return None


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"


def _plain(labels: Iterable[str], *types: Type) -> set[str]:
    """The labels as they are compared."""
    padded = any(each.padded for each in types)
    return {label.rstrip(" ") if padded else label for label in labels}


def _too_long(label: str, of: Type) -> bool:
    """Whether no value of a column of limited length is this text."""
    if of.length is None:
        return False
    length = len(label.rstrip(" ")) if of.padded else len(label)
    return length != of.length if of.fixed and not of.padded else length > of.length


def _length(of: Type) -> str:
    exactly = of.fixed and not of.padded
    return f"its values have {'exactly' if exactly else 'at most'} {of.length} characters"


def _owner(of: Operand) -> str:
    """An enum's or domain's name, or the expression whose values are known."""
    return of.type.name or of.text


def nearest_label(label: str, labels: Iterable[str]) -> str:
    """The end of a message: the label that may be meant. One that differs in case is what is meant."""
    known = sorted(labels)
    same = [each for each in known if each.casefold() == label.casefold()]
    return f"; did you mean {same[0]!r}? Case matters" if same else nearest(label, known)


def _named(of: Operand) -> str:
    if of.type.labels is not None and of.type.value is not UNKNOWN:
        return f"the text {of.text}"
    return of.text if of.type.value is not UNKNOWN else f"{of.text} ({of.type})"


def conversion(a: Operand, b: Operand) -> str:
    """What to write so that the two can be compared; empty if there is nothing simple."""
    if "uuid_value" in {a.type.kind, b.type.kind}:
        return "Elements of an array of uuid are no text: write [string(x) for x in …]."
    for text, other in ((a, b), (b, a)):
        if hint := from_text(text):
            return hint
        if text.type.family == "text" and other.type.family != "text":
            return _meant(text, other)
    return ""


def from_text(given: Operand) -> str:
    """What to write if a text is the text of what is needed; empty if it is not."""
    function = _CONVERSIONS.get(given.type.holds)
    return f"Write {function}({given.text})." if function else ""


def _meant(text: Operand, other: Operand) -> str:
    value = text.type.value
    if isinstance(value, str) and other.type.family == "number":
        number = FORMS["float"].fullmatch(value) and value.lstrip("-")[0].isdigit()
        return f"Write the number without quotes: {value}." if number else ""
    if isinstance(value, str) and other.type.kind == "boolean":
        return "Write True or False, without quotes."
    function = _CONVERSIONS.get(other.type.kind)
    return f"Write {function}({text.text})." if function else ""


def not_ordered(a: Operand, b: Operand) -> Mismatch | None:
    """Why `<` and its like raise for all values of both sides; None if they may not."""
    if not a.type.family or not b.type.family or _may_be_list(a, b):
        return None
    if a.type.family == b.type.family and a.type.family not in _UNORDERED:
        return None
    return Mismatch(f"{_named(a)} cannot be compared with {_named(b)}", conversion(a, b))


def doubts(sign: str, a: Operand, b: Operand) -> Iterator[Mismatch]:
    """What a comparison of texts does that its writer may not expect. `sign`: `==` or `<`."""
    if a.type.family != "text" or b.type.family != "text":
        return
    numbers = [each for each in (a, b) if each.type.holds in NUMBERS]
    if sign == "<" and numbers:
        yield Mismatch(f"{numbers[0].text} is {numbers[0].type}: texts are compared, and '9' is more than '10'", conversion(a, b))
    for one, other in ((a, b), (b, a)):
        upper = other.type.labels is not None and any(label != label.lower() for label in other.type.labels)
        if one.type.citext and (upper or (other.type.citext and other.type.column != one.type.column)):
            message = f"{one.text} is citext: PostgreSQL ignores case, and this comparison does not"
            yield Mismatch(message, f"Compare lower({one.text}) with text in lower case.")
            return
