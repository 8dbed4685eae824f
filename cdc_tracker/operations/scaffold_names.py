"""From the names of tables and columns to the names of events, and guesses about what a column holds."""

from __future__ import annotations

import re

_IRREGULAR = {"people": "person", "children": "child", "men": "man", "women": "woman", "data": "data", "news": "news"}
_SAME = {"series", "species", "status", "address", "business", "process", "access", "analysis", "bus", "campus", "virus"}
_USER_COLUMNS = (
    "user_id",
    "customer_id",
    "account_id",
    "member_id",
    "person_id",
    "profile_id",
    "owner_id",
    "buyer_id",
    "author_id",
    "created_by",
)
"""Columns that say whose a row is, the surest first; a table `members` is itself what `member_id` names."""
_STATUS_WORDS = {"status", "state", "plan", "stage", "phase", "tier"}
_PERSONAL = re.compile(
    r"address|bic|birth|birthdate|birthday|card|credential|credentials|dob|email|fax|firstname|fullname|gender|"
    r"hash|iban|ip|key|lastname|lat|latitude|lng|login|lon|longitude|mail|mobile|name|nickname|otp|passport|"
    r"passwd|password|phone|pin|postal|postcode|pwd|salt|secret|ssn|street|surname|tax|tel|telephone|token|"
    r"username|vat|zip"
)


def words(name: str) -> list[str]:
    """`orderItems`, `order_items`, `Order Items` → `order`, `items`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word] or [name.lower()]


def singular(word: str) -> str:
    """The singular of a lower-case English noun, as far as a few rules carry."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _SAME or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes", "uses")):
        return word[:-1] if word.endswith("uses") and word[:-1] in {"house", "cause", "use", "warehouse"} else word[:-2]
    return word[:-1]


def title(name: str) -> str:
    """`order_status` → `Order Status`."""
    return " ".join(word.capitalize() for word in words(name))


def noun(table: str) -> str:
    """What one row of the table is: `order_items` → `Order Item`."""
    *before, last = words(table)
    return " ".join(word.capitalize() for word in (*before, singular(last)))


def snake(name: str) -> str:
    """`Order Item` → `order_item`: a property's name."""
    return "_".join(words(name))


def user_column(table: str, key: str | None, columns: list[str]) -> str | None:
    """The column that most likely names the user, None where no name says so. `key`: the column that names a row of the table.

    In `accounts (id, userId)` that is userId, in `users (id, account_id)` it is id.
    """
    by_name = {snake(column): column for column in reversed(columns)}
    own = f"{singular(words(table)[-1])}_id" if len(words(table)) == 1 else ""
    if key is not None and own in _USER_COLUMNS:
        by_name[own] = key
    return next((by_name[name] for name in _USER_COLUMNS if name in by_name), None)


def is_status(column: str) -> bool:
    """Whether a text or enum column of this name likely holds a state that changes."""
    return words(column)[-1] in _STATUS_WORDS


def is_personal(column: str) -> bool:
    """Whether a column of this name likely holds what should not reach an analytics tool."""
    return any(_PERSONAL.fullmatch(word) for word in words(column))
