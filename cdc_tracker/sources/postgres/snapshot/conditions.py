"""Conditions on the rows to read: SQL that a user wrote, and a range of event times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from psycopg import sql

from cdc_tracker.errors import SourceError
from cdc_tracker.times import from_micros

Condition: TypeAlias = sql.Composable
"""SQL composed by cdc-tracker that is true of the rows to read."""

Where: TypeAlias = str | Sequence[str] | None
"""SQL that a user wrote: one condition, or several that must all be true."""

_STRING = r"'(?:[^']|'')*'"
_ESCAPED = r"'(?:[^'\\]|\\.|'')*'"
_PIECE = re.compile(
    rf"""
    [eE]{_ESCAPED}(?:\s*\n\s*{_ESCAPED})*            # a string on the next line continues it
  | [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*   # a word, in which $ is no quote
  | {_STRING} | "(?:[^"]|"")*"
  | \$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?)\$.*?\$(?P=tag)\$
  | \$\d+ | --[^\r\n]*
  | /\* | [();'"]
  | .
    """,
    re.VERBOSE | re.DOTALL,
)


def texts(where: Where) -> list[str]:
    """The conditions that a user gave, without `true`. Raises SourceError for text that could end the SQL around it."""
    given = [where] if isinstance(where, str) else list(where or ())
    for text in given:
        _check_contained(text)
    return [text for text in given if text.strip().lower() != "true"]


def _check_contained(text: str) -> None:
    """Raises SourceError for text that could end a parenthesis or statement around it. PostgreSQL checks the rest."""
    depth = 0
    for found in _PIECE.finditer(text):
        piece = found[0]
        depth += (piece == "(") - (piece == ")")
        if depth < 0:
            raise _invalid(text, "it closes a parenthesis that it did not open")
        if piece[0] == "$" and piece[1:].isdecimal():
            raise _invalid(text, f"the parameter {piece} has no value")
        if piece == ";":
            raise _invalid(text, "it contains `;`, but must be one condition")
        if piece in {"'", '"', "$", "/*"}:
            raise _invalid(text, "comments in it must be written with --" if piece == "/*" else "a quote in it is not closed")
    if depth:
        raise _invalid(text, "a parenthesis in it is not closed")
    if not text.strip() or "\0" in text:
        raise _invalid(text, "it is empty" if not text.strip() else "it contains a NUL character")


def _invalid(text: str, why: str) -> SourceError:
    return SourceError(f"the condition {shown(text)} cannot be used: {why}", hint="write a condition as after WHERE in SQL")


def shown(text: str) -> str:
    """A condition as errors show it: on one line, at most 100 characters."""
    line = " ".join(text.split())
    return f"`{line}`" if len(line) <= 100 else f"`{line[:100]}…`"


def since(column: str, from_us: int | None, to_us: int | None, *, timezone: str | None = None) -> Condition:
    """A condition that is true if `column` is at or after `from_us` and before `to_us` (microseconds since the Unix epoch).

    The column must be a timestamptz, a timestamp (taken as UTC) or a date (its midnight), as for an event's time; PostgreSQL
    refuses other types. NULL is in no range. An index on the column is used, unless a `timezone` is given, as which a timestamp
    is taken then: only PostgreSQL knows which type the column has.
    """
    bounds = [(">=", from_us), ("<", to_us)]
    value: Condition = sql.Identifier(column)
    if timezone is not None:
        value = sql.SQL(
            "CASE pg_typeof({column}) WHEN 'timestamp'::regtype THEN {column}::timestamp AT TIME ZONE {zone} "
            "ELSE {column}::timestamptz END"
        ).format(column=value, zone=sql.Literal(timezone))
    parts = [
        sql.SQL("{} {} {}").format(value, sql.SQL(sign), sql.Literal(_utc(moment)))
        for sign, moment in bounds
        if moment is not None
    ]
    return sql.SQL(" AND ").join(parts) if parts else sql.SQL("true")


def _utc(moment: int) -> object:
    """A time without a zone, which the session takes as UTC."""
    return from_micros(moment).replace(tzinfo=None)
