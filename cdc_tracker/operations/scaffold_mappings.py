"""The mapping files that `init` writes: YAML from what the catalog says of the tables. Pure."""

from __future__ import annotations

import json
import keyword
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from cdc_tracker.mapping.lints.column_names import looks_personal, may_be_personal, of_people, user_column
from cdc_tracker.mapping.lints.english import snake
from cdc_tracker.mapping.lints.people import points_to_people
from cdc_tracker.mapping.schema.shape import Example
from cdc_tracker.model import canonical
from cdc_tracker.operations import scaffold_names
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.tables import Table, TableColumn

_TYPES = {  # a Codec's kind → a property's type; the others are written in the short form, unchecked
    "integer": "integer",
    "decimal": "number",
    "float": "number",
    "boolean": "boolean",
    "text": "string",
    "uuid": "string",
    "timestamptz": "timestamp",
    "timestamp": "timestamp",
    "date": "date",
    "time": "string",
    "array": "array",
    "other": "string",
}
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*(?: (?:[A-Za-z0-9_.]+|!=))*")
_LABELS = 10  # of an enum that are shown
_YAML_WORDS = {"true", "false", "null", "yes", "no", "on", "off"}


def mapping_files(tables: Sequence[Table], examples: Mapping[str, Example] = MappingProxyType({})) -> dict[str, str]:
    """File name → text, one for each table. Event names are unique over all of them.

    `examples`: by `schema.table`, for the event of a new row.
    """
    nouns = _unique(
        [
            (
                scaffold_names.noun(t.name),
                scaffold_names.noun(f"{t.schema}_{t.name}"),
                f"{scaffold_names.noun(t.name)} ({t.table})",
            )
            for t in tables
        ]
    )
    files = _unique([(_file_name(t.name), _file_name(t.table), f"{_file_name(t.table)}.{t.oid}") for t in tables])
    named = zip(tables, nouns, files, strict=True)
    return {f"{file}.yml": mapping_file(table, noun, examples.get(table.table)) for table, noun, file in named}


def _unique(choices: list[tuple[str, ...]]) -> list[str]:
    """Returns one name for each tuple of choices: its first if no other has the same, else its second, and so on."""
    found = [choice[0] for choice in choices]
    for place in range(1, len(choices[0]) if choices else 0):
        counts = Counter(found)
        found = [choice[place] if counts[name] > 1 else name for choice, name in zip(choices, found, strict=True)]
    return found


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".") or "table"


def mapping_file(table: Table, noun: str, example: Example | None = None) -> str:
    """A mapping file that loads and passes `check`. What needs a decision is in it as a comment."""
    user = _user(table)
    lines = [
        f"# Events of {_shown(table.table)}. Written by `cdc-tracker init` as a start: change it as you need.",
        "# `cdc-tracker preview` shows the events of live changes, `cdc-tracker check` what is wrong.",
        "version: 1",
    ]
    created = [*_created(table, noun, user), *_example(example)]
    with_old_value = {column.name for column in table.relation.columns if column.key}
    logged = [column for column in _statuses(table) if column.name in with_old_value]
    unlogged = [column for column in _statuses(table) if column.name not in with_old_value]
    if user is None:
        lines += [
            "events: []",
            "",
            "# No column seems to name the user. Write an expression for user_id or anonymous_id, then remove the #",
            "# (and the [] above).",
            *_commented(created),
            *(line for column in logged for line in _commented(_changed(table, noun, user, column))),
        ]
    else:
        lines += ["events:", *created, *(line for column in logged for line in _changed(table, noun, user, column))]
    if unlogged:
        lines += [
            "",
            "  # This needs the old value, which the server writes to its log only after",
            f"  #   ALTER TABLE {_sql_name(table.schema)}.{_sql_name(table.name)} REPLICA IDENTITY FULL;",
            "  # (each update then logs the whole old row). Run that, then remove the #.",
            *(line for column in unlogged for line in _commented(_changed(table, noun, user, column))),
        ]
    return "\n".join(lines) + "\n"


def _user(table: Table) -> TableColumn | None:
    """The column that names the user, if any: by a foreign key before a name, and one that is never NULL before others."""
    columns = {column.name: column for column in _usable(table) if _kind(column) in {"integer", "uuid", "text", "decimal"}}
    keys = [column.name for column in _keys(table)]
    key = keys[0] if len(keys) == 1 and keys[0] in columns else None
    people = {name for name, column in columns.items() if points_to_people(column)}
    never_null = {name for name, column in columns.items() if column.not_null}
    found = user_column(table.name, key, [*columns], people & never_null or people, never_null)
    return columns[found] if found else None


def _created(table: Table, noun: str, user: TableColumn | None) -> list[str]:
    lines = [*_head(table, f"{noun} Created", f"A row was added to {table.table}.", "insert"), *_identity(table, user, "")]
    if keys := _keys(table):
        values = ", ".join(_scalar(column_expression(column)) for column in keys)
        lines.append(f"    id: [{values}]  # a row has the same event id however it is read")
    return lines + _properties(table, user)


def _example(example: Example | None) -> list[str]:
    """Flow style, in which JSON is YAML."""
    if example is None:
        return []
    new, event = (_escaped(canonical(value)) for value in (example.new, example.event))
    return ["    examples:", f"      - new: {new}", f"        event: {event}"]


def _escaped(text: str) -> str:
    """JSON as YAML takes it, on one line."""
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)


def _changed(table: Table, noun: str, user: TableColumn | None, status: TableColumn) -> list[str]:
    """Declares no id: each change of a row is its own event."""
    new, name, event = column_expression(status), snake(status.name), f"{noun} {scaffold_names.title(status.name)} Changed"
    old = new.replace("new", "old", 1)
    return [
        *_head(table, event, f"{status.name} of a row of {table.table} changed.", "update"),
        *_identity(table, user, f"{new} != {old}", f"{_shown(status.name)} holds a state, by its name"),
        "    properties:",
        *(
            f"      {_scalar(_property_name(key, table))}: {_scalar(column_expression(key))}"
            for key in _keys(table)
            if key is not user
        ),
        f"      {_scalar(f'previous_{name}')}: {{value: {_scalar(old)}, type: string}}",
        f"      {_scalar(name)}: {{value: {_scalar(new)}, type: string}}{_labels(status)}",
    ]


def _head(table: Table, name: str, description: str, on: str) -> list[str]:
    return [
        f"  - name: {_scalar(name)}",
        f"    description: {_scalar(description)}",
        f"    table: {_scalar(table.table)}",
        f"    on: [{on}]",
    ]


def _identity(table: Table, user: TableColumn | None, condition: str, guess: str = "") -> list[str]:
    """`when`, which leaves out rows that name nobody, and the ids."""
    if user is None:
        return [*([f"    when: {_scalar(condition)}"] if condition else []), "    user_id: new.…"]
    given = [column for column in (user, _anonymous(table)) if column is not None]
    if not any(column.not_null for column in given):
        named = " or ".join(f"{column_expression(column)} is not None" for column in given)
        condition = f"{condition} and ({named})" if condition else named
    lines = [f"    when: {_scalar(condition)}{f'  # guess: {guess}' if guess else ''}"] if condition else []
    named = column_expression(user)
    shown = f"sha256({named})" if looks_personal(table.name, user.name, _kind(user)) else named
    lines.append(f"    user_id: {_scalar(shown)}{_origin(table, user)}")
    return [*lines, *(f"    anonymous_id: {_scalar(column_expression(column))}" for column in given[1:])]


def _origin(table: Table, user: TableColumn) -> str:
    """A comment that says how it is known, or guessed, that the column names the user."""
    if points_to_people(user) and user.references is not None:
        return f"  # references {_shown(user.references.table)}"
    if user.primary_key and of_people(table.name):
        return "  # guess: rows are people, by the table's name"
    return "  # guess: by its name"


def _anonymous(table: Table) -> TableColumn | None:
    return next((column for column in _usable(table) if snake(column.name) == "anonymous_id"), None)


def _properties(table: Table, user: TableColumn | None) -> list[str]:
    usable = [column for column in _usable(table) if column not in (user, _anonymous(table))]
    names = Counter(_property_name(column, table) for column in usable)
    kept: list[str] = []
    personal: list[str] = []
    for column in usable:
        name = _property_name(column, table)
        line = f"{_scalar(name if names[name] == 1 else column.name)}: {_value(column)}"
        (personal if may_be_personal(column.name) else kept).append(line)
    lines = ["    properties:", *(f"      {line}" for line in kept)] if kept else ["    properties: {}"]
    if personal:
        also = "" if kept else " (and the {} above)"
        lines.append(f"      # Likely personal, so left out. Remove the #{also} if the destinations may get it:")
        lines += [f"      # {line}" for line in personal]
    return lines


def _value(column: TableColumn) -> str:
    kind = _TYPES.get(_kind(column))
    return (
        f"{{value: {_scalar(column_expression(column))}, type: {kind}}}{_labels(column)}"
        if kind
        else _scalar(column_expression(column))
    )


def _labels(column: TableColumn) -> str:
    """A comment with what an enum's column may be."""
    shown = ", ".join(map(_shown, column.labels[:_LABELS])) + (", …" if len(column.labels) > _LABELS else "")
    return f"  # {shown}" if shown else ""


def _property_name(column: TableColumn, table: Table) -> str:
    """`id` of orders is `order_id`."""
    name = snake(column.name)
    return f"{snake(scaffold_names.noun(table.name))}_id" if name == "id" else name


def _usable(table: Table) -> list[TableColumn]:
    """Without generated columns, which are not in the WAL before PostgreSQL 18, and binary data."""
    return [c for c in table.columns if not c.generated and _kind(c) != "bytes" and not c.name.startswith("__")]


def _keys(table: Table) -> list[TableColumn]:
    """The primary key, if an expression can name all of it."""
    keys = [column for column in table.columns if column.primary_key]
    return keys if set(keys) <= set(_usable(table)) else []


def _statuses(table: Table) -> list[TableColumn]:
    """Text columns that likely contain a state. Enums and other types defined in the database count as text."""
    text = [column for column in _usable(table) if _kind(column) == "text" and not column.primary_key]
    return [column for column in text if scaffold_names.is_status(column.name)]


def _kind(column: TableColumn) -> str:
    return codec(column.type_oid).kind


def _commented(lines: list[str]) -> list[str]:
    return [f"  # {line[2:]}" for line in lines]


def column_expression(column: TableColumn) -> str:
    """The column of the new row, as an expression."""
    name = column.name
    plain = name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
    return f"new.{name}" if plain else f"new[{json.dumps(name, ensure_ascii=False)}]"


def _scalar(text: str) -> str:
    """A YAML scalar, also within braces: plain if nothing in it could end it, else quoted."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS else _quoted(text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'" if text.isprintable() else json.dumps(text)


def _shown(name: str) -> str:
    """A name for use in a comment, on one line: PostgreSQL allows line breaks in names."""
    return name if name.isprintable() else json.dumps(name)


def _sql_name(name: str) -> str:
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return name
    quoted = name.replace('"', '""')
    if name.isprintable():
        return f'"{quoted}"'
    escaped = (each if each.isprintable() and each != "\\" else f"\\+{ord(each):06X}" for each in quoted)
    return f'U&"{"".join(escaped)}"'
