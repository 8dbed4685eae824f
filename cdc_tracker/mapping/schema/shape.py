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


def expression(value: object) -> object:
    """An expression may be written as a bare number or boolean: `version: 2`."""
    if isinstance(value, bool | int | Decimal):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"must be an expression, such as new.id{_QUOTE}")
    return value


def property_(value: object) -> object:
    """The short form `name: expression`."""
    if isinstance(value, dict):
        _refuse_unquoted(value)
        return value
    if isinstance(value, list) or value is None:
        fixed = "write a fixed value as {const: …}"
        raise ValueError(f"must be an expression, or a mapping with `value` and checks; {fixed}{_QUOTE if value else ''}")
    return {"value": expression(value)}


_QUOTE = '; an expression that begins with [ or { must be quoted: "[new.a, new.b]"'


def _refuse_unquoted(value: dict[str, Any]) -> None:
    """Raises ValueError for an expression that YAML took for a mapping, or cut at its commas."""
    unknown = [key for key in value if key not in Property.model_fields]
    if any(value[key] is None for key in unknown):
        raise ValueError('an expression that contains a comma must be quoted within { }: {value: "round(new.a, 2)"}')
    near = (nearest(key, list(Property.model_fields), list_all=0) for key in unknown)
    if unknown and len(unknown) == len(value) and not any(near):
        raise ValueError(f"has none of the keys of a property: value, const, type, …{_QUOTE}")


def listed(value: object) -> object:
    """A single value is a list of one."""
    return value if isinstance(value, list) else [value]


def finite(value: object) -> object:
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
Expr = Annotated[str, BeforeValidator(expression)]
Number = Annotated[Decimal, BeforeValidator(finite)]
Length = Annotated[int, Field(ge=0)]


class Property(_Shape):
    """How one property is computed and checked. The short form is an expression without checks.

    `properties` without `value`: an object whose members are computed. With `value`, and under `items`: checks only.
    `pattern` is searched for, as in JSON Schema: write ^ and $ to match the whole text. Its syntax is RE2's.
    `type: integer` accepts whole numbers, also a numeric 5.00; `number` never accepts text. Values are not converted.
    `min_length` and `max_length` count characters of a text, elements of a list.
    """

    value: Expr | None = Field(default=None, description="the expression")
    const: Any = Field(default=None, description="a fixed value, of any shape")
    type: ValueType | None = Field(default=None, description="what the value must be; nothing is converted")
    required: bool = Field(default=False, description="None is a rejection; otherwise None is sent as null")
    enum: list[Any] | None = Field(default=None, description="the values allowed")
    pattern: str | None = Field(default=None, description="a regular expression (RE2) that is searched for in the text")
    minimum: Number | None = Field(default=None, description="the least number allowed")
    maximum: Number | None = Field(default=None, description="the largest number allowed")
    min_length: Length | None = Field(default=None, description="characters of a text, elements of a list")
    max_length: Length | None = Field(default=None, description="characters of a text, elements of a list")
    pii: bool = Field(default=False, description="personal: the value is sent, but never shown in logs or dead letters")
    properties: dict[str, Annotated[Property, BeforeValidator(property_)]] | None = Field(
        default=None,
        description="members of an object: each with its own value, or, beside `value`, checks of the value's members",
    )
    items: Property | None = Field(default=None, description="checks of each element of a list")
    description: str = Field(default="", description="for people")

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

Properties = dict[str, Annotated[Property, BeforeValidator(property_)]]


class BackfillShape(_Shape):
    """Reads history from the table. `where` is an SQL condition that selects the rows to which the event applies."""

    where: str = Field(default="true", min_length=1)


class Example(_Shape):
    """A change and its expected result: one of `event`, `no_event: true`, `rejected: reason`."""

    description: str = Field(default="", description="for people")
    op: Operation | None = Field(default=None, description="insert, update or delete, if that is not clear from the rows")
    new: dict[str, Any] | None = Field(default=None, description="the row after the change, column by column")
    old: dict[str, Any] | None = Field(default=None, description="the row before it; what it leaves out is as in new")
    event: dict[str, Any] | None = Field(
        default=None, description="the keys of the event that are compared; properties and traits as a whole"
    )
    no_event: Literal[True] | None = Field(default=None, description="true: the change is no event")
    rejected: str | None = Field(default=None, description="the reason for which it becomes a dead letter")

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

    name: Name = Field(description="the event's name; for track of the form Object Action, such as Order Paid")
    key: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="names the mapping in the ledger and in ids, unique over all files; by default the name",
    )
    description: str = Field(default="", description="for people")
    table: str = Field(description="schema.table, as the catalog has it; a partition goes under its root")
    on: Annotated[list[Operation], BeforeValidator(listed), Field(min_length=1)] = Field(
        default=["insert"], description="which changes: insert, update, delete"
    )
    let: dict[str, Expr] = Field(default={}, description="parts of expressions by name: each may use those before it")
    when: Expr | None = Field(
        default=None,
        description="the condition, such as new.status == 'paid' and old.status != 'paid'; if it is not true, there is no event",
    )
    type: EventType = Field(default="track", description="the kind of call")
    user_id: Expr | None = Field(default=None, description="who it is about: text, a whole number or a UUID, such as new.user_id")
    anonymous_id: Expr | None = Field(default=None, description="the same, for a visitor; one of the two is required")
    group_id: Expr | None = Field(default=None, description="for group events")
    previous_id: Expr | None = Field(default=None, description="for alias events")
    timestamp: Expr | None = Field(default=None, description="when it happened; without it, the commit")
    id: Annotated[list[Expr], BeforeValidator(listed), Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description="values that make the event unique, such as [new.id]; without it, each change is an event of its own",
    )
    properties: Properties | None = Field(
        default=None, description="what the event contains: a name and an expression each, or a mapping with `value` and checks"
    )
    traits: Properties | None = Field(default=None, description="the same for identify and group events")
    context: Properties = Field(default={}, description="like properties; cdc-tracker fills in source and library")
    destinations: Annotated[list[str], BeforeValidator(listed)] | None = Field(
        default=None, description="names from cdc-tracker.yml; without it, all"
    )
    backfill: BackfillShape | None = Field(
        default=None, description="which rows of the table had this event, to send it for history"
    )
    special_values: SpecialValues = Field(
        default="text", description="what NaN, infinity and dates out of range become: text, null or a rejection"
    )
    timezone: str | None = Field(
        default=None, description="which clock a timestamp without a zone shows, such as Europe/Berlin; UTC without it"
    )
    examples: list[Example] = Field(default=[], description="changes and what they become: `cdc-tracker test-mappings` runs them")

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

    on: Annotated[list[Operation], BeforeValidator(listed), Field(min_length=1)] | None = None
    user_id: Expr | None = None
    anonymous_id: Expr | None = None
    timestamp: Expr | None = None
    context: Properties = {}
    destinations: Annotated[list[str], BeforeValidator(listed)] | None = None
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
