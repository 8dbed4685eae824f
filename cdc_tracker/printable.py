"""Text from outside, made safe for a terminal: rows, names and vendors' answers may contain control sequences."""

from __future__ import annotations

import re

# C0 without tab and line feed, DEL, C1, halves of surrogate pairs, line separators, and changes of text direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def printable(text: str) -> str:
    """The text with control characters escaped, as in `\\u001b`. JSON text stays JSON of the same value."""
    return text if text.isascii() and text.isprintable() else _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """As `printable`, with line feeds and tabs as `\\n` and `\\t`, so that a value cannot forge further lines."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
