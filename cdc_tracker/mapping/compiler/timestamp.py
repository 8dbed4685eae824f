"""Generated code for the event's time."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from cdc_tracker.errors import Problem
from cdc_tracker.mapping.compiler.checks import holds_special, without_specials
from cdc_tracker.mapping.compiler.kinds import NO_TIME, SPECIAL, WORDS
from cdc_tracker.mapping.language import zones
from cdc_tracker.mapping.language.moments import to_moment
from cdc_tracker.mapping.language.operators import ExpressionError
from cdc_tracker.model import Codec, canonical
from cdc_tracker.times import from_micros

if TYPE_CHECKING:
    from cdc_tracker.mapping.compiler.scope import ColumnRef
    from cdc_tracker.mapping.compiler.writer import Writer
    from cdc_tracker.mapping.schema.declared import Placed

_COMMITTED = "f'\"{transaction.timestamp}\"'"
_FITS = "must be a time that JSON can express"


def committed_at(microseconds: int) -> datetime:
    """A transaction's commit time, in UTC, from microseconds since the Unix epoch."""
    return from_micros(microseconds)


@cache
def in_zone(codec: Codec, timezone: str) -> Codec:
    """The Codec of a timestamp without time zone, or of an array of them, as times in UTC: the clocks of the zone showed them.

    Its `load` raises ExpressionError for a time that UTC has outside of the years 1 to 9999.
    """
    zone = zones.zone(timezone)
    assert zone is not None  # noqa: S101  mapping files are refused otherwise

    def load(text: str) -> Any:
        try:
            return instants(codec.load(text))
        except OverflowError:
            raise ExpressionError("a time is outside of the years 1 to 9999 in UTC") from None

    def instants(value: Any) -> Any:
        if isinstance(value, list):
            return [instants(each) for each in value]
        return zones.instant(value, zone) if isinstance(value, datetime) else value

    return Codec("timestamptz" if codec.kind == "timestamp" else codec.kind, load, lambda text: canonical(load(text)))


def event_time(value: Any) -> str | None:
    """JSON of an event's time, ISO 8601 in UTC, from a datetime, a date or ISO text. None for anything else."""
    moment = to_moment(value)
    return canonical(moment) if moment is not None else None


def write_timestamp(writer: Writer) -> None:
    """Adds the event's time: as declared, else when the transaction committed."""
    placed = writer.mapping.timestamp
    if placed is None:
        writer.template.append('"{transaction.timestamp}"')
        return
    column = writer.bare(placed)
    if column is not None and column.codec.kind == "timestamptz":
        _from_column(writer, column)
    else:
        _computed(writer, placed)


def _from_column(writer: Writer, column: ColumnRef) -> None:
    text, variable, policy = writer.carried(column, "timestamp"), writer.variable("json_timestamp"), writer.mapping.special_values
    special = SPECIAL["timestamptz"].format(x=text)
    if policy == "null":
        writer.branches([(f"{text} is None or {special}", f"{variable} = {_COMMITTED}")])
    else:
        reason = "special_value" if policy == "reject" else "timestamp_invalid"
        reject = writer.rejections.value(reason, "timestamp", _FITS, pii=False, kind="special")
        writer.branches([(f"{text} is None", f"{variable} = {_COMMITTED}"), (special, writer.reject(reject, text))])
    writer.line("else:")
    writer.line(f"{variable} = {writer.json_of(column, text)}", 1)
    writer.piece(variable)


def _computed(writer: Writer, placed: Placed) -> None:
    variable, value, policy = writer.variable("json_timestamp"), writer.variable("value_timestamp"), writer.mapping.special_values
    source, kind = writer.value(placed)
    if kind in NO_TIME:
        message = f"must be a time, and {placed.expression.text.strip()!r} is {WORDS.get(kind, kind)}"
        writer.fault("timestamp_invalid", "timestamp", kind, Problem(placed.where, placed.key, message))
    writer.guarded(f"{value} = {source}", "timestamp")
    if policy == "reject":
        reject = writer.rejections.value("special_value", "timestamp", _FITS, pii=False)
        writer.branches([(f"{writer.runtime(holds_special)}({value})", writer.reject(reject, value))])
    elif policy == "null":
        writer.line(f"{value} = {writer.runtime(without_specials)}({value})")
    writer.line(f"{variable} = {_COMMITTED} if {value} is None else {writer.runtime(event_time)}({value})")
    invalid = writer.rejections.value("timestamp_invalid", "timestamp", "must be a time, or text in ISO 8601", pii=False)
    writer.branches([(f"{variable} is None", writer.reject(invalid, value))])
    writer.piece(variable)
