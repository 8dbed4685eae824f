"""Mappings as declared and checked, before any relation is known: the input of the compiler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.language.expressions import ColumnUse, Expression
from cdc_tracker.mapping.schema.shape import BackfillShape, EventType, Example, Operation, Property, SpecialValues


@dataclass(frozen=True)
class Placed:
    """An expression with its place in the file: `file:line` and the dotted key."""

    expression: Expression
    where: str
    key: str


@dataclass(frozen=True)
class Member:
    """One property, trait or context value. `path` is its place within the event.

    Its value is that of `placed`, an object of `members`, or the constant of its rules.
    """

    name: str
    path: str
    where: str
    key: str
    rules: Property
    placed: Placed | None = None
    members: tuple[Member, ...] = ()

    def expressions(self) -> Iterator[Placed]:
        """Every expression of the member, at any depth."""
        if self.placed:
            yield self.placed
        for member in self.members:
            yield from member.expressions()

    def path_of(self, placed: Placed) -> str | None:
        """The path within the event that `placed` computes; None if it is not an expression of this member."""
        if self.placed is placed:
            return self.path
        return next((path for member in self.members if (path := member.path_of(placed)) is not None), None)


@dataclass(frozen=True)
class Mapping:
    """One declared event. `where` is `file:line`; `let` has what its expressions name; `destinations` None: all."""

    key: str
    names: tuple[str, ...]  # that the event can have
    naming: Placed | None  # chooses one of them; None: there is one
    description: str
    table: str
    on: tuple[Operation, ...]
    type: EventType
    where: str
    let: dict[str, Placed]
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
    timezone: str | None  # of columns without one
    examples: tuple[Example, ...]
    example_places: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The event's name for people; if the row chooses it, all that it can be."""
        return " / ".join(self.names)

    @property
    def name_key(self) -> str:
        """The event's key that holds its name; empty for a type that has none."""
        return {"track": "event", "page": "name", "screen": "name"}.get(self.type, "")

    @property
    def ids(self) -> tuple[tuple[str, Placed | None], ...]:
        """(name in the event, expression) of each identifying field."""
        return (
            ("userId", self.user_id),
            ("anonymousId", self.anonymous_id),
            ("groupId", self.group_id),
            ("previousId", self.previous_id),
        )

    @property
    def body_name(self) -> str:
        """`traits` or `properties`, by the event's type."""
        return "traits" if self.type in {"identify", "group"} else "properties"

    def expressions(self) -> Iterator[Placed]:
        """Every expression of the mapping."""
        yield from self.let.values()
        single = (self.naming, self.when, self.timestamp, *(each for _, each in self.ids), *(self.id or ()))
        yield from (placed for placed in single if placed)
        for member in (*self.body, *self.context):
            yield from member.expressions()

    def uses(self, placed: Placed) -> tuple[ColumnUse, ...]:
        """The columns that an expression of the mapping reads, those that it reads through `let` included."""
        lets = (use for name in sorted(placed.expression.lets) for use in self.let[name].expression.uses)
        return (*placed.expression.uses, *lets)

    def columns(self, row: str) -> tuple[str, ...]:
        """The columns that are read of the row `new` or `old`, in the order of first use."""
        names = (use.name for placed in self.expressions() for use in placed.expression.uses if use.row == row)
        return tuple(dict.fromkeys(names))

    @property
    def new_columns(self) -> tuple[str, ...]:
        """The columns that are read of `new`."""
        return self.columns("new")

    @property
    def old_columns(self) -> tuple[str, ...]:
        """The columns that are read of `old`."""
        return self.columns("old")

    def goes_to(self, destination: str | None) -> bool:
        """Whether the event is for the destination; None: for any."""
        return destination is None or self.destinations is None or destination in self.destinations


@dataclass(frozen=True)
class Mappings:
    """All mappings of all files, with the warnings about them, which do not stop a run."""

    all: tuple[Mapping, ...]
    warnings: tuple[Problem, ...] = ()
    _by_table: dict[str, list[Mapping]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for mapping in self.all:
            self._by_table.setdefault(mapping.table, []).append(mapping)

    def tables(self) -> list[str]:
        """`schema.table` of every mapped table, sorted."""
        return sorted(self._by_table)

    def for_table(self, table: str) -> list[Mapping]:
        """The mappings of `schema.table`, in the order of the files."""
        return list(self._by_table.get(table, ()))

    def keys(self) -> Sequence[str]:
        """The keys of all mappings, in the order of the files."""
        return [mapping.key for mapping in self.all]
