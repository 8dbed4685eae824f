"""A mapping as declared and checked: what the compiler works from. No relation is known here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.language.expressions import Expression
from cdc_tracker.mapping.schema.shape import BackfillShape, EventType, Example, Operation, Property, SpecialValues


@dataclass(frozen=True)
class Placed:
    """An expression and where it stands: `file:line` and the dotted key."""

    expression: Expression
    where: str
    key: str


@dataclass(frozen=True)
class Member:
    """One property, trait or context value. `path` is its place within the event. Exactly one of `placed`, `members`, or
    (where the rules say so) a fixed value makes it."""

    name: str
    path: str
    where: str
    key: str
    rules: Property
    placed: Placed | None = None
    members: tuple[Member, ...] = ()

    def expressions(self) -> Iterator[Placed]:
        if self.placed:
            yield self.placed
        for member in self.members:
            yield from member.expressions()

    def path_of(self, placed: Placed) -> str | None:
        """The place within the event of what this expression makes; None where it is not within this member."""
        if self.placed is placed:
            return self.path
        return next((path for member in self.members if (path := member.path_of(placed)) is not None), None)


@dataclass(frozen=True)
class Mapping:
    """One declared event. `where` is `file:line`; `destinations` None means all."""

    key: str
    name: str
    description: str
    table: str
    on: tuple[Operation, ...]
    type: EventType
    where: str
    when: Placed | None
    user_id: Placed | None
    anonymous_id: Placed | None
    group_id: Placed | None
    previous_id: Placed | None
    timestamp: Placed | None
    id: tuple[Placed, ...] | None
    body: tuple[Member, ...]
    context: tuple[Member, ...]
    destinations: tuple[str, ...] | None
    backfill: BackfillShape | None
    special_values: SpecialValues
    examples: tuple[Example, ...]
    example_places: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[tuple[str, Placed | None], ...]:
        """The identifying fields by their names in the event."""
        return (
            ("userId", self.user_id),
            ("anonymousId", self.anonymous_id),
            ("groupId", self.group_id),
            ("previousId", self.previous_id),
        )

    @property
    def body_name(self) -> str:
        return "traits" if self.type in {"identify", "group"} else "properties"

    def expressions(self) -> Iterator[Placed]:
        """Every expression of the mapping."""
        yield from (placed for placed in (self.when, self.timestamp, *(each for _, each in self.ids), *(self.id or ())) if placed)
        for member in (*self.body, *self.context):
            yield from member.expressions()

    def columns(self, row: str) -> tuple[str, ...]:
        """The columns read of `new` or `old`, each once, in the order of first use."""
        names = (use.name for placed in self.expressions() for use in placed.expression.uses if use.row == row)
        return tuple(dict.fromkeys(names))

    @property
    def new_columns(self) -> tuple[str, ...]:
        return self.columns("new")

    @property
    def old_columns(self) -> tuple[str, ...]:
        return self.columns("old")

    def goes_to(self, destination: str | None) -> bool:
        return destination is None or self.destinations is None or destination in self.destinations


@dataclass(frozen=True)
class Mappings:
    """Every mapping of every file. `warnings` do not stop a run."""

    all: tuple[Mapping, ...]
    warnings: tuple[Problem, ...] = ()
    _by_table: dict[str, list[Mapping]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for mapping in self.all:
            self._by_table.setdefault(mapping.table, []).append(mapping)

    def tables(self) -> list[str]:
        """`schema.table` of every table that is mapped, sorted."""
        return sorted(self._by_table)

    def for_table(self, table: str) -> list[Mapping]:
        return list(self._by_table.get(table, ()))

    def keys(self) -> Sequence[str]:
        return [mapping.key for mapping in self.all]
