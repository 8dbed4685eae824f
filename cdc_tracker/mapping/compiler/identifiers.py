"""Generated code for the event's id and for who it is about: messageId, userId, anonymousId, groupId, previousId."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

from cdc_tracker import envelope
from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.kinds import NO_IDENTIFIER, WORDS
from cdc_tracker.mapping.compiler.writer import Writer, doubled, f_string
from cdc_tracker.mapping.language.operators import ExpressionError, type_name
from cdc_tracker.mapping.schema.declared import Placed
from cdc_tracker.model import Special

_NEEDED = {"alias": (("userId",), ("previousId",)), "group": (("groupId",), ("userId", "anonymousId"))}
KEYS = {"userId": "user_id", "anonymousId": "anonymous_id", "groupId": "group_id", "previousId": "previous_id"}
"""The names of identifying fields in the event → in mapping files."""


def needed(kind: str) -> tuple[tuple[str, ...], ...]:
    """The identifying fields of an event of this type: one at least of each group."""
    return _NEEDED.get(kind, (("userId", "anonymousId"),))


def write_message_id(writer: Writer) -> None:
    """Sets `message_id` to the id that envelope.default_name or declared_name gives; rejects an id made of nulls alone."""
    key = writer.mapping.key
    if writer.mapping.id is None:
        writer.line("lsn_hex = '%X' % change.lsn")  # half the time of f'{lsn:X}'
        name = f_string(doubled(f"{key}|"), "{lsn_hex}|{change.index}")
    else:
        parts = [writer.json_value(placed, "id") for placed in writer.mapping.id]
        changing = [part for part in parts if part != "null"]
        reject = writer.rejections.always("id_missing", "id", "null", "every value of the event's id is null")
        writer.branches([(" and ".join(f"{part} == 'null'" for part in changing) or "True", writer.reject(reject, "None"))])
        listed = ",".join("null" if part == "null" else f"{{{part}}}" for part in parts)
        name = f_string(doubled(envelope.declared_name(key, "[")), listed, "]")
    writer.line(f"message_id = {writer.constant(writer.layout.make_id, 'make_id')}({name})")
    writer.message_id = "message_id"


def write_identity(writer: Writer) -> None:
    """Adds the identifying fields that are declared, except those that are None; rejects an event that is about no one."""
    kind = writer.mapping.type
    variables = {name: _identifier(writer, name, placed) for name, placed in writer.mapping.ids if placed is not None}
    certain: set[str] = set()
    for names in needed(kind):
        declared = [name for name in names if name in variables]
        keys = [KEYS[name] for name in declared]
        detail = f"a {kind} event needs {' or '.join(keys)}, and {'both are' if len(keys) > 1 else 'it is'} null or empty"
        reject = writer.rejections.always("identity_missing", names[0], "null", detail)
        writer.branches([(" and ".join(f"{variables[name]} is None" for name in declared), writer.reject(reject, "None"))])
        if len(declared) == 1:
            certain.add(declared[0])
    for name, variable in variables.items():
        if name in certain:
            writer.json(f',"{name}":')
            writer.piece(variable)
        else:
            member = writer.variable(f"member_{name}")
            given = f_string(f',"{name}":', f"{{{variable}}}")
            writer.line(f"{member} = '' if {variable} is None else {given}")
            writer.piece(member)


def _identifier(writer: Writer, name: str, placed: Placed) -> str:
    """A variable with the JSON string of an identifier, or None."""
    variable, column = writer.variable(f"json_{name}"), writer.bare(placed)
    if column is not None and column.codec.kind in {"integer", "uuid", "text"}:
        text = writer.carried(column, name)
        if column.codec.kind == "text":
            writer.line(f"{variable} = {writer.runtime(envelope.quote, 'quote')}({text}) if {text} else None")
        else:
            quoted = f_string('"', f"{{{text}}}", '"')
            writer.line(f"{variable} = None if {text} is None else {quoted}")
        return variable
    source, kind = writer.value(placed)
    if kind in NO_IDENTIFIER:
        message = f"must be text or a whole number, and {placed.expression.text.strip()!r} is {WORDS.get(kind, kind)}"
        writer.fault("type_mismatch", name, kind, Problem(placed.where, placed.key, message))
    writer.guarded(f"{variable} = {writer.constant(identifier(name), f'identify_{name}')}({source})", name)
    return variable


def identifier(name: str) -> Callable[[Any], str | None]:
    """A function from a value to the JSON string of an identifier: of text, whole numbers and UUIDs. None and "" give None.

    It raises ExpressionError for any other value.
    """

    def identify(value: Any) -> str | None:
        if value is None or value == "":
            return None
        if isinstance(value, str | UUID) and not isinstance(value, Special):
            return envelope.quote(str(value))
        if value.__class__ is int or (
            value.__class__ is Decimal and abs(value.adjusted()) < 100 and value == value.to_integral_value()
        ):
            return f'"{int(value)}"'
        raise ExpressionError(f"{name} must be text or a whole number, but is {type_name(value)}")

    return identify
