"""Who an event is about, and what it tells of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.scope import column_of
from cdc_tracker.mapping.lints import column_names
from cdc_tracker.mapping.lints.english import snake
from cdc_tracker.mapping.lints.facts import Facts, warning, whole, written
from cdc_tracker.mapping.lints.values import passed_on
from cdc_tracker.mapping.schema.declared import Mapping, Member, Placed
from cdc_tracker.model import split_name
from cdc_tracker.tables import Table, TableColumn

_TEXT_OF = {"string", "int"}
_OPEN = {"metadata", "meta", "payload", "data", "raw", "attributes", "extra", "details"}
"""Names of JSON columns that may hold anything."""


def other_person(mapping: Mapping, facts: Facts) -> Iterator[Problem]:
    """A `user_id` that is the key of the mapping's own row, in a table that has another column for the person."""
    table, user = facts.table, mapping.user_id
    own = _plain_column(user.expression.node) if user is not None else None
    if table is None or user is None or own is None:
        return
    key = table.column(own)
    if table.unique_keys[:1] == ((own,),) and key is not None and key.references is None and (people := _people(table)):
        named = " and ".join(f"{each.name} ({_points_to(each)})" for each in people[:3])
        text = f"user_id is the key of the row of {table.table}, which has {named}"
        yield warning(
            user, text, f"Write user_id: {written('new', people[0].name)}, unless these rows are the people themselves."
        )


def _people(table: Table) -> list[TableColumn]:
    """Columns that name a person, by a foreign key to a table of people, else by their names."""
    others = [column for column in table.columns if not column.primary_key]
    keyed = [column for column in others if points_to_people(column)]
    if column_names.of_people(table.name):  # with a key to others of its kind, such as invited_by
        return [column for column in keyed if snake(column.name) == "user_id"]
    named = [column for column in others if snake(column.name) in column_names.USER_COLUMNS]
    return keyed or ([] if column_names.may_be_people(table.name) else named)


def points_to_people(column: TableColumn) -> bool:
    """Whether the column has a foreign key to a table of people."""
    return column.references is not None and column_names.of_people(split_name(column.references.table)[1])


def _points_to(column: TableColumn) -> str:
    return f"→ {column.references.table}.{column.references.column}" if column.references else "by its name a person"


def _plain_column(node: ast.expr) -> str | None:
    """The column of `new` that the expression is, perhaps as text."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _TEXT_OF and len(node.args) == 1:
        node = node.args[0]
    column = column_of(node)
    return column[1] if column and column[0] == "new" else None


def personal(mapping: Mapping, facts: Facts) -> Iterator[Problem]:
    """Columns that look personal and are sent as they are: one finding for each id, one for all properties."""
    for name, placed in (("user_id", mapping.user_id), ("anonymous_id", mapping.anonymous_id), ("group_id", mapping.group_id)):
        column = next(_personal(mapping, facts, placed), None)
        if placed is not None and column is not None:
            text = f"{name} is {column}, which looks personal: every destination keeps it, and it changes with the person"
            yield warning(placed, text, f"Use an id of your own, or sha256({column}).")
    members = list(_unmarked((*mapping.body, *mapping.context)))
    sent = [(member, column) for member in members for column in _personal(mapping, facts, member.placed)]
    if sent:
        listed = ", ".join(f"{column} as {member.path}" for member, column in sent)
        text = f"{'looks' if len(sent) == 1 else 'look'} personal, and sent without `pii: true` or a hash: {listed}"
        hint = f"Leave out what is not needed, mark the rest `pii: true`, or send sha256({sent[0][1]})."
        open_ended = dict.fromkeys(column for member in members for column in _open_ended(member.placed, facts))
        yield warning(sent[0][0], text, f"{hint} {', '.join(open_ended)} may hold more." if open_ended else hint)


def _personal(mapping: Mapping, facts: Facts, placed: Placed | None) -> Iterator[str]:
    """`new.email` for each personal column whose value the expression passes on."""
    table = split_name(mapping.table)[1]
    for row, name in dict.fromkeys(passed_on(whole(mapping, placed)) if placed else ()):
        column = facts.column(name)
        if (column is None or column.references is None) and column_names.looks_personal(table, name, facts.kind(name)):
            yield written(row, name)


def _open_ended(placed: Placed | None, facts: Facts) -> Iterator[str]:
    column = column_of(placed.expression.node) if placed else None
    if column and facts.kind(column[1]) == "json" and snake(column[1]) in _OPEN:
        yield written(*column)


def _unmarked(members: tuple[Member, ...]) -> Iterator[Member]:
    """Members without `pii: true`, also on what is around them."""
    for member in members:
        if not member.rules.pii:
            yield member
            yield from _unmarked(member.members)
