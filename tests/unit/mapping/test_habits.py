"""Habits from SQL, JavaScript, templates and spreadsheets: the message says how what was meant is written here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cdc_tracker.mapping.language.expressions import SyntaxProblem
from cdc_tracker.mapping.language.habits import HABITS, meant
from cdc_tracker.mapping.language.parsing import parse
from tests.unit.mapping.shop import computed, mappings, one

NULL, LOGIC, CAST, QUOTES = (
    "`is None`",
    "lower case: and, or, not, in, is",
    "converted by functions: int",
    "text is written in quotes",
)


@pytest.mark.parametrize(
    ("expression", "message", "column"),
    [
        ("new.state = 'complete'", "to compare write ==", 11),
        ("new.a == 1 and new.b = 2", "to compare write ==", 22),
        ("new.a=1", "to compare write ==", 6),
        ("(new.a = 1) or new.b", "to compare write ==", 8),
        ("new.total_cents <> 0", "<> is written !=", 17),
        ("new.state == 'complete' AND new.deleted_at IS NULL", LOGIC, 25),
        ("new.a OR new.b", LOGIC, 7),
        ("NOT new.a", LOGIC, 1),
        ("not (new.a And new.b)", LOGIC, 12),
        ("new.a IS NOT None", LOGIC, 7),
        ("new.state IN ('a', 'b')", LOGIC, 11),
        ("new.state NOT IN ('a', 'b')", LOGIC, 11),
        ("new.deleted_at IS NULL", NULL, 16),
        ("new.deleted_at is null", NULL, 16),
        ("new.deleted_at is not null", NULL, 16),
        ("new.deleted_at IS  NOT  NULL", NULL, 16),
        ("new.deleted_at ISNULL", NULL, 16),
        ("new.deleted_at == NULL", "write None", 19),
        ("new.deleted_at != null", "write None", 19),
        ("new.a is not undefined", NULL, 7),
        ("new.a IS DISTINCT FROM old.a", r"changed\(a, b\)", 7),
        ("new.first || ' ' || new.last", r"concat\(a, b\)", 11),
        ("new.a || new.b == 1", "`or` between conditions", 7),
        ("new.state && true", "written `and`", 11),
        ("!new.gift", "written `not`", 1),
        ("new.a and !(new.b)", "written `not`", 11),
        ("new.a & new.b", "written `and` and `or`", 1),
        ("new.a | new.b", "written `and` and `or`", 1),
        ("new.total::numeric", CAST, 10),
        ("new.total::numeric(10,2) > 5", CAST, 10),
        ("new.paid_at :: date", CAST, 13),
        ("CAST(new.total AS int)", CAST, 1),
        ("cast(new.total as int) + 1", CAST, 1),
        ("new.state like 'comp%'", r"LIKE is written starts_with", 11),
        ("new.state LIKE 'comp%'", r"LIKE is written starts_with", 11),
        ("new.state NOT LIKE 'comp%'", r"LIKE is written starts_with", 11),
        ("new.state ilike '%comp%'", r"of lower\(x\) for ILIKE", 11),
        ("new.state ~* 'comp'", "matching by patterns", 9),
        ("new.state !~ 'comp'", "matching by patterns", 9),
        ("new.age BETWEEN 1 AND 5", "a <= x <= b", 9),
        ("new.age between 1 and 5", "a <= x <= b", 9),
        ("CASE WHEN new.a THEN 1 ELSE 2 END", "b if a else c", 1),
        ("case new.a when 1 then 2 end", "b if a else c", 1),
        ("new.a ? 'x' : 'y'", "b if a else c", 7),
        ("if new.a then 'x'", "b if a else c", 1),
        ("IF(new.a, 1, 2)", "b if a else c", 1),
        ("iif(new.a, 1, 2)", "write b if a else c", 1),
        ("new.a ?? 'x'", r"coalesce\(a, b\)", 7),
        ("new.a === 'x'", "written == and !=", 7),
        ("new.a !== 'x'", "written == and !=", 7),
        ("new.a => 5", "<= and >=", 7),
        ("`new`.`state` == 'x'", "no backticks", 1),
        ("`state` = 'x'", "no backticks", 1),
        ('"new"."state" == \'x\'', "no quotes around new", 1),
        ('new."state" == 1', "not an expression", None),
        ("NEW.state == 'x'", "new and old are written in lower case", 1),
        ("new.a != OLD.a", "new and old are written in lower case", 10),
        ("Old.a", "new and old are written in lower case", 1),
        ("new:status", "a column is written new.column", 1),
        ("new.data->>'key'", r"new.data\['key'\]", 9),
        ("new.data->'a'->'b'", r"new.data\['key'\]", 9),
        ("new.tags @> 'x'", "'a' in new.tags", 10),
        ("new.state = ANY(ARRAY['a'])", "to compare write ==", 11),
        ("new.state in ARRAY['a']", r"\['a', 'b'\]", 14),
        ("“complete” == new.state", "quotes are straight", 1),
        ("new.state == ‘complete’", "quotes are straight", 14),
        ("new.state == „complete“", "quotes are straight", 14),
        ("{{ new.id }}", "no templates", 1),
        ("{new.id}", "no templates", 1),
        ("${new.id}", "no templates", 1),
        ("new.paid_at > now()", "committed_at is when", 15),
        ("new.paid_at > CURRENT_TIMESTAMP", "committed_at is when", 15),
        ("new.paid_at > DATE '2026-01-01'", r"timestamp\('2026", 15),
        ("new.paid_at > interval '1 day'", r"timestamp\('2026", 15),
        ("new.day == 2026-01-05", "a day is written in quotes", 12),
        ("new.version == 1.2.3", QUOTES, 16),
        ("new.url == https://a.example/x", QUOTES, 16),
        ("new.mail == a@example.com", QUOTES, 13),
        ("new.state == in progress", "not an expression|quotes", None),
        ("new.state == partly paid", QUOTES, 12),
        ("SELECT count(*) FROM orders", "text is written|no queries", 1),
        ("(select 1)", "no queries", 2),
        ("new.a; new.b", "one expression only", 6),
        ("new.a /* note */", "after #", 7),
        ("new.name.toLowerCase()", "write lower", 1),
        ("new.name.length", "write|did you mean 'length'", 1),
        ("new.name.startsWith('a')", "did you mean 'starts_with'", 1),
        ("len(new.name)", "write length", 1),
        ("NVL(new.a, 1)", "write coalesce", 1),
        ("IFNULL(new.a, 1)", "write coalesce", 1),
        ("COUNT(new.items)", "write length", 1),
        ("extract(new.paid_at)", "write date, hour or weekday", 1),
        ("to_char(new.a)", "write string", 1),
        ("LOWER(new.a)", "did you mean 'lower'", 1),
        ("lower(value=new.a)", "arguments are positional only", 5),
        ("new.a + 'x", "a quote is not closed; in YAML, quote", 9),
        ("'it's'", "a quote is not closed|not an expression", None),
        ("new.state == complete", r"no name 'complete'.*\(write a column as new.complete; text is written 'complete'\)", 14),
        ("web", r"text is written 'web'; fixed text: \{const: web\}", 1),
        ("hello world", r"text is written 'hello world'.*\{const: hello world\}", 1),
        ("pro plan 2", r"text is written 'pro plan 2'", 1),
    ],
)
def test_what_was_meant_is_named_with_its_place(expression: str, message: str, column: int | None) -> None:
    with pytest.raises(SyntaxProblem, match=message) as caught:
        parse(expression)
    if column is not None:
        assert caught.value.column == column


def test_every_habit_is_tried() -> None:
    marks = vars(test_what_was_meant_is_named_with_its_place)["pytestmark"]
    tried = {found[0] for mark in marks for expression, *_ in mark.args[1] if (found := meant(expression))}
    assert {written for _, written in HABITS} <= tried


def _accepted() -> list[str]:
    """Every text in this folder and in the documentation's mappings that is an expression of the language."""
    root = Path(__file__).resolve().parents[3]
    texts = [
        node.value
        for path in Path(__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
    ]
    texts += [line.partition(": ")[2] for path in (root / "docs").rglob("*.md") for line in path.read_text().splitlines()]
    found = []
    for text in texts:
        if isinstance(text, str) and "\n" not in text:
            try:
                parse(text)
            except SyntaxProblem:
                continue
            found.append(text.strip())
    return found


def test_no_habit_is_seen_in_what_the_language_has() -> None:
    accepted = _accepted()
    assert len(accepted) > 400
    assert [(text, meant(text)) for text in accepted if meant(text) and text != "1969-12-31"] == []  # a difference


def test_a_text_in_quotes_may_have_any_habit() -> None:
    for text in ("a = b", "x AND y", "it is null", "a || b", "`q`", "{{ x }}", "1.2.3", "what?"):
        for quoted in (repr(text), f'"{text}"'):
            with pytest.raises(SyntaxProblem, match="there is no name 'foo'"):
                parse(f"foo == {quoted}")


def test_a_place_on_a_later_line_is_counted_from_its_beginning() -> None:
    with pytest.raises(SyntaxProblem, match="to compare") as caught:
        parse("new.a == 1\nand new.b = 2")
    assert caught.value.column == 11


# Columns that are named as Python's words

WORDS = [
    "from",
    "class",
    "import",
    "None",
    "True",
    "False",
    "in",
    "is",
    "not",
    "and",
    "or",
    "if",
    "else",
    "for",
    "lambda",
    "def",
    "as",
    "with",
    "global",
]


@pytest.mark.parametrize("word", WORDS)
def test_a_column_may_have_the_name_of_a_word_of_python(word: str) -> None:
    for text in (
        f"new.{word}",
        f"lower(new.{word}) == 'x' and old.{word} is None",
        f"[i for i in new.{word} if i]",
        f"new . {word}",
    ):
        found = parse(text)
        assert {use.name for use in found.uses} == {word}
    assert [use.column for use in parse(f"new.{word} == old.{word}").uses] == [1, len(word) + 9]
    assert parse(f"new.{word}").column == word
    assert mappings(one(user_id=f"new.{word}")).all[0].new_columns == (word,)


def test_only_columns_are_taken_for_them() -> None:
    assert computed("f'new.from {{new.from}} {new.status}'") == "new.from {new.from} paid"
    assert computed("'new.class' + \"new.from\"") == "new.classnew.from"
    assert computed("'''it's new.from'''") == "it's new.from"
    assert computed("new.qty # don't\n == 'new.from'") is False
    mixed = parse("new.class # don't\n == 'new.from' and '''it's new.is''' != new.not")
    texts = [each.value for each in ast.walk(mixed.node) if isinstance(each, ast.Constant)]
    assert (texts, [use.name for use in mixed.uses]) == (["new.from", "it's new.is"], ["class", "not"])
    assert [use.name for use in parse("f'{new.from}-{lower(new.class)}'").uses] == ["from", "class"]
    assert [use.name for use in parse("f\"{ new.from + {'a': 'new.is'}['a'] }{{new.if}}{{{new.class}}}\"").uses] == [
        "from",
        "class",
    ]
    assert [use.name for use in parse("'ä' == new.from and new.größe == 1").uses] == ["from", "größe"]
    assert [use.column for use in parse("'ä' == new.from and new.größe == 1").uses] == [8, 21]
    for text in ("from", "new.a.from", "[from for from in new.a]", "new.", "class.x"):
        with pytest.raises(SyntaxProblem):
            parse(text)


def test_the_places_of_all_parts_are_those_of_the_text() -> None:
    for text in ("new.from == 'ä' and lower(new.class) == 1.50", "new.None\n + new.import * 0.25", "new.is in [f'{new.not}']"):
        source = f"({text}\n)" if "\n" in text else text
        tree = parse(text).node
        columns = [ast.get_source_segment(source, each) for each in ast.walk(tree) if isinstance(each, ast.Attribute)]
        assert f"new.{parse(text).uses[0].name}" in columns
    compared = parse("new.from == 1 and new.total == 1.50").node
    assert isinstance(compared, ast.BoolOp)
    assert ast.get_source_segment("new.from == 1 and new.total == 1.50", compared.values[1]) == "new.total == 1.50"


def test_a_message_has_no_letter_that_was_not_written() -> None:
    for text in ("new.from = 1", "new.class.x", "foo(new.from)", "new.from +", "new.import.lower()"):
        with pytest.raises(SyntaxProblem) as caught:
            parse(text)
        assert re.fullmatch(r"[\x20-\x7e…`]+", str(caught.value))
