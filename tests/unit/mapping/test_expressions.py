"""The expression language: what it lets through, and what it computes."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from cdc_tracker.mapping import FUNCTIONS
from cdc_tracker.mapping.language.expressions import SyntaxProblem
from cdc_tracker.mapping.language.parsing import MAX_LENGTH, parse
from cdc_tracker.model import Change, Event, Position, Rejection
from tests.unit.mapping.shop import TRANSACTION, D, change, computed, one, plan, relation


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("new.id", 7),
        ("new.qty + 1", 3),
        ("new.qty - 5", -3),
        ("-new.amount", D("-9.50")),
        ("new.amount * new.qty", D("19.00")),
        ("new.amount / 2", D("4.75")),
        ("1 / 3", D("0.3333333333333333333333333333333333")),
        ("7 // 2", 3),
        ("-7 // 2", -4),
        ("-7.5 // 2", -4),
        ("-7 % 3", 2),
        ("-7.5 % 2", D("0.5")),
        ("0.1 + 0.2", D("0.3")),
        ("new.ratio + 0.2", D("0.3")),
        ("new.ratio + new.ratio", D("0.2")),
        ("new.ratio == 0.1", True),
        ("0.1 == new.ratio", True),
        ("new.ratio < 0.11", True),
        ("123456789012345678901234567890.123456789 + 0", D("123456789012345678901234567890.123456789")),
        ("'a' + 'b'", "ab"),
        ("[1] + [2]", [1, 2]),
        ("new.status == 'paid'", True),
        ("new.status != 'paid'", False),
        ("'paid' == new.status", True),
        ("new.qty == 2", True),
        ("new.qty == 2.0", True),
        ("new.amount == 9.5", True),
        ("new.amount > 9", True),
        ("new.qty >= 2 and new.qty < 3", True),
        ("1 < new.qty <= 2", True),
        ("1 < new.qty < 2", False),
        ("new.gift", True),
        ("new.gift == True", True),
        ("new.gift is not False", True),
        ("not new.gift", False),
        ("new.status in ('paid', 'sent')", True),
        ("new.status not in ['paid']", False),
        ("new.qty in [1, 2]", True),
        ("new.amount in (9.5, 1)", True),
        ("'x' in new.tags", True),
        ("'sku' in new.items[0]", True),
        ("'ai' in new.status", True),
        ("new.status is None", False),
        ("None is not None", False),
        ("'a' is None", False),
        ("'yes' if new.gift else 'no'", "yes"),
        ("new.items[0]['sku']", "A"),
        ("new.items[-1]['qty']", D("1.5")),
        ("new.tags[:1]", ["x"]),
        ("new.status[1:3]", "ai"),
        ("new.status[::-1]", "diap"),
        ("[i['sku'] for i in new.items]", ["A", "B"]),
        ("[i['sku'] for i in new.items if i['qty'] > 1.6]", ["A"]),
        ("[a + b for a in ['x', 'y'] for b in ['1', '2']]", ["x1", "x2", "y1", "y2"]),
        ("[[a for a in b] for b in [[1], [2]]]", [[1], [2]]),
        ("{i['sku']: i['qty'] for i in new.items}", {"A": 2, "B": D("1.5")}),
        ("sum(i['qty'] for i in new.items)", D("3.5")),
        ("{'a': 1, 'b': new.qty}", {"a": 1, "b": 2}),
        ("(1, 2)", [1, 2]),
        ("f'{new.status}-{new.qty}-{new.amount}-{new.gift}'", "paid-2-9.50-true"),
        ('new["Odd \\"name\\""]', "odd"),
        ("new.token", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"),
        ("new.token == '6F9619FF-8B86-D011-B42D-00CF4FC964FF'", True),
        ("new.raw", "YWI="),
        ("new.paid_at", "2026-01-05T10:00:00Z"),
        ("new.paid_at < committed_at", True),
        ("new.local_at > new.paid_at", True),
        ("new.day == new.paid_at", False),
        ("new.day < new.paid_at", True),
        ("op", "insert"),
        ("table", "orders"),
        ("schema", "shop"),
        ("lsn", "16/B374D000"),
        ("xid", 42),
        ("committed_at", "2026-01-05T10:00:00.123456Z"),
        ("old.id", None),
        ("old.status != 'paid'", True),
        ("old.status == 'paid'", False),
        ("1 if old.id is None else 2", 1),
        ("{'a': {'b': [1, {'c': 2}]}}['a']['b'][1]['c']", 2),
        ("\n  new.qty\n  + 1\n", 3),
        ("new.qty # a remark\n + 1", 3),
        ("True and None", None),
        ("False or 'x'", "x"),
    ],
)
def test_an_expression_has_its_value(expression: str, value: Any) -> None:
    found = computed(expression)
    assert found == value
    assert type(found) is type(value) or {type(found), type(value)} == {int, Decimal}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("new.amount + 1", None),
        ("1 - new.amount", None),
        ("-new.amount", None),
        ("new.amount < 1", False),
        ("new.amount >= 0", False),
        ("new.qty > 1", False),
        ("new.qty <= 1", False),
        ("not (new.qty > 1)", True),
        ("new.status == None", True),
        ("new.status == 'x'", False),
        ("new.status != 'x'", True),
        ("new.status in ('x', None)", True),
        ("new.status in ('x', 'y')", False),
        ("'x' in new.tags", False),
        ("new.items[0]", None),
        ("new.items[0]['a']['b']", None),
        ("new.status[1:]", None),
        ("[i for i in new.items]", []),
        ("lower(new.status)", None),
        ("f'{new.status}!'", None),
        ("new.gift", None),
        ("not new.gift", True),
        ("coalesce(new.status, new.qty, 5)", 5),
        ("concat(new.status, 'a', new.qty)", "a"),
        ("date_diff('day', new.paid_at, committed_at)", None),
        ("max(new.qty, 3)", 3),
        ("max(new.qty)", None),
        ("changed(new.status, 'a')", True),
        ("date(new.paid_at, 'Europe/Berlin')", None),
        ("date(committed_at, new.status)", None),
        ("hour(new.paid_at)", None),
        ("hour(committed_at, new.status)", None),
        ("weekday(committed_at, new.status)", None),
    ],
)
def test_none_passes_through_in_the_spirit_of_sql(expression: str, value: object) -> None:
    nothing = dict.fromkeys(("amount", "status", "tags", "items", "gift", "qty", "paid_at"))
    assert computed(expression, nothing) == value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("lower('ÄB')", "äb"),
        ("upper('ab')", "AB"),
        ("trim('  a ')", "a"),
        ("length('abc')", 3),
        ("length(new.items)", 2),
        ("concat('a', None, 1, True)", "a1true"),
        ("replace('aXbX', 'X', '--')", "a--b--"),
        ("replace('a', '', 'b')", "a"),
        ("split('a,b', ',')", ["a", "b"]),
        ("join(['a', None, 1], '-')", "a-1"),
        ("substring('hello', 2)", "ello"),
        ("substring('hello', 2, 3)", "ell"),
        ("left('hello', 2)", "he"),
        ("right('hello', 2)", "lo"),
        ("right('hello', 0)", ""),
        ("starts_with('abc', 'ab')", True),
        ("ends_with('abc', 'ab')", False),
        ("contains(new.tags, 'y')", True),
        ("coalesce(None, 2)", 2),
        ("nullif('a', 'a')", None),
        ("nullif('a', 'b')", "a"),
        ("round(2.5)", 3),
        ("round(-2.5)", -3),
        ("round(2.345, 2)", D("2.35")),
        ("round(1250, -2)", 1300),
        ("abs(-3)", 3),
        ("floor(-2.5)", -3),
        ("ceil(2.1)", 3),
        ("min(3, 1, 2)", 1),
        ("min([3, None, 2.5])", D("2.5")),
        ("max('a', 'b')", "b"),
        ("sum([1, 2.5, None])", D("3.5")),
        ("sum([])", 0),
        ("int('12')", 12),
        ("int(5.00)", 5),
        ("int(True)", 1),
        ("number('9.50')", D("9.50")),
        ("string(9.50)", "9.50"),
        ("string(True)", "true"),
        ("string(new.paid_at)", "2026-01-05T10:00:00Z"),
        ("string(new.items[0])", '{"sku":"A","qty":2}'),
        ("boolean('yes')", True),
        ("boolean(0)", False),
        ("json('{\"a\": [1.50]}')", {"a": [D("1.50")]}),
        ("get(new.items, 0, 'sku')", "A"),
        ("get(new.items, 9, 'sku')", None),
        ("keys(new.items[0])", ["sku", "qty"]),
        ("first(new.tags)", "x"),
        ("last(new.tags)", "y"),
        ("first([])", None),
        ("any([0, 1])", True),
        ("all([0, 1])", False),
        ("sorted([3, 1, None, 2])", [1, 2, 3]),
        ("distinct([1, 2, 1, 1.0])", [1, 2, D("1.0")]),
        ("sha256('a')", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
        ("md5('a')", "0cc175b9c0f1b6a831c399e269772661"),
        ("timestamp('2026-01-05 10:00:00+02')", "2026-01-05T08:00:00Z"),
        ("timestamp('2026-01-05')", "2026-01-05T00:00:00Z"),
        ("timestamp(0)", "1970-01-01T00:00:00Z"),
        ("date(new.paid_at)", "2026-01-05"),
        ("date('2026-01-05T23:00:00-02:00')", "2026-01-06"),
        ("date(new.paid_at, 'Pacific/Auckland')", "2026-01-05"),
        ("date('2026-01-05T23:30:00Z', 'Europe/Berlin')", "2026-01-06"),
        ("date(new.day, 'America/New_York')", "2026-01-05"),
        ("date('2026-01-05', 'America/New_York')", "2026-01-05"),
        ("date(0, 'America/New_York')", "1969-12-31"),
        ("hour(new.paid_at)", 10),
        ("hour(new.paid_at, 'Asia/Kathmandu')", 15),
        ("hour('2026-07-05T22:30:00Z', 'Europe/Berlin')", 0),
        ("hour(new.day, 'Europe/Berlin')", 0),
        ("weekday(new.paid_at)", 1),
        ("weekday('2026-01-04T23:30:00Z', 'Europe/Berlin')", 1),
        ("weekday('2026-01-04T23:30:00Z')", 7),
        ("iso(new.local_at)", "2026-01-05T10:00:00.500000Z"),
        ("iso(new.day)", "2026-01-05"),
        ("epoch(new.paid_at)", 1767607200),
        ("epoch('1970-01-01T00:00:00.25Z')", D("0.25")),
        ("epoch_ms(new.paid_at)", 1767607200000),
        ("date_diff('day', '2026-01-01', new.paid_at)", 4),
        ("date_diff('hour', new.paid_at, '2026-01-01')", -106),
        ("changed(new.status, old.status)", True),
        ("entered(new.status, 'paid')", True),
    ],
)
def test_a_function_does_what_its_line_says(expression: str, value: object) -> None:
    assert computed(expression) == value


def test_every_function_is_documented_and_tested() -> None:
    tested = str(vars(test_a_function_does_what_its_line_says)["pytestmark"])
    for name, function in FUNCTIONS.items():
        assert function.signature.startswith(f"{name}("), name
        assert function.doc and function.least <= function.most
        assert f"{name}(" in tested, name


@pytest.mark.parametrize(
    "expression",
    [
        "new.status + 1",
        "new.gift + 1",
        "new.status < 1",
        "'ab' * 3",
        "[1] * 3",
        "new.status % 'x'",
        "1 / 0",
        "1 // 0",
        "1.5 % 0",
        "lower(1)",
        "new.status['a']",
        "new.items['a']",
        "1 in 5",
        "1 in 'a'",
        "[c for c in 'abc']",
        "int('x')",
        "int(1.5)",
        "int('9' + join([string(i) for i in split(replace('x'+'y', 'x', 'y'), 'y')], '')+'z')",
        "number('1e')",
        "boolean('maybe')",
        "json('{')",
        "timestamp('yesterday')",
        "timestamp(99999999999999999999)",
        "sorted([1, 'a'])",
        "substring('a', 0)",
        "left('a', -1)",
        "{1: 2}",
        "{None: 2}",
        "date_diff('year', 1, 2)",
        "hour(new.paid_at, new.status)",
        "hour(new.paid_at, new.qty)",
        "date(253402300799, 'Asia/Tokyo')",
        "weekday('yesterday', 'Europe/Berlin')",
        "sum(['a'])",
        "join('abc', '')",
        "-'a'",
        "1 < True",
    ],
)
def test_a_wrong_type_or_value_is_an_expression_error_that_shows_no_value(expression: str) -> None:
    found = computed(expression, {"status": "s3cret"})
    assert found.startswith("expression_error: ")
    assert "s3cret" not in found


@pytest.mark.parametrize(
    ("expression", "message", "column"),
    [
        ("", "empty", 0),
        ("new.", "is incomplete", 5),
        ("a b", "text is written 'a b'", 1),
        ("1 2", "not an expression", None),
        ("new", "name one of its columns", 1),
        ("nwe.id", "did you mean 'new'", 1),
        ("opp == 'insert'", "did you mean 'op'", 1),
        ("foo", "write a column as new.foo", 1),
        ("1 + lowwer(new.a)", "did you mean 'lower'", 5),
        ("lower", "is a function", 1),
        ("lower()", r"wrong number of arguments \(0\)", 1),
        ("lower('a', 'b')", "wrong number", 1),
        ("substring(text='a')", "arguments are positional only", 9),
        ("concat(*new.tags)", "arguments are positional only", 1),
        ("new.a.lower()", "no methods.*did you mean 'lower'", 1),
        ("new.a.b", r"a dot is only for new.column", 1),
        ("op.upper", "a dot is only for", 1),
        ("(1).real", "a dot is only for", 1),
        ("new[0]", "named by text", 1),
        ("new[op]", "named by text", 1),
        ("new.__class__", "two underscores", 1),
        ("__import__('os')", "no function '__import__'", 1),
        ("().__class__", "a dot is only for", 1),
        ("lambda: 1", "lambda", 1),
        ("(x := 1)", ":=", 2),
        ("2 ** 9", "operators are", 1),
        ("1 | 2", "operators are", 1),
        ("'a' @ 'b'", "operators are", 1),
        ("1 << 90", "operators are", 1),
        ("+1", "operator", 1),
        ("~1", "operator", 1),
        ("{1, 2}", "a set", 1),
        ("{x for x in new.items}", "a set", 1),
        ("[*new.items]", r"\* cannot", 2),
        ("{**new.items}", r"\*\* cannot", 1),
        ("[x for x in a]", "no name 'a'", 13),
        ("[x for x in [] for y in [] for z in []]", "at most two", 32),
        ("[x for x, y in new.items]", "a single name", 8),
        ("[new for new in new.items]", "loop variable", 10),
        ("[op for op in new.items]", "loop variable", 9),
        ("[_x for _x in new.items]", "loop variable", 9),
        ("[x async for x in new.items]", "cannot be used|not an expression", None),
        ("await x", "text is written 'await x'", None),
        ("f'{new.id:>9}'", "no format", 1),
        ("f'{new.id!r}'", "no format", 1),
        ("f'{new.id:{new.qty}}'", "no format", 1),
        ("b'x'", "bytes constants", 1),
        ("1j", "complex constants", 1),
        ("...", "constants", 1),
        ("new.a is 'x'", "`is` is for None", 10),
        ("true", "write True", 1),
        ("null", "write None", 1),
        ("1e999", "too long or too large", 1),
        ("1e-500", "too long or too large", 1),
        ("date(new.paid_at, 'Europe/Berln')", "there is no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'", 19),
        ("hour(new.paid_at, 'Berlin')", "there is no time zone 'Berlin'; did you mean 'Europe/Berlin'", 19),
        ("weekday(new.paid_at, 'europe/berlin')", "did you mean 'Europe/Berlin'", 22),
        ("hour(new.paid_at, '../../etc/passwd')", "there is no time zone", 19),
        ("hour(new.paid_at, 'localtime')", "there is no time zone", 19),
        ("hour(new.paid_at, 2)", "there is no time zone '2', such as Europe/Berlin", 19),
        ("9" * 400, "too long", 1),
        ("9" * 5000, "longer than|too long|not an", None),
        ("'\\ud800'", "surrogate", 1),
        ("'\\d'", "not an expression", None),
        ("a\0b", "read|not an expression", None),
        ("x = 1", "to compare write ==", 3),
        ("import os", "text is written 'import os'", None),
        ("1; 2", "one expression only", 2),
        ("print('a')", "no function 'print'", 1),
        ("(" * 150 + "1" + ")" * 150, None, None),
        ("(" * 300 + "1" + ")" * 300, "nested|not an expression|read", None),
        ("-" * 3000 + "1", "nested|read", None),
        ("not " * 900 + "1", "nested|read", None),
        ("[" * 90 + "]" * 90, "nested", None),
        ("+".join(["1"] * 100), "nested", None),
        ("x" * (MAX_LENGTH + 1), "longer than", 0),
    ],
)
def test_what_is_not_in_the_language_is_refused_with_its_column(expression: str, message: str | None, column: int | None) -> None:
    if message is None:
        parse(expression)
        return
    with pytest.raises(SyntaxProblem, match=message) as caught:
        parse(expression)
    if column is not None:
        assert caught.value.column == column


def test_a_column_is_counted_in_the_text_as_written() -> None:
    with pytest.raises(SyntaxProblem) as caught:
        parse("loweer(new.a)\n + 'b'")
    assert caught.value.column == 1


def _growing(levels: int) -> str:
    """A value that takes little memory to hold, and is 8 to the power of `levels` times as large as JSON."""
    expression = "new.big"
    for level in range(levels):
        expression = f"[[{','.join([f'v{level}'] * 8)}] for v{level} in [{expression}]]"
    return expression


GROWTH = _growing(8)


@pytest.mark.parametrize(
    "expression",
    [
        "replace(replace(replace(new.big, 'a', 'aaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaa')",
        "new.big + new.big + new.big + new.big",
        "concat(new.big, new.big, new.big, new.big)",
        "f'{new.big}{new.big}{new.big}{new.big}'",
        "join([new.big, new.big, new.big, new.big], new.big)",
        "join([new.big for i in split(new.big, 'a')], '')",
        "[[j for j in split(new.big, 'a')] for i in split(new.big, 'a')]",
        "[i for i in split(new.big, 'a') for j in split(new.big, 'a')]",
        "[new.big for i in [1,2,3,4,5,6,7,8,9] for j in [1,2,3,4,5,6,7,8,9]]",
        "new.n * new.n * new.n * new.n * new.n * new.n * new.n * new.n * new.n * new.n * new.n * new.n * new.n * new.n * new.n",
        "round(number('1e999') * number('1e999') * number('1e999') * number('1e999') * number('1e999'))",
        "int(number('1e999') * 1e90 * number('1e999') * number('1e999') * number('1e999') * 1e90)",
        "number('1e999') * number('1e999') * number('1e999') + number('1e-999') * number('1e-999') * number('1e-999')",
        GROWTH,
        f"string({GROWTH})",
        f"sha256(concat({GROWTH}))",
        f"{GROWTH} == {GROWTH}",
        f"distinct([{GROWTH}, {GROWTH}])",
        f"f'{{{GROWTH}}}'",
        f"length({GROWTH} + {GROWTH})",
        "{'a': [new.big for i in split(new.big, 'a')]}",
        "[concat(new.big, i) for i in split(new.big, 'a')]",
        "[string(new.list) for i in new.list]",
        "[sum(new.list) for i in new.list]",
        "[[sum(j) for i in new.list] for j in [new.list]]",
        "[i for j in [new.list] for i in new.list if i in j]",
        "[[i for i in new.list if i in sorted(j)] for j in [new.list]]",
        "[n for n in [new.n * new.n * new.n * new.n] for i in new.list]",
        "[[n, n, n, n, n, n, n, n] for n in [new.n * new.n * new.n * new.n] for i in new.list]",
        "{i: new.big for i in split(new.big, 'a')}",
        "[{i: i for i in [j]} for j in [new.big] for k in new.list]",
        "join([join([new.big for i in [1, 2]], new.big) for j in new.list], '')",
    ],
)
def test_no_expression_can_take_all_memory_or_time(expression: str) -> None:
    table = relation(columns={"id": "int8", "user_id": "int8", "big": "text", "n": "numeric", "list": "jsonb"})
    made = plan(one(properties={"x": expression}), table)
    row = {"id": "1", "user_id": "1", "big": "a" * 300_000, "n": "1." + "7" * 900, "list": json.dumps([*range(90_000)])}
    outcome = made.by_op["c"][0](
        Change("c", table, tuple(row[name] for name in made.new_columns), None, Position(1, 0), 1, 0, TRANSACTION)
    )
    assert isinstance(outcome, Rejection)
    assert outcome.reason == "expression_error"


def test_all_expressions_of_an_event_share_what_it_may_cost() -> None:
    costly = f"length([j for i in split('{',' * 300}', ',') for j in split('{',' * 30}', ',')])"
    few = plan(one(properties={f"p{n}": costly for n in range(2)}))
    many = plan(one(properties={f"p{n}": costly for n in range(200)}))
    assert few.by_op["c"][0](change(few)).__class__ is Event
    for _ in range(2):  # each event has its own
        refused = many.by_op["c"][0](change(many))
        assert isinstance(refused, Rejection)
        assert refused.detail == "the expressions of the event take more than 1,000,000 steps"


@pytest.mark.parametrize(
    "expression",
    ["new.ｓtatus", "new.statuſ", "f'{new.ｓtatus}'", "f\"{ new.ｓtatus + {'a': 'b'}['a'] }\"", "f\"{f'{new.ｓtatus}'}\"",
     "new.paid and new.ｓtatus == 'status'", "new.a\u0308", "ｌower(new.status)",
     "[ｉ for ｉ in new.items]", "new.status == 'a'\nand new.ｓtatus == 'b'"],
)  # fmt: skip
def test_a_name_is_read_as_it_is_written_or_not_at_all(expression: str) -> None:
    with pytest.raises(SyntaxProblem, match="would be read as"):
        parse(expression)


def test_texts_and_quoted_columns_may_hold_any_letter() -> None:
    read = parse("new['ｓtatus'] == 'ﬁ' and new.größe == f'ﬁ{new.中文}'")
    assert [use.name for use in read.uses] == ["ｓtatus", "größe", "中文"]
    assert [use.name for use in parse("f\"{ concat('ﬁ', new.status) }ﬁ\"").uses] == ["status"]
