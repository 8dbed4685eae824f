"""Text → Expression. For any text, `parse` returns one or raises SyntaxProblem: no text makes it raise anything else, run code
or take long."""

from __future__ import annotations

import ast
import copy
import io
import keyword
import re
import tokenize
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from cdc_tracker.mapping.language import habits
from cdc_tracker.mapping.language.checking import Checking
from cdc_tracker.mapping.language.expressions import Expression, Lets, SyntaxProblem, cut

MAX_LENGTH = 4_000


def parse(text: str, lets: Lets = MappingProxyType({})) -> Expression:
    """Parses and checks an expression. Raises SyntaxProblem, which says how what was meant is written here, if that is known."""
    if len(text) > MAX_LENGTH:
        raise SyntaxProblem(f"the expression is longer than {MAX_LENGTH:,} characters")
    source = text.strip()
    if not source:
        raise SyntaxProblem("the expression is empty")
    try:
        return _parse(text, source, lets)
    except SyntaxProblem:
        if (meant := habits.meant(source)) is None:
            raise
        written, place = meant
        raise SyntaxProblem(written, place - source.rfind("\n", 0, place)) from None


def _parse(text: str, source: str, lets: Lets) -> Expression:
    shift = 0
    if "\n" in source:  # lines may break as they may within parentheses
        source, shift = f"({source}\n)", 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            node = _tree(source)
    except SyntaxError as error:
        if error.offset == 0:
            raise SyntaxProblem("the expression is incomplete", len(source) + 1) from None
        raise SyntaxProblem(_plain(error), max((error.offset or 1) - (shift if error.lineno == 1 else 0), 1)) from None
    except (ValueError, RecursionError, MemoryError, OverflowError, Warning):
        raise SyntaxProblem("this cannot be parsed: it is nested too deeply or contains invalid characters") from None
    if not source.isascii():
        _refuse_look_alikes(source, shift)
    checking = Checking(source, shift, lets)
    checking.expression(node, frozenset(), 0)
    named = {name: let for name in checking.lets if (let := lets[name])}
    lets_of_lets = (let.lets for let in named.values())
    node = _Columns(named).visit(node) if named else node
    return Expression(text, node, tuple(checking.uses), frozenset(named).union(*lets_of_lets), checking.depth)


def _tree(source: str) -> ast.expr:
    """The source as Python reads it; only what Python refuses is read again with columns that have names of its keywords."""
    try:
        return ast.parse(source, mode="eval").body
    except SyntaxError:
        plain = _with_keyword_columns(source)
        if plain == source:
            raise
    node = ast.parse(plain, mode="eval").body
    _relocate(node, plain.split("\n"), source.split("\n"))
    return node


_TEXT = rf"(?P<prefix>\b[A-Za-z]{{1,2}})?(?:'''.*?'''|\"\"\".*?\"\"\"|{habits.QUOTED.pattern})"
_KEYWORD_COLUMN = re.compile(rf"(?s){_TEXT}|#[^\n]*|(?P<row>\b(?:new|old)\s*\.\s*)(?P<word>{'|'.join(keyword.kwlist)})\b")
_BOLD = {"A": 0x1D400, "a": 0x1D41A}


def _with_keyword_columns(source: str) -> str:
    """The source in which Python takes new.class and new.None for columns, with all in the same places.

    Their first letter is replaced by a look-alike, which is in no keyword, and which Python reads as the letter (NFKC).
    """

    def replaced(found: re.Match[str]) -> str:
        if found["word"]:
            letter = found["word"][0]
            first = "a" if letter.islower() else "A"
            return f"{found['row']}{chr(_BOLD[first] + ord(letter) - ord(first))}{found['word'][1:]}"
        text = found[0]
        for start, end in _computed(text) if "f" in (found["prefix"] or "").lower() else ():
            text = text[:start] + _KEYWORD_COLUMN.sub(replaced, text[start:end]) + text[end:]
        return text

    return _KEYWORD_COLUMN.sub(replaced, source) if "." in source else source


def _computed(text: str) -> Iterator[tuple[int, int]]:
    """Where the expressions of an f-string begin and end: what is in braces that are not doubled."""
    place = depth = start = 0
    while place < len(text):
        if not depth and text.startswith(("{{", "}}"), place):
            place += 1
        elif depth and (quoted := habits.QUOTED.match(text, place)):
            place = quoted.end() - 1
        elif text[place] == "{":
            depth, start = depth + 1, start if depth else place + 1
        elif depth and text[place] == "}":
            depth -= 1
            if not depth:
                yield start, place
        place += 1


def _relocate(tree: ast.AST, read: Sequence[str], written: Sequence[str]) -> None:
    """Sets the places of nodes to those in the text as it was written, whose letters take other numbers of bytes."""
    for node in ast.walk(tree):
        for row, column in (("lineno", "col_offset"), ("end_lineno", "end_col_offset")):
            if hasattr(node, row):
                line = min(getattr(node, row), len(read)) - 1
                letters = len(read[line].encode()[: getattr(node, column)].decode(errors="ignore"))
                setattr(node, column, len(written[line][:letters].encode()))


class _Columns(ast.NodeTransformer):
    """Puts the column in the place of a name that `let` gives to nothing but a column: it is compared and sent as text."""

    def __init__(self, named: Mapping[str, Expression]) -> None:
        self.named = named

    def visit_Name(self, node: ast.Name) -> ast.expr:
        let = self.named.get(node.id)
        return ast.copy_location(copy.copy(let.node), node) if let and let.is_column else node


def _refuse_look_alikes(source: str, shift: int) -> None:
    """Raises SyntaxProblem for names that Python normalizes (NFKC): `ｓtatus` would name the column `status`."""
    for name, line, column in _names(source):
        if (read := unicodedata.normalize("NFKC", name)) != name:
            at = max(column + 1 - (shift if line == 1 else 0), 1)
            raise SyntaxProblem(f"{cut(name)} would be read as {cut(read)}; write a column of that name as new[…]", at)


def _names(source: str) -> Iterator[tuple[str, int, int]]:
    """The names in the source, with line and column."""
    name, line, column, end = "", 0, 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING and "f" in token.string.partition(token.string[-1])[0].lower():
            # Python 3.11 makes an f-string one token
            for first, last in _computed(token.string):
                yield from ((name, *token.start) for name, *_ in _names(f"({token.string[first:last]})"))
        if token.type in {tokenize.NAME, tokenize.ERRORTOKEN}:
            if token.start == end:
                name += token.string  # a combining mark, which 3.11's tokenizer does not know
            else:
                yield name, line, column
                name, (line, column) = token.string, token.start
            end = token.end
    yield name, line, column


def _plain(error: SyntaxError) -> str:
    if "unterminated string" in (error.msg or ""):
        return "a quote is not closed; in YAML, quote an expression in which # follows a blank, because a remark begins there"
    message = (error.msg or "invalid syntax").split(". ")[0].split("(<unknown>")[0].strip()
    return f"this is not an expression ({message[:1].lower()}{message[1:]})"
