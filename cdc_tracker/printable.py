"""Text from outside, made fit for a terminal: a row, a vendor's answer or a name may hold what a terminal obeys."""

from __future__ import annotations

import re

# C0 without tab and line feed, DEL, C1, halves of surrogate pairs, line separators, and what turns the direction of writing.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def printable(text: str) -> str:
    """The text with every character that a terminal obeys as `\\u001b`. JSON text stays JSON of the same value."""
    return text if text.isascii() and text.isprintable() else _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """The same, with line feeds and tabs as `\\n` and `\\t`: a value cannot pass for further lines of ours."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
