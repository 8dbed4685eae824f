"""What most likely is wrong with a line that is not YAML, and how it is mended. Names keys, never values: they may be secret."""

from __future__ import annotations

import re
from collections.abc import Sequence

_KEY = r"^\s*(?:- +)?(?P<key>[\w.-]+):"
HABITS = [
    (r"^ *\t|:\s*\t", "YAML is indented with spaces, not tabs"),
    (r"^\s*(?:- +)?[\w.-]+ *=(?!=)", "a key is followed by a colon and a blank, not by ="),
    (rf"{_KEY}[^\s/]", "a blank must follow the colon: `{key}: …`"),
    (rf"{_KEY} +[%@`*&!|>?,-]", 'a value that begins with one of % @ ` * & ! | > ? , - must be quoted: `{key}: "…"`'),
    (rf"{_KEY} +{{.*\bvalue:", 'within {{ }} an expression must be quoted: `{key}: {{value: "…"}}`'),
    (rf"{_KEY} +['\"\[{{]", 'a value that only begins with a quote, [ or {{ must be quoted as a whole: `{key}: "…"`'),
    (rf"{_KEY}.*:(?: |$)", 'a value that contains a colon and a blank must be quoted: `{key}: "…"`'),
]
"""(pattern of the line, what is wrong). The first that fits is named."""
_COMPILED = [(re.compile(pattern), wrong) for pattern, wrong in HABITS]
_NO_KEY = _COMPILED[1:3]  # in such a line the parser sees no key, and stops at the next one


def wrong_with(lines: Sequence[str], number: int) -> str:
    """What is wrong with the line at which the parser stopped, or with the one above; empty if nothing is known."""
    line, above = (lines[each] if 0 <= each < len(lines) else "" for each in (number, number - 1))
    for text, habits in ((above, _NO_KEY), (line, _COMPILED)):
        for pattern, wrong in habits:
            if found := pattern.search(text):
                return wrong.format(**found.groupdict())
    deep, before = (len(each) - len(each.lstrip(" -")) for each in (line, above))
    if line.strip() and above.strip() and deep != before:
        return f"this line begins {deep} columns in, the one above {before}: keys that belong together begin in one column"
    return ""
