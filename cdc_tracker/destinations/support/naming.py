"""Event and property names as identifiers, and an event's own texts as protocols and vendors take them.

A text that a protocol's field cannot hold is made into one that it can, the same every time and another one for every other
text: an id becomes a UUID, which fits every field that there is, and a long name keeps its beginning. What fits stays as it is.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable
from functools import lru_cache

_WORD_END = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_OTHER = re.compile(r"\W+|_+")
_OURS = uuid.uuid5(uuid.NAMESPACE_URL, "cdc-tracker:message-id")
_DIGITS = 16  # of a hash behind a name
is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
"""As ours are written."""


@lru_cache(maxsize=10_000)
def snake_case(text: str) -> str:
    """`Order Paid`, `orderPaid`, `order-paid` → `order_paid`. Letters beyond ASCII stay; nothing but signs gives ``."""
    return _OTHER.sub("_", _WORD_END.sub("_", text)).strip("_").lower()


def legal_id(text: str, fits: Callable[[str], object]) -> str:
    """The id where it fits, else a UUID made of it: 36 characters of [0-9a-f-]."""
    return text if fits(text) else str(uuid.uuid5(_OURS, text))


def within(name: str, limit: int) -> str:
    """The name, in at most so many bytes of UTF-8: what is longer is cut, with a hash of the whole behind."""
    encoded = name.encode()
    if len(encoded) <= limit:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_DIGITS]
    return f"{encoded[: limit - _DIGITS - 1].decode(errors='ignore')}_{digest}"
