"""What limits the rows that are read: a person's own SQL, and the time of the event."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from psycopg import sql

from cdc_tracker.errors import SourceError
from cdc_tracker.times import from_micros

Condition: TypeAlias = sql.Composable
"""SQL of our own making that is true of the rows to read."""

Where: TypeAlias = str | Sequence[str] | None
"""SQL that a person wrote: one condition or several, all of which must hold."""

_STRING = r"'(?:[^']|'')*'"
_ESCAPED = r"'(?:[^'\\]|\\.|'')*'"
_PIECE = re.compile(
    rf"""
    [eE]{_ESCAPED}(?:\s*\n\s*{_ESCAPED})*            # what stands on the next line goes on with it
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
    """The conditions that a person gave. Raises SourceError for text that could end what it stands in."""
    given = [where] if isinstance(where, str) else list(where or ())
    for text in given:
        _contained(text)
    return [text for text in given if text.strip().lower() != "true"]


def _contained(text: str) -> None:
    """Whatever stands around the text, it ends no parenthesis and no statement of it. What it means, PostgreSQL says."""
    depth = 0
    for found in _PIECE.finditer(text):
        piece = found[0]
        depth += (piece == "(") - (piece == ")")
        if depth < 0:
            raise _refused(text, "it closes a parenthesis that it did not open")
        if piece[0] == "$" and piece[1:].isdecimal():
            raise _refused(text, f"nothing is given for the parameter {piece}")
        if piece == ";":
            raise _refused(text, "it holds a `;`, and must be one condition")
        if piece in {"'", '"', "$", "/*"}:
            raise _refused(text, "comments in it are written --" if piece == "/*" else "a quote in it is not closed")
    if depth:
        raise _refused(text, "a parenthesis in it is not closed")
    if not text.strip() or "\0" in text:
        raise _refused(text, "it is empty" if not text.strip() else "it holds a NUL character")


def _refused(text: str, why: str) -> SourceError:
    return SourceError(f"the condition {shown(text)} cannot be used: {why}", hint="write what may stand after WHERE in SQL")


def shown(text: str) -> str:
    """A condition as errors name it."""
    line = " ".join(text.split())
    return f"`{line}`" if len(line) <= 100 else f"`{line[:100]}…`"


def since(column: str, from_us: int | None, to_us: int | None) -> Condition:
    """True of rows whose `column` lies at or after `from_us` and before `to_us` (microseconds since the Unix epoch).

    For columns of type timestamptz, timestamp (taken as UTC) and date (its midnight), as mappings take them for an event's time;
    an index on the column serves. Others make PostgreSQL refuse the read. NULL lies in no range.
    """
    bounds = [(">=", from_us), ("<", to_us)]
    parts = [
        sql.SQL("{} {} {}").format(sql.Identifier(column), sql.SQL(sign), sql.Literal(_utc(moment)))
        for sign, moment in bounds
        if moment is not None
    ]
    return sql.SQL(" AND ").join(parts) if parts else sql.SQL("true")


def _utc(moment: int) -> object:
    """Without a zone, whose meaning is the session's: UTC."""
    return from_micros(moment).replace(tzinfo=None)
