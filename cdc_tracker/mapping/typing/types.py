"""Types of values in expressions: what is known of all values that an expression can have.

Nothing is claimed that is not certain, with one exception: a value that Python cannot represent (a Special: NaN, infinity, a BC
date) is a text at run time and has the type of the others here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from functools import reduce
from types import MappingProxyType
from typing import Any

from cdc_tracker.mapping.language.signatures import NUMBERS, TEXTS, TIMES
from cdc_tracker.model import Codec
from cdc_tracker.tables import TableColumn


class _Unknown:
    """The value of a type that has more than one."""


UNKNOWN = _Unknown()
_INTEGERS = {oid: 2 ** (8 * size - 1) for oid, size in {21: 2, 23: 4, 20: 8}.items()}
"""Types of integers → the first value above those that they hold."""
_BPCHAR = 1042


@dataclass(frozen=True, slots=True)
class Type:
    """What is known of an expression's values.

    `kind`: a Codec's kind, `object`, `number` (integer or decimal), `uuid_value` (a UUID within an array, which is no text),
    `null`, or `any`: nothing is known. `labels`: all texts that it can have. `value`: the only value besides None.
    `items`: the elements of a list of known length. `keys`: all keys that an object can have.
    `holds`: the kind below the domain, or `array`, of a text that is the text of such a value, because the stream does not say
    what it is. `name`: that of the type, in messages. `nested`: it may also be a list of such values (an array of arrays).
    """

    kind: str
    nullable: bool = True
    labels: frozenset[str] | None = None
    value: Any = UNKNOWN
    element: Type | None = None
    items: tuple[Type, ...] | None = None
    keys: Mapping[str, Type] | None = None
    holds: str = ""
    name: str = ""
    length: int | None = None
    fixed: bool = False  # every value has exactly this length
    padded: bool = False  # blanks at the end do not count in comparisons
    citext: bool = False
    nested: bool = False
    column: str = ""  # of a bare column
    least: int | None = None  # of integers
    most: int | None = None
    certain: bool | None = None  # its truth, if that is known and the value is not

    @property
    def family(self) -> str:
        """Kinds of one family can be equal; empty if it is unknown or null."""
        return _FAMILIES.get(self.kind, "" if self.kind in UNTYPED else self.kind)

    @property
    def truth(self) -> bool | None:
        """Whether every value is true, or every one false; None: it depends."""
        if self.known or (self.value is not UNKNOWN and not self.value):
            return bool(self.only)
        if self.certain is not None:
            return self.certain
        sure = self.kind in _TRUE or bool(self.items or (self.labels and "" not in self.labels) or self.holds)
        return True if sure and not self.nullable else None

    @property
    def known(self) -> bool:
        """Whether it has one value only; that may be None."""
        return self.kind == "null" or (self.value is not UNKNOWN and not self.nullable)

    @property
    def only(self) -> Any:
        """The value of a known type."""
        return None if self.kind == "null" else self.value

    def __str__(self) -> str:
        """As messages name it: `integer`, `text (billing.cents)`."""
        word = "text (an array)" if self.holds == "array" else WORDS.get(self.kind, self.kind)
        return f"{word} (of the domain {self.name})" if self.holds and self.name else word


UNTYPED = frozenset({"any", "json", "null"})
WORDS = {
    "decimal": "number",
    "float": "number",
    "uuid": "text",
    "time": "text",
    "other": "text",
    "timestamptz": "timestamp",
    "json": "JSON",
    "uuid_value": "UUID",
}
"""Kinds as messages name them, if the name differs."""
_FAMILIES = dict.fromkeys(NUMBERS, "number") | dict.fromkeys(TEXTS, "text") | dict.fromkeys(TIMES, "time")
_TRUE = TIMES | {"uuid", "uuid_value", "time"}
ANY = Type("any")
NULL = Type("null")
BOOLEAN = Type("boolean", nullable=False)
TEXT = Type("text", nullable=False)

FORMS: dict[str, re.Pattern[str]] = {
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "time": re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([-+][0-9:]+)?"),
    "boolean": re.compile(r"[tf]"),
    "integer": re.compile(r"-?[0-9]+"),
    "decimal": re.compile(r"-?[0-9]+(\.[0-9]+)?|NaN|-?Infinity"),
    "float": re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+][0-9]+)?|NaN|-?Infinity"),
    "bytes": re.compile(r"\\x[0-9a-f]*"),
    "array": re.compile(r"(\[[-0-9:\[\]]+=)?\{.*\}", re.DOTALL),
}
"""How PostgreSQL prints values of a kind."""


def column_type(column: TableColumn, codec: Callable[[int], Codec]) -> Type:
    """The type of a column. A domain's values and arrays of what is not built in arrive as text, whatever is below."""
    kind, base = codec(column.type_oid).kind, codec(column.base_oid).kind
    name = column.type_name if column.labels or column.is_domain else ""
    found = Type(kind, not column.not_null or kind == "json", name=name, length=column.length, column=column.name)
    citext = kind == "text" and re.fullmatch(r'(?:.*\.)?"?citext"?', column.base_name) is not None
    if kind == "array":
        return replace(found, element=_element(codec(column.element_oid).kind) if column.element_oid else ANY)
    if kind == "text" and column.element_oid:
        return replace(found, holds="array", name="")
    if above := _INTEGERS.get(column.type_oid):
        return replace(found, least=-above, most=above - 1)
    if kind not in TEXTS:
        return found
    if column.is_domain and base not in TEXTS:
        return replace(found, holds=base)
    if column.is_domain and base != "text":
        found = replace(found, kind=base)
    texts: Iterable[str] = column.labels or (() if citext else column.allowed)
    fixed = column.base_oid == _BPCHAR
    labels = frozenset({text.ljust(column.length or 0) if fixed else text for text in texts}) or None
    return replace(found, labels=labels, fixed=fixed, padded=fixed and not column.is_domain, citext=citext)


def _element(kind: str) -> Type:
    return Type("uuid_value" if kind == "uuid" else kind, nested=True)


def type_of(value: Any) -> Type:
    """The type of a constant."""
    if value is None:
        return NULL
    for kind, name in _CONSTANTS:
        if isinstance(value, kind):
            return Type(name, False, frozenset({str(value)}) if name == "text" else None, value)
    if isinstance(value, list | tuple):
        items = tuple(map(type_of, value))
        return Type("array", False, value=value, items=items, element=common(items) if items else ANY)
    if isinstance(value, dict):
        return Type("object", False, value=value, keys=MappingProxyType({key: type_of(each) for key, each in value.items()}))
    return replace(ANY, nullable=False, value=value)


_CONSTANTS: list[tuple[type, str]] = [
    (bool, "boolean"),
    (str, "text"),
    (int, "integer"),
    (Decimal, "decimal"),
    (datetime, "timestamptz"),
    (date, "date"),
]


def exact(kind: str) -> str:
    """The kind of a number after exact arithmetic, which makes a float a decimal."""
    return {"integer": "integer", "decimal": "decimal", "float": "decimal"}.get(kind, "number")


def common(types: Iterable[Type]) -> Type:
    """The type of a value that has one of these types."""
    found = list(types)
    typed = [each for each in found if each.kind != "null"]
    if not typed:
        return NULL
    nullable = len(typed) < len(found) or any(each.nullable for each in typed)
    return replace(reduce(_either, typed), nullable=nullable)


def _either(a: Type, b: Type) -> Type:
    if a == b:
        return a
    kind = a.kind if a.kind == b.kind else _wider(a, b)
    if kind == "any" or a.holds != b.holds:
        return Type("text" if kind == "text" else "any", a.nullable or b.nullable)
    return Type(
        kind,
        a.nullable or b.nullable,
        labels=a.labels | b.labels if a.labels and b.labels else None,
        element=_either(a.element, b.element) if a.element and b.element else None,
        keys=a.keys if a.keys == b.keys else None,
        holds=a.holds,
        name=a.name if a.name == b.name else "",
        length=max(a.length, b.length) if a.length and b.length else None,
        fixed=a.fixed and b.fixed and a.length == b.length,
        padded=a.padded or b.padded,
        citext=a.citext and b.citext,
        nested=a.nested or b.nested,
    )


def _wider(a: Type, b: Type) -> str:
    if a.family != b.family or not a.family:
        return "any"
    return {"number": "number", "text": "text"}.get(a.family, "any")
