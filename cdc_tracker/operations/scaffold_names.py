"""Names of events from those of tables and columns, and guesses about a column's contents."""

from __future__ import annotations

import re

_IRREGULAR = {"people": "person", "children": "child", "men": "man", "women": "woman", "feet": "foot", "mice": "mouse"}
_IRREGULAR |= {"indices": "index", "matrices": "matrix", "vertices": "vertex", "criteria": "criterion", "quizzes": "quiz"}
_IRREGULAR |= {f"{stem}ves": f"{stem}f" for stem in ("hal", "lea", "shel", "thie", "wol")} | {"lives": "life", "wives": "wife"}
_IRREGULAR |= {f"{stem}ses": f"{stem}sis" for stem in ("analy", "cri", "diagno", "hypothe", "parenthe", "synop", "the")}
_SAME = re.compile(
    r"alias|analytics|atlas|aws|bias|canvas|dns|gas|goods|gps|https|ios|lens|news|os|pos|saas|series|sms|species|tls"
)
_PLURAL = re.compile(r"(gur|men|sk|cp|gp)us|(ap|emoj|kp|sk|tax|wik)is")
"""Plurals that end as the singulars `status` and `analysis` do."""
_ONLY_S = re.compile(r"(.*[ao]|exc|re)?uses|.*[aeiou]zes|.*(?<![oue])aches|(mov|cook|zomb|.)ies|(sh|t|f|can)oes")
"""Plurals that lose an `s`, though they end as `boxes`, `companies` and `heroes` do."""
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
    if _SAME.fullmatch(word) or not word.endswith("s") or (word.endswith(("ss", "us", "is")) and not _PLURAL.fullmatch(word)):
        return word
    if _ONLY_S.fullmatch(word):
        return word[:-1]
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes", "uses", "oes")) or (
        word.endswith("es") and _SAME.fullmatch(word[:-2])
    ):
        return word[:-2]
    return word[:-1]


def title(name: str) -> str:
    """`order_status` → `Order Status`."""
    return " ".join(word.capitalize() for word in words(name))


def noun(table: str) -> str:
    """The name of one row of the table: `order_items` → `Order Item`."""
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
