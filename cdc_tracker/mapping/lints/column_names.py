"""What the names of tables and columns say: who a row is about, and what of it is personal. Guesses, by common usage."""

from __future__ import annotations

import re
from collections.abc import Collection

from cdc_tracker.mapping.lints.english import singular, snake, words

USER_COLUMNS = (
    "user_id",
    "customer_id",
    "account_id",
    "member_id",
    "person_id",
    "profile_id",
    "owner_id",
    "buyer_id",
    "author_id",
    "actor_id",
    "assignee_id",
    "created_by",
    "created_by_id",
    "invited_by_id",
)
"""Columns that say whose a row is, the surest first; a table `members` is itself what `member_id` names."""
_PEOPLE = {"user", "person", "customer", "member", "employee", "contact", "subscriber", "patient", "student", "client", "guest"}
_OWN = {"account", "profile", "visitor", "lead", "buyer"}
"""Tables whose rows may be people, or belong to those of another table."""
_MAYBE = re.compile(
    r"address|bic|birth|birthdate|birthday|card|credential|credentials|dob|email|fax|firstname|fullname|gender|"
    r"hash|iban|ip|key|lastname|lat|latitude|lng|login|lon|longitude|mail|mobile|name|nickname|otp|passport|"
    r"passwd|password|phone|pin|postal|postcode|pwd|salt|secret|ssn|street|surname|tax|tel|telephone|token|"
    r"username|vat|zip"
)
_SURELY = re.compile(
    r"(.* )?(birth|birthdate|birthday|credentials?|dob|(e ?)?mail|fax|firstname|fullname|gender|iban|ip|lastname|lat|latitude|"
    r"lng|longitude|mobile|nickname|otp|passport|passwd|password|phone|postcode|pwd|salt|secret|ssn|street|surname|telephone|token|"
    r"username|zip)( (address|number|no|code|hash|digest|encrypted|date|day|name|1|2))?|"
    r"(.* )?(first|last|given|family|maiden|middle|sur|customer|contact|recipient|sender|guest|patient|employee) name|"
    r"(.* )?(api|access|private|hashed|encryption|signing) key|(.* )?(card|vat|tax|passport) (id|number|no)|"
    r"hashed (password|token|secret)|(.* )?address( line)?( [12]|1|2)?"
)
_OF_PEOPLE = re.compile(r"(full |display |real |legal |user )?name|login")
"""Columns that are personal in tables of people."""
_OF_NUMBERS = re.compile(r"(.* )?(fax|lat|latitude|lng|longitude|mobile|otp|phone|ssn|telephone)( number| no)?")
_NUMBERS = {"integer", "decimal", "float"}
_NO_FACT = {"boolean", "timestamptz", "timestamp", "time"}
"""Kinds of columns that say that or when something was, such as email_verified."""


def of_people(table: str) -> bool:
    """Whether rows of a table of that name (without its schema) are people: `users`, `auth_user`, but not `team_members`."""
    *before, last = words(table)
    last = singular(last)
    return last in {"user", "customer", "person"} or (last in _PEOPLE and not before)


def may_be_people(table: str) -> bool:
    """Whether they may be, as those of `accounts` and `profiles`."""
    return of_people(table) or singular(words(table)[-1]) in _OWN


def user_column(
    table: str, key: str | None, columns: Collection[str], people: Collection[str] = (), never_null: Collection[str] = ()
) -> str | None:
    """The column that most likely names the user, None where nothing says so.

    `key`: the column that names a row of the table. `people`: columns with a foreign key to a table of people, which say more
    than any name. Among names, those of `never_null` come first. In `accounts (id, userId)` it is userId, in `users (id,
    account_id)` it is id.
    """
    by_name = {snake(column): column for column in reversed([*columns])}
    own = f"{singular(words(table)[-1])}_id" if len(words(table)) == 1 else ""
    if key is not None and own in USER_COLUMNS:
        by_name[own] = key
    ranked = [by_name[name] for name in USER_COLUMNS if name in by_name]
    if people and not of_people(table):
        ranked = [column for column in (*ranked, *columns) if column in people]
    return next((column for column in ranked if column in never_null), None) or next(iter(ranked), None)


def may_be_personal(column: str) -> bool:
    """Whether a column of this name may hold what should not reach an analytics tool. `init` leaves such columns out."""
    return any(_MAYBE.fullmatch(word) for word in words(column))


def looks_personal(table: str, column: str, kind: str = "text") -> bool:
    """Whether a column of this name and kind likely identifies a person or is a secret: some that `may_be_personal` names.

    `table`: its name without the schema.
    """
    name = " ".join(words(column))
    if kind in _NO_FACT or not may_be_personal(column):
        return False
    if kind in _NUMBERS:
        return _OF_NUMBERS.fullmatch(name) is not None
    return _SURELY.fullmatch(name) is not None or (of_people(table) and _OF_PEOPLE.fullmatch(name) is not None)
