"""Names of events from those of tables and columns."""

from __future__ import annotations

from cdc_tracker.mapping.lints.english import singular, words

_STATUS_WORDS = {"status", "state", "plan", "stage", "phase", "tier"}


def title(name: str) -> str:
    """`order_status` → `Order Status`."""
    return " ".join(word.capitalize() for word in words(name))


def noun(table: str) -> str:
    """The name of one row of the table: `order_items` → `Order Item`."""
    *before, last = words(table)
    return " ".join(word.capitalize() for word in (*before, singular(last)))


def is_status(column: str) -> bool:
    """Whether a text or enum column of this name likely holds a state that changes."""
    return words(column)[-1] in _STATUS_WORDS
