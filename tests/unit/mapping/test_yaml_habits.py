"""What YAML makes of unquoted expressions, of tabs and of a wrong indentation: the message says what to write."""

from __future__ import annotations

import pytest

from cdc_tracker.config import yaml_habits
from cdc_tracker.errors import MappingError
from cdc_tracker.mapping import load_texts

EVENT = "version: 1\nevents:\n  - name: Signed Up\n    table: public.users\n    user_id: new.id\n"
BODY = f"{EVENT}    properties:\n"
TAB, BLANK = "YAML is indented with spaces, not tabs", "a blank must follow the colon"
COLON, SPECIAL = "contains a colon and a blank must be quoted", "begins with one of % @ ` * & ! | > ? , - must be quoted"
BEGINS, DEEP = "must be quoted as a whole", "keys that belong together begin in one column"
BRACKET, COMMA = "begins with [ or { must be quoted", 'must be quoted within { }: {value: "round(new.a, 2)"}'
UNDER = "Or does it belong under `{}` (indent it)?"


def found(text: str) -> list[str]:
    try:
        load_texts({"m.yml": text})
    except MappingError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("version: 1\nevents:\n  - name: A B\n\ttable: public.users\n", 4, TAB),
        (f"{BODY}\t  a: new.b\n", 7, TAB),
        (f"{BODY}    \t  a: new.b\n", 7, TAB),
        (f"{BODY}      a:\tnew.b\n", 7, TAB),
        (f"{BODY}      label: f'{{new.a}}: {{new.b}}'\n", 7, f"{COLON}: `label:"),
        (f"{BODY}      label: new.a + ': '\n", 7, COLON),
        (f"{EVENT}    when: new.a == 'x: y'\n", 6, f"{COLON}: `when:"),
        (f"{BODY}      first: 'a' + new.b\n", 7, f"{BEGINS}: `first:"),
        (f'{EVENT}    when: "paid" == new.status\n', 6, BEGINS),
        (f"{EVENT}    when: 'paid' in new.tags\n", 6, BEGINS),
        (f"{BODY}      l: [new.a][0]\n", 7, BEGINS),
        (f"{BODY}      l: [i['a'] for i in new.items]\n", 7, BEGINS),
        (f"{BODY}      l: [new.a, new.b]\n", 7, BRACKET),
        (f"{BODY}      l: [i for i in new.items]\n", 7, BRACKET),
        (f"{EVENT}    when: [new.a]\n", 6, BRACKET),
        (f"{EVENT}    when: {{'a': new.b}}\n", 6, BRACKET),
        (f"{BODY}      o: {{'a': new.name}}\n", 7, BRACKET),
        (f"{BODY}      o: {{k: v for k in new.a}}\n", 7, BRACKET),
        (f"{BODY}      c: {{value: concat(new.name, ', ', new.locale)}}\n", 7, COMMA),
        (f"{BODY}      c: {{value: round(new.a, 2), type: number}}\n", 7, COMMA),
        (f"{BODY}      c: {{value: new.items[0]}}\n", 7, 'within { } an expression must be quoted: `c: {value: "…"}`'),
        (f"{BODY}      h: new.name + ' #1'\n", 7, "a quote is not closed; in YAML, quote an expression in which #"),
        (f"{EVENT}    when: & new.a\n", 6, SPECIAL),
        (f"{BODY}      s: *new.a\n", 7, SPECIAL),
        (f"{EVENT}    when: * 2\n", 6, SPECIAL),
        (f"{BODY}      p: %new\n", 7, SPECIAL),
        (f"{BODY}      p: @new.a\n", 7, SPECIAL),
        (f"{BODY}      p: `new`.a\n", 7, SPECIAL),
        (f"{EVENT}    when: > 5\n", 6, SPECIAL),
        (f"{EVENT}    when: | new.a\n", 6, SPECIAL),
        (f"{EVENT}    when: ? x\n", 6, SPECIAL),
        (f"{EVENT}    when: - new.a\n", 6, SPECIAL),
        (f"{EVENT}    when: !new.gift\n", 6, "a value that begins with ! must be quoted"),
        (f"{EVENT}    when: !(new.a)\n", 6, "a value that begins with ! must be quoted"),
        (f"{BODY}      t: {{{{ new.id }}}}\n", 7, "{{ … }} is no template here"),
        (f'{BODY}      t: "{{{{ new.id }}}}"\n', 7, "there are no templates"),
        (f"{BODY}      t: ${{new.id}}\n", 7, "there are no templates"),
        ("version: 1\nevents:\n  - name: A B\n      table: public.users\n", 4, DEEP),
        ("version: 1\nevents:\n  - name: A B\n   table: public.users\n", 4, DEEP),
        (f"{BODY}      a: new.a\n     b: new.b\n", 8, DEEP),
        (f"{BODY}      a: new.a\n        b: new.b\n", 8, DEEP),
        ("version: 1\nevents:\n  - name:A B\n    table: s.t\n", 4, f"{BLANK}: `name: …`"),
        (f"{EVENT}    when = new.a\n    on: update\n", 7, "a key is followed by a colon and a blank, not by ="),
        (f"{EVENT}    properties:\n    order_id: new.id\n", 7, "did you mean 'user_id'? " + UNDER.format("properties")),
        (f"{EVENT}    properties: {{}}\n    order: new.id\n", 7, UNDER.format("properties")),
        (f"{EVENT}    type: identify\n    traits:\n    mail: new.m\n", 8, UNDER.format("traits")),
        (f"{EVENT}    context:\n    ip: new.ip\n", 7, UNDER.format("context")),
        (f"{EVENT}    let:\n    total: new.a\n", 7, UNDER.format("let")),
        (f"{BODY}      web: web\n", 7, "text is written 'web'; fixed text: {const: web}"),
        (f'{BODY}      web: "web app"\n', 7, "text is written 'web app'; fixed text: {const: web app}"),
    ],
)
def test_the_message_says_what_to_write(text: str, line: int, message: str) -> None:
    problems = found(text)
    assert any(each.startswith(f"m.yml:{line}: ") and message in each for each in problems), problems


def test_a_key_that_is_misspelt_is_still_named() -> None:
    [problem] = found(f"{BODY}      o: {{valu: new.x}}\n")
    assert "is not a known key; did you mean 'value'?" in problem and "quoted" not in problem
    [problem] = found(f"{EVENT}    wen: new.x\n    properties: {{x: new.x}}\n")
    assert "did you mean 'when'?" in problem and "belong" not in problem


def test_a_message_about_a_line_shows_no_value() -> None:
    for line in ("url: postgres://u:s3cret@h: 5", "token: 's3cret' x", "token: %s3cret", "token=s3cret"):
        assert "s3cret" not in yaml_habits.wrong_with(["a: 1", line, "b: 2"], 1)
    assert yaml_habits.wrong_with([], 0) == yaml_habits.wrong_with(["a: 1"], 7) == ""


def test_every_habit_of_a_line_is_tried() -> None:
    marks = vars(test_the_message_says_what_to_write)["pytestmark"]
    said = "\n".join(each for mark in marks for text, *_ in mark.args[1] for each in found(text))
    for _, wrong in yaml_habits.HABITS:
        assert wrong.partition("`{key}")[0].replace("{{", "{").replace("}}", "}").strip(": ") in said, wrong
