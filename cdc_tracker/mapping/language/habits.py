"""Habits from SQL, JavaScript and templates: how what was meant is written here. Read only once an expression was refused."""

from __future__ import annotations

import re

QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_WORD = r"(?<![.\w])"
_CONVERTED = "values are converted by functions: int(x), number(x), string(x), boolean(x), timestamp(x)"
_TEXT = "text is written in quotes: 'text'"
_LOGIC = "AND, OR, NOT, IN, IS are written in lower case: and, or, not, in, is"

HABITS = [
    (r"[“”„‟‘’‚‛«»]", "quotes are straight: 'text' or \"text\""),
    (r"`", 'there are no backticks: a column is written new.column, or new["Odd name"]'),
    (r"\"[^\"]*\"\s*\.", 'a column is written new.column, or new["Odd name"], with no quotes around new'),
    (rf"{_WORD}(?:NEW|OLD|New|Old)\b", "new and old are written in lower case"),
    (rf"{_WORD}(?:new|old)\s*:\s*\w", "a column is written new.column"),
    (
        r"\{\{|\$|^\{\s*[\w.]+\s*\}$",
        "there are no templates: write new.column, or f'{new.a}-{new.b}'",
    ),
    (r"[=!]==", "=== and !== are written == and !="),
    (r"<>", "<> is written !="),
    (r"=[<>]", "the signs are <= and >="),
    (r"@>|<@", "whether a list holds a value is written 'a' in new.tags"),
    (
        r"[\w'\")\]]\s*!?~",
        "there is no matching by patterns: write starts_with(x, 'a'), ends_with(x, 'a') or contains(x, 'a')",
    ),
    (r"[-#]>>?", "a key of a JSON value is written new.data['key']"),
    (r"::\s*[A-Za-z]", _CONVERTED),
    (rf"(?i){_WORD}cast\s*\(.*\bas\b", _CONVERTED),
    (rf"(?i){_WORD}(?:date|timestamp|timestamptz|time|interval)\s+'", "a time is written timestamp('2026-01-31T12:00:00Z')"),
    (r"\|\|", "|| is written concat(a, b) if it joins texts, and `or` between conditions"),
    (r"&&", "&& is written `and`"),
    (r"\?\?|\?\.", "a value in place of None is written coalesce(a, b); a missing key gives None by itself"),
    (r"\?", "a ? b : c is written b if a else c"),
    (r"!(?!=)", "! is written `not`"),
    (rf"(?i){_WORD}is\s+(?:not\s+)?distinct\s+from\b", "IS DISTINCT FROM is written changed(a, b)"),
    (
        rf"(?i){_WORD}is\s+(?:not\s+)?(?:null|nil|undefined)\b|\b(?:isnull|notnull)\b(?!\s*\()",
        "IS NULL is written `is None`, IS NOT NULL `is not None`",
    ),
    (
        rf"(?i){_WORD}(?:not\s+)?(?:i?like|similar\s+to|r?like|regexp)\s",
        "LIKE is written starts_with(x, 'a'), ends_with(x, 'a') or contains(x, 'a'); of lower(x) for ILIKE",
    ),
    (rf"(?i){_WORD}(?:not\s+)?between\s", "x BETWEEN a AND b is written a <= x <= b"),
    (rf"(?i){_WORD}case\s", "CASE WHEN a THEN b ELSE c END is written b if a else c"),
    (r"(?i)^if\b", "IF is written b if a else c"),
    (rf"(?i){_WORD}(?:array\s*\[|(?:any|all)\s*\(\s*array)", "a list is written ['a', 'b']"),
    (rf"(?i){_WORD}(?:select|exists)\s", "an expression sees one row change only: there are no queries"),
    (
        rf"(?i){_WORD}(?:current_timestamp|current_date|localtimestamp|(?:now|getdate|sysdate|today)\s*\()",
        "there is no clock: committed_at is when the change was committed",
    ),
    (rf"{_WORD}(?:AND|OR|NOT|IN|IS|And|Or|Not)\b", _LOGIC),
    (r"\w\(\s*\w+\s*=(?!=)|,\s*\w+\s*=(?!=)", "arguments are positional only, without names"),
    (r"(?<![=!<>:])=(?!=)", "= assigns; to compare write =="),
    (r";", "there is one expression only, without ;"),
    (r"/\*|<!--", "a remark is written after # in YAML"),
    (r"\w://|\w@\w[\w-]*\.\w", _TEXT),
    (r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}", "a day is written in quotes, '2026-01-31', a time timestamp('2026-01-31T12:00:00Z')"),
    (r"\b[0-9]+\.[0-9]+\.[0-9]", _TEXT),
    (r"[=<>(,]\s*(?!(?:not|new|old|None)\b)[A-Za-z]\w*\s+(?!(?:and|or|if|else|in|not|is|for)\b)[A-Za-z]", _TEXT),
]
"""(pattern, how it is written here). A pattern fits the text without what is in quotes, and nothing that is in the language."""
_COMPILED = [(re.compile(pattern), written) for pattern, written in HABITS]
_WORDS = re.compile(r"(?!.*\b(?:new|old|None|True|False)\b|not )[^\W\d][\w.-]*(?: [\w.-]+)+")
OTHER_NAMES = {
    "avg": "sum(x) / length(x)",
    "bool": "boolean",
    "ceiling": "ceil",
    "char_length": "length",
    "count": "length",
    "date_part": "date, hour or weekday",
    "date_trunc": "date, hour or weekday",
    "datediff": "date_diff",
    "decimal": "number",
    "dow": "weekday",
    "extract": "date, hour or weekday",
    "float": "number",
    "ifnull": "coalesce",
    "iif": "b if a else c",
    "if": "b if a else c",
    "isnull": "coalesce",
    "json_parse": "json",
    "len": "length",
    "list": "split",
    "nvl": "coalesce",
    "numeric": "number",
    "parseint": "int",
    "size": "length",
    "str": "string",
    "substr": "substring",
    "text": "string",
    "to_char": "string",
    "to_timestamp": "timestamp",
    "tolower": "lower",
    "tolowercase": "lower",
    "toupper": "upper",
    "touppercase": "upper",
    "trunc": "floor",
}
"""Functions of other languages, in lower case: what is written here."""


def meant(source: str) -> tuple[str, int] | None:
    """(how what a refused text likely means is written here, its place in the text, from 0); None if nothing is known."""
    if _WORDS.fullmatch(source) and source.isprintable():
        return fixed_text(source), 0
    bare = QUOTED.sub(lambda found: found[0][0] + "_" * (len(found[0]) - 2) + found[0][0], source)
    places = [(found.start(), number) for number, (pattern, _) in enumerate(_COMPILED) if (found := pattern.search(bare))]
    if not places:
        return None
    place, number = min(places)
    return _COMPILED[number][1], place


def fixed_text(text: str) -> str:
    """How a text that stands alone, without quotes, is written."""
    text = text if len(text) <= 60 else f"{text[:57]}…"
    return f"text is written {text!r}; fixed text: {{const: {text}}}; quotes around a YAML value are no part of it"
