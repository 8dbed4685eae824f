"""Times of events."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.checks import holds_special, without_specials
from cdc_tracker.mapping.compiler.kinds import NO_TIME, SPECIAL, WORDS
from cdc_tracker.mapping.language.moments import to_moment
from cdc_tracker.model import EPOCH, canonical

if TYPE_CHECKING:
    from cdc_tracker.mapping.compiler.scope import Cell
    from cdc_tracker.mapping.compiler.writer import Writer
    from cdc_tracker.mapping.schema.declared import Placed

_COMMITTED = "f'\"{t.timestamp}\"'"


def committed_at(microseconds: int) -> datetime:
    """A transaction's commit time as expressions see it."""
    return EPOCH + timedelta(microseconds=microseconds)


def event_time(value: Any) -> str | None:
    """JSON of an event's time, ISO 8601 in UTC: of a datetime, a date or ISO text. None for what is no time."""
    moment = to_moment(value)
    return canonical(moment) if moment is not None else None


def write_timestamp(writer: Writer) -> None:
    """The event's time: as declared, or when the transaction committed."""
    placed = writer.mapping.timestamp
    if placed is None:
        writer.template.append('"{t.timestamp}"')
        return
    cell = writer.bare(placed)
    if cell is not None and cell.codec.kind == "timestamptz":
        _from_column(writer, cell)
    else:
        _computed(writer, placed)


def _from_column(writer: Writer, cell: Cell) -> None:
    text, made, policy = writer.carried(cell, "timestamp"), writer.fresh("p"), writer.mapping.special_values
    special = SPECIAL["timestamptz"].format(x=text)
    if policy == "null":
        writer.branches([(f"{text} is None or {special}", f"{made} = {_COMMITTED}")])
    else:
        reason = "special_value" if policy == "reject" else "timestamp_invalid"
        refusal = writer.refusals.value(reason, "timestamp", "must be a time that JSON can hold", pii=False, kind="special")
        writer.branches([(f"{text} is None", f"{made} = {_COMMITTED}"), (special, writer.refuse(refusal, text))])
    writer.line("else:")
    writer.line(f"{made} = {writer.json_of(cell, text)}", 1)
    writer.piece(made)


def _computed(writer: Writer, placed: Placed) -> None:
    made, value, policy = writer.fresh("p"), writer.fresh("q"), writer.mapping.special_values
    source, kind = writer.value(placed)
    if kind in NO_TIME:
        message = f"must be a time, and {placed.expression.text.strip()!r} is {WORDS.get(kind, kind)}"
        writer.fault("timestamp_invalid", "timestamp", kind, Problem(placed.where, placed.key, message))
    writer.guarded(f"{value} = {source}", "timestamp")
    if policy == "reject":
        refusal = writer.refusals.value("special_value", "timestamp", "must be a time that JSON can hold", pii=False)
        writer.branches([(f"{writer.runtime(holds_special)}({value})", writer.refuse(refusal, value))])
    elif policy == "null":
        writer.line(f"{value} = {writer.runtime(without_specials)}({value})")
    writer.line(f"{made} = {_COMMITTED} if {value} is None else {writer.runtime(event_time)}({value})")
    invalid = writer.refusals.value("timestamp_invalid", "timestamp", "must be a time, or text in ISO 8601", pii=False)
    writer.branches([(f"{made} is None", writer.refuse(invalid, value))])
    writer.piece(made)
