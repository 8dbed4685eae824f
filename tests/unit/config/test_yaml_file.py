"""YAML with places."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from cdc_tracker.config.explain import explain
from cdc_tracker.config.nearest import nearest
from cdc_tracker.config.yaml_file import Document, DocumentError, dotted, load, parse

PATH = Path("shop.yml")


def value(text: str) -> Any:
    return parse(text, PATH).value


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parse(text, PATH)
    return [str(problem) for problem in caught.value.problems]


def test_on_yes_and_no_stay_text() -> None:
    assert value("on: [yes, no, on, off, y, n]") == {"on": ["yes", "no", "on", "off", "y", "n"]}


def test_only_true_and_false_are_booleans() -> None:
    assert value("[true, false, True, FALSE, null, ~, '']") == [True, False, True, False, None, None, ""]


def test_numbers_with_a_fraction_are_exact() -> None:
    found = value("[9.50, 0.1, -1.5e3, 7, -7, 0, .5]")
    assert [str(each) for each in found] == ["9.50", "0.1", "-1.5E+3", "7", "-7", "0", "0.5"]
    assert isinstance(found[0], Decimal)


@pytest.mark.parametrize(
    "text", ["2026-01-05", "2026-01-05T10:00:00Z", "007", "0x1F", "1_000", "12:30:45", ".inf", ".nan", "0o17", "1e5"]
)
def test_what_other_yaml_readers_convert_stays_text(text: str) -> None:
    assert value(text) == text


def test_keys_are_always_text() -> None:
    assert value("{1: a, true: b, 2026-01-05: c}") == {"1": "a", "true": "b", "2026-01-05": "c"}


def test_a_repeated_key_is_an_error_that_names_both_lines() -> None:
    assert problems("a: 1\nb:\n  c: 1\n  c: 2\n") == ["shop.yml:4: b.c: duplicate key, first defined on line 3"]


def test_every_repeated_key_is_told_at_once() -> None:
    assert len(problems("a: 1\na: 2\nb: 1\nb: 2\n")) == 2


def test_anchors_and_merges_work_and_own_keys_win() -> None:
    text = "base: &base {a: 1, b: 2}\nother:\n  b: 3\n  <<: *base\nlist: &l [1]\nsame: *l\n"
    assert value(text) == {"base": {"a": 1, "b": 2}, "other": {"a": 1, "b": 3}, "list": [1], "same": [1]}


def test_the_first_of_several_merged_mappings_wins() -> None:
    assert value("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}")["c"] == {"x": 1, "y": 2}


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [ls]", "!!binary aGk=", "!own x", "!!set {a}", "!!float abc"])
def test_tags_make_nothing(text: str) -> None:
    assert problems(text)


@pytest.mark.parametrize(
    "text",
    ["&a [*a]", "a: &a {b: *a}", "a: &a\n  <<: *a\n  x: 1", "a: &a\n  b: &b\n    <<: *a", "a: &a {b: [{<<: *a}]}"],
)
def test_what_holds_itself_is_an_error_on_its_line(text: str) -> None:
    assert any("contains itself through an alias" in problem for problem in problems(text))


def test_what_is_merged_twice_is_no_circle() -> None:
    assert value("a: &a {x: 1}\nb: &b {<<: *a}\nc: {<<: [*a, *b], y: *a}")["c"] == {"x": 1, "y": {"x": 1}}


@pytest.mark.parametrize("first", ["{x: 1}", "{}"])
def test_merges_cannot_grow_beyond_bounds(first: str) -> None:
    grows = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
    assert "is too large or nested too deeply" in problems(f"a0: &a0 {first}\n{grows}")[0]


def test_a_merged_block_is_read_once_for_each_use_and_no_oftener() -> None:
    """An honest, large file: what it takes grows with its size and not with its square."""
    block = "block: &block\n" + "".join(f"  p{n}: {n}\n" for n in range(40))
    read = parse(block + "".join(f"e{n}:\n  <<: *block\n  own: 1\n" for n in range(4_000)), Path("shop.yml"))
    assert read.value["e3999"] == {**{f"p{n}": n for n in range(40)}, "own": 1}
    assert read.place(("e3999", "p7")).line == 9  # where it is written
    assert read.place(("e3999", "own")).line == 12_041


def test_aliases_cannot_grow_into_gigabytes() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "too large" in problems("\n".join(lines))[0]


def test_deep_nesting_is_an_error() -> None:
    assert problems("[" * 5000 + "]" * 5000)


def test_a_syntax_error_names_its_line() -> None:
    assert problems("a: 1\nb: [1, 2\nc: 3\n")[0].startswith("shop.yml:3: is not YAML")


def test_half_a_surrogate_pair_is_not_text() -> None:
    assert "surrogate" in problems('a: "\\ud800"')[0]


def test_a_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(DocumentError, match=r"bad.yml:2: is not UTF-8 text"):
        load(path)


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be read"):
        load(tmp_path / "none.yml")


def test_a_byte_order_mark_and_an_empty_file_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load(path).value == {"a": 1}
    path.write_bytes(b"")
    assert load(path).value is None


def test_every_key_and_value_knows_its_line_and_column() -> None:
    document = parse("a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n", PATH)
    assert document.where(("a", "b")) == "shop.yml:2"
    assert document.place(("a", "c", 1, "d")) == (5, 8)
    assert document.values["a", "b"] == (2, 6)
    assert document.where(("a", "nothing", "here")) == "shop.yml:1"
    assert document.where() == "shop.yml:1"


def test_a_key_is_dotted_with_indexes_in_brackets() -> None:
    assert dotted(("events", 0, "properties", "revenue", "type")) == "events[0].properties.revenue.type"


def test_the_nearest_name_forgives_camel_case() -> None:
    assert nearest("minLength", ["minimum", "min_length"]) == "; did you mean 'min_length'?"
    assert nearest("xyz", ["a", "b"]) == "; there are: a, b"
    assert nearest("xyz", ["a", "b"], list_all=0) == ""


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    amount: int = Field(default=0, ge=1)
    kind: Literal["big", "small"] = "big"
    password: SecretStr = SecretStr("")


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    parts: dict[str, Inner] = {}
    rows: list[Inner] = []
    either: Inner | list[str] | None = None


def told(text: str) -> list[str]:
    document: Document = parse(text, PATH)
    try:
        Outer.model_validate(document.value)
    except ValidationError as error:
        return [str(problem) for problem in explain(error, document, Outer)]
    return []


def test_an_unknown_key_is_placed_and_the_nearest_right_one_named() -> None:
    assert told("name: x\nparts:\n  a:\n    amuont: 1\n") == [
        "shop.yml:4: parts.a.amuont: is not a known key; did you mean 'amount'?"
    ]


def test_messages_are_plain_words_in_the_order_of_the_file() -> None:
    assert told("rows:\n  - amount: 0\n  - kind: bgi\n  - amount: x\nparts: 3\n") == [
        "shop.yml:1: name: is missing",
        "shop.yml:2: rows[0].amount: must be at least 1, not 0",
        "shop.yml:3: rows[1].kind: must be one of big, small, not 'bgi'; did you mean 'big'?",
        "shop.yml:4: rows[2].amount: must be a whole number, not 'x'",
        "shop.yml:5: parts: must be a mapping of keys to values, not 3",
    ]


def test_what_pydantic_adds_to_a_place_is_left_out() -> None:
    assert "shop.yml:3: either.amuont: is not a known key; did you mean 'amount'?" in told("name: x\neither:\n  amuont: 1\n")


def test_a_value_that_may_be_secret_is_not_shown() -> None:
    text = told("name: x\nparts: {a: {password: 12345}}\n")
    assert len(text) == 1 and "12345" not in text[0]


@given(st.text())
def test_no_text_gives_anything_but_a_document_or_problems(text: str) -> None:
    try:
        parse(text, PATH)
    except DocumentError as error:
        assert error.problems
