"""Changes, rejections and values of rows as `preview`, `events` and `explain` print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdc_tracker.model import Op
from cdc_tracker.printable import one_line

if TYPE_CHECKING:
    from cdc_tracker.model import Change, Rejection

WIDEST = 100  # characters of a value on one line


def head(change: Change) -> str:
    """One line: when, what, where."""
    return f"{change.transaction.timestamp}  {Op(change.op).name.lower():8} {subject(change)}  {change.position}"


def place(change: Change) -> dict[str, str]:
    """The same for JSON."""
    return {"op": change.op, "table": subject(change), "position": str(change.position), "at": change.transaction.timestamp}


def subject(change: Change) -> str:
    """The table, or the logical message."""
    return change.relation.table if change.relation else f"message {change.prefix}"


def rejected(each: Rejection, detail: str) -> str:
    """One line. `detail`: the rejection's, or "" if it must not be shown."""
    what = ": ".join(part for part in (each.field, detail) if part)
    return f"  ✗ {each.mapping}: {each.reason}{f' ({one_line(what)})' if what else ''}"


def rejection(each: Rejection, detail: str) -> dict[str, str]:
    """The same for JSON."""
    return {"mapping": each.mapping, "reason": each.reason, "field": each.field, "detail": detail}


def short(text: str, most: int = WIDEST) -> str:
    """The text on one line, cut."""
    return one_line(text if len(text) <= most else f"{text[: most - 1]}…")
