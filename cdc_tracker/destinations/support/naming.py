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
is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
"""Matches a UUID in lower case with hyphens, as event ids are written."""

TABLES = {"identify": "identifies", "group": "groups", "alias": "aliases", "page": "pages", "screen": "screens"}
"""The names of tables and folders for the calls that are not tracks, as Segment's warehouses have them."""


@lru_cache(maxsize=10_000)
def snake_case(text: str) -> str:
    """`Order Paid`, `orderPaid`, `order-paid` → `order_paid`. Keeps non-ASCII letters; empty if there is no letter or digit."""
    return _OTHER.sub("_", _WORD_END.sub("_", text)).strip("_").lower()


def legal_id(text: str, fits: Callable[[str], object]) -> str:
    """The id if it fits, else a UUID derived from it: 36 characters of [0-9a-f-]."""
    return text if fits(text) else str(uuid.uuid5(_OURS, text))


def within(name: str, limit: int) -> str:
    """The name in at most `limit` bytes of UTF-8: a longer one is cut and ends with a hash of the whole."""
    return _cut(name, limit, name, 16) if len(name.encode()) > limit else name


def identifier(name: str, limit: int, original: str) -> str:
    """As `within`, with a short hash of the text that the name was made from; the hash alone if nothing is left of it."""
    return name if name and len(name.encode()) <= limit else _cut(name, limit, original, 8)


def _cut(name: str, limit: int, hashed: str, digits: int) -> str:
    digest = hashlib.sha256(hashed.encode()).hexdigest()[:digits]
    return f"{name.encode()[: limit - digits - 1].decode(errors='ignore')}_{digest}"
