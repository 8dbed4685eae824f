"""The shape of a mapping file, version 1. Each value is checked by itself here; files.py checks them together."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from cdc_tracker.config.nearest import nearest
from cdc_tracker.model import split_name, table_name
from cdc_tracker.patterns import PatternError, searcher

Operation = Literal["insert", "update", "delete"]
EventType = Literal["track", "identify", "group", "alias", "page", "screen"]
ValueType = Literal["string", "number", "integer", "boolean", "object", "array", "timestamp", "date", "any"]
SpecialValues = Literal["text", "null", "reject"]
MAX_NAME = 200


def _expression(value: object) -> object:
    """An expression may be written as a bare number or boolean: `version: 2`."""
    if isinstance(value, bool | int | Decimal):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"must be an expression, such as new.id{_QUOTE}")
    return value


def _property(value: object) -> object:
    """The short form `name: expression`."""
    if isinstance(value, dict):
        _refuse_unquoted(value)
        return value
    if isinstance(value, list) or value is None:
        fixed = "write a fixed value as {const: …}"
        raise ValueError(f"must be an expression, or a mapping with `value` and checks; {fixed}{_QUOTE if value else ''}")
    return {"value": _expression(value)}


_QUOTE = '; an expression that begins with [ or { must be quoted: "[new.a, new.b]"'


def _refuse_unquoted(value: dict[str, Any]) -> None:
    """Raises ValueError for an expression that YAML took for a mapping, or cut at its commas."""
    unknown = [key for key in value if key not in Property.model_fields]
    if any(value[key] is None for key in unknown):
        raise ValueError('an expression that contains a comma must be quoted within { }: {value: "round(new.a, 2)"}')
    near = (nearest(key, list(Property.model_fields), list_all=0) for key in unknown)
    if unknown and len(unknown) == len(value) and not any(near):
        raise ValueError(f"has none of the keys of a property: value, const, type, …{_QUOTE}")


def _listed(value: object) -> object:
    """A single value is a list of one."""
    return value if isinstance(value, list) else [value]


def _finite(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number")
    return Decimal(value)


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ComputedName(_Shape):
    """A name that depends on the row: an expression that chooses between texts."""

    value: str


_PlainName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Name = Annotated[
    Annotated[_PlainName, Tag("plain text")] | Annotated[ComputedName, Tag("ComputedName")],
    Discriminator(lambda value: "ComputedName" if isinstance(value, dict | ComputedName) else "plain text"),
]
Expr = Annotated[str, BeforeValidator(_expression)]
Number = Annotated[Decimal, BeforeValidator(_finite)]
Length = Annotated[int, Field(ge=0)]


class Property(_Shape):
    """How one property is computed and checked. The short form is an expression without checks.

    `properties` without `value`: an object whose members are computed. With `value`, and under `items`: checks only.
    `pattern` is searched for, as in JSON Schema: write ^ and $ to match the whole text. Its syntax is RE2's.
    `type: integer` accepts whole numbers, also a numeric 5.00; `number` never accepts text. Values are not converted.
    `min_length` and `max_length` count characters of a text, elements of a list.
    """

    value: Expr | None = None
    const: Any = None
    type: ValueType | None = None
    required: bool = False
    enum: list[Any] | None = None
    pattern: str | None = None
    minimum: Number | None = None
    maximum: Number | None = None
    min_length: Length | None = None
    max_length: Length | None = None
    pii: bool = False
    properties: dict[str, Annotated[Property, BeforeValidator(_property)]] | None = None
    items: Property | None = None
    description: str = ""

    @property
    def is_const(self) -> bool:
        """Whether it is a fixed value, which may be null."""
        return "const" in self.model_fields_set

    @property
    def checked(self) -> bool:
        """Whether more than presence is checked."""
        return self.type not in {None, "any"} or bool(self._rules & self.model_fields_set)

    _rules = frozenset({"enum", "pattern", "minimum", "maximum", "min_length", "max_length", "properties", "items"})

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            searcher(pattern or "")
        except PatternError as error:
            raise ValueError(f"is not a valid regular expression: {error}") from None
        return pattern

    @field_validator("enum")
    @classmethod
    def _not_empty(cls, enum: list[Any] | None) -> list[Any] | None:
        if enum is not None and not enum:
            raise ValueError("must list at least one value")
        return enum

    @model_validator(mode="after")
    def _agrees(self) -> Property:
        for problem in self._contradictions():
            raise ValueError(problem)
        return self

    def _contradictions(self) -> Iterator[str]:
        given = {name for name in self.model_fields_set if getattr(self, name) is not None} | (
            {"const"} if self.is_const else set()
        )
        if "const" in given and (others := given - {"const", "description", "pii"}):
            yield f"has a fixed value (const), so {', '.join(sorted(others))} cannot be combined with it"
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            yield "has a minimum above its maximum"
        if self.min_length is not None and self.max_length is not None and self.min_length > self.max_length:
            yield "has a min_length above its max_length"
        for names, kinds in _BELONG:
            if self.type not in {None, "any", *kinds} and (wrong := names & given):
                yield f"{', '.join(sorted(wrong))} is for {' or '.join(kinds)}, and the type is {self.type}"


_BELONG: list[tuple[frozenset[str], tuple[str, ...]]] = [
    (frozenset({"minimum", "maximum"}), ("number", "integer")),
    (frozenset({"pattern"}), ("string",)),
    (frozenset({"min_length", "max_length"}), ("string", "array")),
    (frozenset({"properties"}), ("object",)),
    (frozenset({"items"}), ("array",)),
]

Properties = dict[str, Annotated[Property, BeforeValidator(_property)]]


class BackfillShape(_Shape):
    """Reads history from the table. `where` is an SQL condition that selects the rows to which the event applies."""

    where: str = Field(default="true", min_length=1)


class Example(_Shape):
    """A change and its expected result: one of `event`, `no_event: true`, `rejected: reason`."""

    description: str = ""
    op: Operation | None = None
    new: dict[str, Any] | None = None
    old: dict[str, Any] | None = None
    event: dict[str, Any] | None = None
    no_event: Literal[True] | None = None
    rejected: str | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Example:
        if sum(each is not None for each in (self.event, self.no_event, self.rejected)) != 1:
            raise ValueError("must have exactly one of event, no_event: true, rejected: reason")
        if self.new is None and self.old is None:
            raise ValueError("needs a row: new, old or both")
        wants = {"insert": (True, False), "delete": (False, True), "update": (True, None), None: (None, None)}[self.op]
        if (wants[0] is not None and wants[0] != (self.new is not None)) or (wants[1] is False and self.old is not None):
            raise ValueError("an insert has new, a delete has old, an update has new (and old, for values that changed)")
        return self


class EventShape(_Shape):
    """One event of a mapping file."""

    name: Name
    key: str | None = Field(default=None, min_length=1, max_length=200)
    description: str = ""
    table: str
    on: Annotated[list[Operation], BeforeValidator(_listed), Field(min_length=1)] = ["insert"]
    let: dict[str, Expr] = {}
    when: Expr | None = None
    type: EventType = "track"
    user_id: Expr | None = None
    anonymous_id: Expr | None = None
    group_id: Expr | None = None
    previous_id: Expr | None = None
    timestamp: Expr | None = None
    id: Annotated[list[Expr], BeforeValidator(_listed), Field(min_length=1, max_length=16)] | None = None
    properties: Properties | None = None
    traits: Properties | None = None
    context: Properties = {}
    destinations: Annotated[list[str], BeforeValidator(_listed)] | None = None
    backfill: BackfillShape | None = None
    special_values: SpecialValues = "text"
    timezone: str | None = None
    examples: list[Example] = []

    @field_validator("table")
    @classmethod
    def _with_schema(cls, table: str) -> str:
        try:
            schema, name = split_name(table)
        except ValueError:
            schema, name = "", table.strip('."') or "orders"
        if not schema or "." not in table:
            raise ValueError(f"must include the schema, such as {table_name('public', name)}")
        return table_name(schema, name)

    @field_validator("context")
    @classmethod
    def _not_reserved(cls, context: Properties) -> Properties:
        return _context(context)


class Defaults(_Shape):
    """Defaults for the events of the file. `context` is merged key by key."""

    on: Annotated[list[Operation], BeforeValidator(_listed), Field(min_length=1)] | None = None
    user_id: Expr | None = None
    anonymous_id: Expr | None = None
    timestamp: Expr | None = None
    context: Properties = {}
    destinations: Annotated[list[str], BeforeValidator(_listed)] | None = None
    special_values: SpecialValues | None = None
    timezone: str | None = None

    @field_validator("context")
    @classmethod
    def _not_reserved(cls, context: Properties) -> Properties:
        return _context(context)


def _context(context: Properties) -> Properties:
    if taken := {"source", "library"} & context.keys():
        raise ValueError(f"cannot contain {' and '.join(sorted(taken))}: cdc-tracker sets that")
    return context


class FileShape(_Shape):
    """A whole mapping file."""

    version: Literal[1]
    defaults: Defaults = Defaults()
    events: list[EventShape]
