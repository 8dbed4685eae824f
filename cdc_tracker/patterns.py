"""Regular expressions from files. RE2 searches them in linear time, whatever the pattern and the text."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import re2

_WORD, _SPACE = r"\p{L}\p{N}_", r"\t-\r\x{1C}-\x{1F}\x{85}\p{Z}"
# In RE2 these classes are ASCII only; here they mean what they mean in Python's `re`.
_UNICODE = {
    "d": r"\p{Nd}",
    "D": r"\P{Nd}",
    "w": f"[{_WORD}]",
    "W": f"[^{_WORD}]",
    "s": f"[{_SPACE}]",
    "S": f"[^{_SPACE}]",
    "Z": r"\z",
}
_IN_BRACKETS = {"d": r"\p{Nd}", "D": r"\P{Nd}", "w": _WORD, "s": _SPACE}
_PIECE = re.compile(r"\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\(.)|(\[\^?\]?)|(\])|\{,([0-9]+)\}|.", re.DOTALL)

# In RE2's errors: the start of a look-around, of (?P=name), or of a numbered backreference.
_ENDLESS = re.compile(r"\(\?<?[=!]|\(\?P\Z|\\[1-9]")


class PatternError(ValueError):
    """The text is not a regular expression that RE2 accepts."""


@lru_cache(1024)
def searcher(pattern: str) -> Callable[[str], bool]:
    """A function that returns whether the pattern matches anywhere in a text. Raises PatternError.

    The syntax is RE2's: no look-around, no backreferences, no more than 1,000 repetitions. `\\d`, `\\w` and `\\s` match
    Unicode, `\\b` bounds ASCII words only, `$` is the very end of the text.
    """
    options = re2.Options()
    options.log_errors = False  # it writes to stderr
    options.never_capture = True
    try:
        search = re2.compile(_translated(pattern).encode(), options).search
    except re2.error as error:
        [reason] = error.args
        raise PatternError(_text(reason)) from None
    except UnicodeEncodeError:
        raise PatternError("half a surrogate pair is not text") from None
    return lambda text: search(text.encode("utf-8", "surrogatepass")) is not None


def _translated(pattern: str) -> str:
    """The pattern in RE2's syntax."""
    parts, bracketed = [], False
    for piece in _PIECE.finditer(pattern):
        short, long, letter, opening, closing, most = piece.groups()
        text = piece[0]
        if short or long:
            text = f"\\x{{{short or long}}}"
        elif letter and letter in _UNICODE:
            if bracketed and letter not in _IN_BRACKETS:
                raise PatternError(f"\\{letter} cannot be used within brackets")
            text = (_IN_BRACKETS if bracketed else _UNICODE)[letter]
        elif most and not bracketed:
            text = f"{{0,{most}}}"  # which RE2 would read as literal text
        bracketed = bool(opening) or (bracketed and not closing)
        parts.append(text)
    return "".join(parts)


def _text(reason: bytes | str) -> str:
    text = reason.decode(errors="backslashreplace") if isinstance(reason, bytes) else reason
    if _ENDLESS.search(text):
        return f"{text} (look-around and backreferences would take unbounded time; write a second condition instead)"
    if "perl operator: (?" in text:
        return f"{text} (RE2 knows (?:…), (?P<name>…) and the flags i, m, s and U)"
    if "repetition size" in text:
        return f"{text} (at most 1,000; lengths are bounded by min_length and max_length)"
    return text
