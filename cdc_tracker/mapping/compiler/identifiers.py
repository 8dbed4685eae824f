"""Generated code for what names an event and whom it is about: messageId, userId, anonymousId, groupId, previousId."""

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
_KEYS = {"userId": "user_id", "anonymousId": "anonymous_id", "groupId": "group_id", "previousId": "previous_id"}


def write_message_id(writer: Writer) -> None:
    """`m`: the event's id, as envelope.default_name and declared_name say."""
    key = writer.mapping.key
    if writer.mapping.id is None:
        writer.line("h = '%X' % c.lsn")  # half the time of f'{lsn:X}'
        name = f_string(doubled(f"{key}|"), "{h}|{c.index}")
    else:
        parts = [writer.json_value(placed, "id") for placed in writer.mapping.id]
        changing = [part for part in parts if part != "null"]
        refusal = writer.refusals.always("id_missing", "id", "null", "every value of the event's id is null")
        writer.branches([(" and ".join(f"{part} == 'null'" for part in changing) or "True", writer.refuse(refusal, "None"))])
        listed = ",".join("null" if part == "null" else f"{{{part}}}" for part in parts)
        name = f_string(doubled(envelope.declared_name(key, "[")), listed, "]")
    writer.line(f"m = {writer.constant(writer.table.make_id)}({name})")
    writer.message_id = "m"


def write_identity(writer: Writer) -> None:
    """The identifying fields that are declared, each left out where it is None; a rejection where nobody is left."""
    kind = writer.mapping.type
    made = {name: _identifier(writer, name, placed) for name, placed in writer.mapping.ids if placed is not None}
    certain: set[str] = set()
    for names in _NEEDED.get(kind, (("userId", "anonymousId"),)):
        declared = [name for name in names if name in made]
        keys = [_KEYS[name] for name in declared]
        detail = f"a {kind} event needs {' or '.join(keys)}, and {'both are' if len(keys) > 1 else 'it is'} null or empty"
        refusal = writer.refusals.always("identity_missing", names[0], "null", detail)
        writer.branches([(" and ".join(f"{made[name]} is None" for name in declared), writer.refuse(refusal, "None"))])
        if len(declared) == 1:
            certain.add(declared[0])
    for name, variable in made.items():
        if name in certain:
            writer.json(f',"{name}":')
            writer.piece(variable)
        else:
            optional = writer.fresh("p")
            given = f_string(f',"{name}":', f"{{{variable}}}")
            writer.line(f"{optional} = '' if {variable} is None else {given}")
            writer.piece(optional)


def _identifier(writer: Writer, name: str, placed: Placed) -> str:
    """A variable with the JSON string of an identifier, or None."""
    made, cell = writer.fresh("p"), writer.bare(placed)
    if cell is not None and cell.codec.kind in {"integer", "uuid", "text"}:
        text = writer.carried(cell, name)
        if cell.codec.kind == "text":
            writer.line(f"{made} = {writer.runtime(envelope.quote)}({text}) if {text} else None")
        else:
            quoted = f_string('"', f"{{{text}}}", '"')
            writer.line(f"{made} = None if {text} is None else {quoted}")
        return made
    source, kind = writer.value(placed)
    if kind in NO_IDENTIFIER:
        message = f"must be text or a whole number, and {placed.expression.text.strip()!r} is {WORDS.get(kind, kind)}"
        writer.fault("type_mismatch", name, kind, Problem(placed.where, placed.key, message))
    writer.guarded(f"{made} = {writer.constant(identifier(name))}({source})", name)
    return made


def identifier(name: str) -> Callable[[Any], str | None]:
    """JSON string of an identifier: text, whole numbers and UUIDs. None and empty text identify nobody."""

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
