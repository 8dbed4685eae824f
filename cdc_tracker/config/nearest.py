"""Suggestions for a name that is not known."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def nearest(name: str, known: Sequence[str], *, list_all: int = 12) -> str:
    """`; did you mean 'x'?`, or else the first `list_all` known names: the end of an error message, perhaps empty."""
    folded = {candidate.lower().replace("_", ""): candidate for candidate in reversed(known)}
    if close := get_close_matches(name.lower().replace("_", ""), list(folded), n=1, cutoff=0.6):
        return f"; did you mean {folded[close[0]]!r}?"
    if not list_all:
        return ""
    shown = ", ".join(known[:list_all]) + (", …" if len(known) > list_all else "")
    return f"; there are: {shown}" if shown else ""
