"""Identifiers from event and property names, and ids and names that fit a protocol's fields.

A text that does not fit becomes one that does: always the same one, and a different one for each text. An id becomes a UUID,
which fits every field; a long name keeps its beginning. A text that fits stays as it is.
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
_DIGITS = 16  # hexadecimal digits of the hash after a shortened name
is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
"""Matches a UUID in lower case with hyphens, as event ids are written."""


@lru_cache(maxsize=10_000)
def snake_case(text: str) -> str:
    """`Order Paid`, `orderPaid`, `order-paid` → `order_paid`. Keeps non-ASCII letters; empty if there is no letter or digit."""
    return _OTHER.sub("_", _WORD_END.sub("_", text)).strip("_").lower()


def legal_id(text: str, fits: Callable[[str], object]) -> str:
    """The id if it fits, else a UUID derived from it: 36 characters of [0-9a-f-]."""
    return text if fits(text) else str(uuid.uuid5(_OURS, text))


def within(name: str, limit: int) -> str:
    """The name in at most `limit` bytes of UTF-8: a longer one is cut and ends with a hash of the whole."""
    encoded = name.encode()
    if len(encoded) <= limit:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_DIGITS]
    return f"{encoded[: limit - _DIGITS - 1].decode(errors='ignore')}_{digest}"
