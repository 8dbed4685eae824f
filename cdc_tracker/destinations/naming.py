"""Event and property names as identifiers, as analytics warehouses write them."""

from __future__ import annotations

import re
from functools import lru_cache

_WORD_END = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_OTHER = re.compile(r"\W+|_+")


@lru_cache(maxsize=10_000)
def snake_case(text: str) -> str:
    """`Order Paid`, `orderPaid`, `order-paid` → `order_paid`. Letters beyond ASCII stay; nothing but signs gives ``."""
    return _OTHER.sub("_", _WORD_END.sub("_", text)).strip("_").lower()
