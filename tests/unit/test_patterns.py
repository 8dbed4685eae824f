"""Patterns mean what they mean to Python's `re`, and take linear time."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_tracker.patterns import PatternError, searcher

LETTERS = "aZ0_ -ä٣ßⅧ中\t\n\x1c\x85\xa0\u2028é€😀"
ATOMS = st.sampled_from(
    ["a", "ä", ".", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\.", r"\\", r"\u00e4", r"\U0001F600", r"\x41", "[a-z]", "[^a]",
     r"[\d_]", r"[^\w]", r"[\s-]", r"[\D]", "[]a]", "[^]a]", r"[\]]", "[a{,2}]", "(a|ä)", "(?:0|_)", "(?i:A)", r"\A", "^"]
)  # fmt: skip
PATTERNS = st.lists(st.tuples(ATOMS, st.sampled_from(["", "?", "*", "+", "{2}", "{1,3}", "{,2}", "*?"])), max_size=6).map(
    lambda pairs: "".join(atom + ("" if atom in {"^", r"\A"} else times) for atom, times in pairs)
)


@given(PATTERNS, st.text(st.sampled_from(LETTERS), max_size=12), st.booleans())
def test_a_pattern_finds_what_pythons_own_engine_finds(pattern: str, text: str, whole: bool) -> None:
    if whole:
        pattern = rf"{pattern}\Z"
    assert searcher(pattern)(text) is (re.search(pattern, text) is not None)


@pytest.mark.parametrize("letter", "dDwWsS")
def test_classes_are_those_of_unicode(letter: str) -> None:
    ours, theirs = searcher(rf"^\{letter}\z"), re.compile(rf"\{letter}")
    characters = map(chr, [*range(0x3000), 0x3000, 0x4E2D, 0xFF15, 0xFF21, 0x1D7D8, 0x1F600])
    differing = [each for each in characters if ours(each) is not (theirs.fullmatch(each) is not None)]
    assert [each for each in differing if unicodedata.category(each) != "Cn"] == []  # they know editions of Unicode of their own


def test_the_end_is_the_very_end_of_the_text() -> None:
    assert searcher("^paid$")("paid")
    assert not searcher("^paid$")("paid\n")


@pytest.mark.parametrize("pattern", [r"^(a+)+$", r"^(a|aa)*$", r"^(.*a){20}$", r"(\w+\s?)+!$", "(x*)*y"])
def test_what_makes_other_engines_backtrack_for_ever_is_answered_at_once(pattern: str) -> None:
    """In a process of its own: an engine that hangs does so without a look at signals."""
    script = f"from cdc_tracker.patterns import searcher; print(searcher({pattern!r})('a' * 100_000 + '?'))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"a(?=b)", "look-around"),
        (r"(a)\1", r"invalid escape sequence: \\1 .*backreferences"),
        (r"(?P<x>a)(?P=x)", "backreferences"),
        (r"(?<!a)b", "look-around"),
        (r"(?!a)b", "look-around"),
        ("(?x) a b", "flags i, m, s and U"),
        ("(?#note)a", "flags i, m, s and U"),
        ("(?>a)b", "flags i, m, s and U"),
        (r"^.{1,2000}$", "min_length and max_length"),
        ("(", r"missing \)"),
        ("[a", r"missing \]"),
        ("a**", "bad repetition"),
        ("a*+", "bad repetition"),
        (r"[\W_]", "cannot be used within brackets"),
        ("\ud800", "surrogate"),
        ("((((a{100}){100}){100}){100})", "repetition size"),
    ],
)
def test_what_it_does_not_take_is_refused_with_the_reason_and_nothing_on_stderr(
    pattern: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PatternError, match=said):
        searcher(pattern)
    assert capfd.readouterr().err == ""


@given(st.text(max_size=30))
def test_no_text_makes_it_raise_anything_else_or_take_long(pattern: str) -> None:
    began = time.monotonic()
    try:
        found = searcher(pattern)(pattern * 20)
    except PatternError:
        return
    assert isinstance(found, bool)
    assert time.monotonic() - began < 30
