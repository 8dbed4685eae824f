"""What the types of expressions say of a mapping before anything runs, and what they must not say."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_tracker.errors import Problem
from cdc_tracker.mapping import findings
from cdc_tracker.mapping.language.functions import FUNCTIONS
from cdc_tracker.mapping.language.signatures import ARGUMENTS, CHOICES
from cdc_tracker.mapping.typing.calls import RESULTS
from cdc_tracker.model import Column, Relation
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import COLUMNS, OIDS, catalogued, mappings, one

ENUM, ENUMS, CENTS, FLAG, CITEXT, CODE, DOMAIN_CODE, DOC = range(16400, 16408)
MORE = {
    "state": ENUM,
    "states": ENUMS,
    "cents": CENTS,
    "fee": CENTS,
    "flag": FLAG,
    "mail": CITEXT,
    "other_mail": CITEXT,
    "padded": 1042,
    "code": DOMAIN_CODE,
    "short": 1043,
    "checked": 25,
    "needed": ENUM,
    "refs": 2951,
    "matrix": 1007,
    "doc": DOC,
}
LABELS = ("open", "paid", "SENT")
FACTS: dict[str, dict[str, Any]] = {
    "state": {"labels": LABELS, "type_name": "shop.state", "base_name": "shop.state"},
    "needed": {"labels": LABELS, "type_name": "shop.state", "base_name": "shop.state", "not_null": True},
    "states": {"labels": LABELS, "type_name": "shop.state[]", "element_oid": ENUM},
    "cents": {"base_oid": 20, "base_name": "bigint", "type_name": "shop.cents"},
    "fee": {"base_oid": 20, "base_name": "bigint", "type_name": "shop.cents"},
    "flag": {"base_oid": 16, "base_name": "boolean", "type_name": "shop.flag"},
    "mail": {"type_name": "citext", "base_name": "citext"},
    "other_mail": {"type_name": "public.citext", "base_name": "public.citext"},
    "padded": {"length": 4},
    "code": {"base_oid": 1042, "base_name": "character(3)", "type_name": "shop.code", "length": 3},
    "short": {"length": 4},
    "checked": {"allowed": ("eur", "usd")},
    "tags": {"element_oid": 25},
    "moments": {"element_oid": 1184},
    "refs": {"element_oid": 2950},
    "matrix": {"element_oid": 23},
    "doc": {"base_oid": 3802, "base_name": "jsonb", "type_name": "shop.doc"},
    "qty": {"not_null": True, "allowed": ("1", "2")},
    "paid_at": {"not_null": True},
}
TABLE = catalogued(
    Relation(
        "shop",
        "orders",
        (
            *(Column(name, OIDS[kind], name == "id") for name, kind in COLUMNS.items()),
            *(Column(name, oid, key=False) for name, oid in MORE.items()),
        ),
        "f",
    ),
    **FACTS,
)


def found(*, catalog: bool = True, **event: Any) -> list[Problem]:
    """The findings of one mapping, those of its spelling and the like left out."""
    tables = {"shop.orders": TABLE} if catalog else None
    given = findings(mappings(one(**event)), tables, codec)
    return [each for each in given if "every later update" not in each.message and "personal" not in each.message]


def value(expression: str, **rules: Any) -> dict[str, Any]:
    return {"on": "update", "when": "changed(new.id, old.id)", "properties": {"x": {"value": expression, **rules}}}


ERRORS = [
    ("new.qty == '7'", "never equals the text '7'", "Write the number without quotes: 7."),
    ("new.qty != '7'", "always True: new.qty (integer) never equals", ""),
    ("new.qty == 1.5", "never equals 1.5", ""),
    ("new.qty > '7'", "new.qty (integer) cannot be compared with the text '7'", "Write the number without quotes: 7."),
    ("new.gift == 'false'", "new.gift (boolean) never equals", "Write True or False, without quotes."),
    ("new.gift == 1", "new.gift (boolean) never equals 1", ""),
    ("new.paid_at == '2026-01-01'", "always False", "Write timestamp('2026-01-01')."),
    ("new.paid_at > '2026-01-01'", "cannot be compared", "Write timestamp('2026-01-01')."),
    ("new.day <= '2026-01-01'", "cannot be compared", "Write date('2026-01-01')."),
    ("new.local_at > 1700000000", "cannot be compared", ""),
    ("new.token == 'abc'", "new.token never equals 'abc': text that holds a uuid", ""),
    ("new.amount == 'many'", "never equals", ""),
    ("new.status == new.amount", "unless both are None", "Write number(new.status)."),
    ("new.status in ['paid', 7]", "is never found", ""),
    ("new.qty in ['7', 8]", "is never found", "Write the number without quotes: 7."),
    ("new.qty in new.tags", "no element of new.tags equals new.qty", ""),
    ("'6f9619ff-8b86-d011-b42d-00cf4fc964ff' in new.refs", "no element of new.refs", "[string(x) for x in …]"),
    ("new.token == '6F9619FF-8B86-D011-B42D-00CF4FC964FF'", "never equals", "prints a uuid in lower case"),
    ("weekday(new.paid_at) == 0", "weekday(new.paid_at) never equals 0: it is 1 to 7", ""),
    ("hour(new.paid_at, 'Europe/Berlin') in (0, 24)", "is never found: hour(", ""),
    ("length(new.tags) == -1", "it is 0 or more", ""),
    ("new.qty == 2147483648", "it is -2147483648 to 2147483647", ""),
    ("new.qty == new.qty", "always True: both sides are new.qty", ""),
    ("changed(new.status, new.status)", "always False: both sides are new.status", "Compare new.x with old.x"),
    ("new.status == ('paid' or 'sent')", "('paid' or 'sent') is always 'paid'", "Write new.status in ('paid', 'sent')."),
    ("new.status == 'a' and new.gift and new.status == 'b'", "always False: new.status has one value", "Write new.status in"),
    ("new.status in ('a', 'b') and new.status == 'c'", "always False: new.status has one value", ""),
    ("new.status != 'a' or new.status != 'b'", "always True: new.status differs from one of them", "new.status not in"),
    ("new.qty / 0", "`/` by zero always fails", ""),
    ("new.qty % (1 if op == 'update' else 2) // 0.0", "`//` by zero always fails", ""),
    # labels
    ("left(new.state, 3) == 'open'", "left(new.state, 3) has no value 'open'", ""),
    ("int(new.state)", "int()", ""),
    ("timestamp(new.checked)", "timestamp() takes", ""),
    ("new.state == 'payd'", "shop.state has no value 'payd'; did you mean 'paid'?", ""),
    ("'payd' == new.state", "shop.state has no value 'payd'; did you mean 'paid'?", ""),
    ("new.state == 'Paid'", "did you mean 'paid'? Case matters", ""),
    ("new.state in ('open', 'payd')", "is never found: shop.state has no value 'payd'", ""),
    ("changed(new.state, 'payd')", "shop.state has no value 'payd'", ""),
    ("entered(new.state, 'open', 'payd')", "shop.state has no value 'payd'", ""),
    ("coalesce(new.state, 'none') == 'payd'", "has no value 'payd'", ""),
    ("('a' if new.gift else 'b') == 'c'", "has no value 'c'", ""),
    ("lower(new.state) == 'SENT'", "lower(new.state) has no value 'SENT'; did you mean 'sent'?", ""),
    ("new.checked == 'EUR'", "new.checked has no value 'EUR'; did you mean 'eur'?", ""),
    ("new.state == new.checked", "has no value", ""),
    ("op == 'updated'", "has no value 'updated'; did you mean 'update'?", ""),
    # domains, lengths
    ("new.cents == 7", "new.cents (text (of the domain shop.cents)) never equals 7", "Write number(new.cents)."),
    ("new.cents > 7", "cannot be compared with 7", "Write number(new.cents)."),
    ("new.cents == 'many'", "holds an integer", ""),
    ("new.cents * 2", "`*` takes numbers, and new.cents is text (of the domain shop.cents)", "Write number(new.cents)."),
    ("new.cents + 2", "`+` takes two numbers, texts or lists", "Write number(new.cents)."),
    ("round(new.cents)", "round() takes a number", "Write number(new.cents)."),
    ("new.flag == True", "never equals", "Write boolean(new.flag)."),
    ("new.padded == 'abcde'", "its values have at most 4 characters", ""),
    ("new.short == 'abcde'", "its values have at most 4 characters", ""),
    ("new.code == 'EU'", "its values have exactly 3 characters", ""),
    # arithmetic, arguments, parts
    ("sum(new.tags)", "sum() adds numbers, and elements of new.tags are text", "Write sum([number(x) for x in new.tags])."),
    ("max(new.paid_at, '2026-01-01')", "cannot be compared", "Write timestamp('2026-01-01')."),
    ("hour(new.paid_at, 'Europe' if new.gift else 'Berlin')", "there is no time zone 'Berlin'", ""),
    ("new.status - 1", "`-` takes numbers, and new.status is text", ""),
    ("new.gift * 2", "`*` takes numbers, and new.gift is boolean", ""),
    ("[1, 2] / 2", "`/` takes numbers, and [1, 2] is array", ""),
    ("new.paid_at - new.paid_at", "`-` takes numbers", "date_diff('second', start, end)"),
    ("-new.status", "`-` takes a number", ""),
    ("new.status + new.qty", "`+` takes two numbers, texts or lists", "To join texts, write concat(new.status, new.qty)."),
    ("lower(new.qty)", "lower() takes text, and new.qty is integer", ""),
    ("sum(new.qty)", "sum() takes a list", ""),
    ("first(new.states)", "first() takes a list, and new.states is text (an array)", ""),
    ("timestamp(new.ratio)", "timestamp() takes a time", ""),
    ("date(new.paid_at, new.qty)", "date() takes the name of a time zone, and new.qty is integer", ""),
    ("date_diff('days', new.paid_at, committed_at)", "date_diff() knows no unit 'days'; did you mean 'day'?", ""),
    ("date_diff(new.state, new.paid_at, committed_at)", "date_diff() knows no unit", ""),
    ("timestamp('2026-13-01')", "timestamp() takes a timestamp, ISO 8601 text", ""),
    ("number('many')", "number() takes text that is a number", ""),
    ("[1, 2][5]", "there is never an element [5]: the list has 2", ""),
    ("{'a': 1}['b']", "there is never a key 'b'", ""),
    ("{'open': 0, 'paid': 1}[new.checked]", "there is never a key", ""),
    ("[{'sku': t} for t in new.tags][0]['sky']", "there is never a key 'sky'; did you mean 'sku'?", ""),
    ("new.tags['x']", "elements are counted from 0; 'x' is text", ""),
    ("new.qty[0]", "[…] takes an element of text, a list or an object, and new.qty is integer", ""),
    ("new.doc['a']", "text (of the domain shop.doc), whose elements are counted from 0", "Write json(new.doc)."),
    ("get(new.paid_at, 'year')", "[…] takes an element of text, a list or an object", ""),
    ("[x for x in new.qty]", "`for … in` runs over lists and objects", ""),
    ("{new.qty: 1}", "the keys of an object are text", "Write string(new.qty)."),
    ("1 in new.status", "`in` looks for text in text, and 1 is integer", ""),
    ("'a' in new.qty", "`in` looks into text, lists and objects", ""),
    ("{'a': 1} < {'a': 2}", "cannot be compared", ""),
]


@pytest.mark.parametrize(("expression", "message", "hint"), ERRORS)
def test_what_can_never_work_is_an_error(expression: str, message: str, hint: str) -> None:
    named = {"on": "update", "let": {"v": expression}, "when": "changed(new.id, old.id) and v != new.items"}
    for event in (value(expression), named):
        errors = [each for each in found(**event) if each.severity == "error"]
        assert len(errors) == 1 and message in errors[0].message and hint in errors[0].hint, errors
        assert errors[0].message.startswith("column ")


def test_a_text_that_is_no_number_gets_no_advice_to_read_it_as_one() -> None:
    [problem] = [each for each in found(**value("new.qty == 'complete'")) if each.severity == "error"]
    assert problem.hint == ""


def test_a_condition_within_a_comprehension_is_typed() -> None:
    [problem] = found(**value("[t for t in new.tags if t == 7]"))
    assert problem.message == "column 25: always False: t (text) never equals 7"


WARNINGS = [
    ("new.cents + new.fee", "`+` joins two texts", "Write number(new.cents) + number(new.fee)."),
    ("new.cents > '100'", "texts are compared", "Write number(new.cents)."),
    ("new.mail == 'Ann@Example.com'", "new.mail is citext: PostgreSQL ignores case", "lower(new.mail)"),
    ("new.mail == new.other_mail", "new.mail is citext", "lower(new.mail)"),
    ("new.status in ('paid')", "`in 'paid'` looks for a part of this text", "new.status == 'paid'"),
    ("new.qty is None", "always False: the column of new.qty is NOT NULL", ""),
    ("new.qty != None", "always True: the column of new.qty is NOT NULL", ""),
    ("1 if new.flag else 2", "always true, also for 'f'", "Write boolean(new.flag)."),
    ("1 if new.paid_at else 2", "always true: new.paid_at is timestamp, which is never empty", ""),
]


@pytest.mark.parametrize(("expression", "message", "hint"), WARNINGS)
def test_what_works_but_not_as_meant_is_a_warning(expression: str, message: str, hint: str) -> None:
    [problem] = found(**value(expression))
    assert problem.severity == "warning" and message in problem.message and hint in problem.hint, problem


SILENT = [
    "new.amount == 'NaN'",
    "new.paid_at == 'infinity'",
    "new.day == '0044-03-15 BC'",
    "new.state == 'SENT' or new.state in ['open', 'paid']",
    "lower(new.state) == 'sent'",
    "new.cents == '100'",
    "number(new.cents) * 2 > 7",
    "string(new.cents) + ' cents'",
    "new.padded == 'ab'",
    "new.padded == 'abcd  '",
    "new.code == 'EUR'",
    "new.token == '6f9619ff-8b86-d011-b42d-00cf4fc964ff'",
    "weekday(new.paid_at) in (6, 7) and hour(new.paid_at) == 0",
    "new.qty == 2147483647",
    "starts_with(new.state, 'p') or left(new.state, 1) == 'o'",
    "contains(new.state, 'p') or 'a' in new.state",
    "new.state == 'open' or new.state == 'paid'",
    "new.state != 'open' and new.state != 'paid'",
    "new.padded == 'a' and new.padded == 'a '",
    "new.status in ('a', 'b') and new.status in ('b', 'c')",
    "new.state == 'paid' and new.checked == 'eur'",
    "hour(new.paid_at, new.status)",
    "sum(new.matrix) + sum([i['n'] for i in new.items])",
    "max(new.day, new.paid_at)",
    "new.qty / new.qty",
    "new.mail != old.mail",
    "changed(new.mail, old.mail)",
    "lower(new.mail) == 'ann@example.com'",
    "'@example.com' in new.mail",
    "'open' in new.states",
    "new.status or 'unknown'",
    "new.status and 'known'",
    "new.items['sku'] == 7 and new.items[0] == 'x' and new.items > 3",
    "[x['qty'] * 2 for x in new.items if x['gift'] is not None]",
    "[x[0] for x in new.matrix] == [1]",
    "'paid' in new.tags and first(new.tags) == 'x' and new.tags[7] == 'y'",
    "split(new.email, '@')[1]",
    "{'1': 0, '2': 10}[string(new.qty)] > 5",
    "{'open': 0}[new.state]",
    "new.qty == 7.0 or new.qty == new.amount or new.ratio == new.qty",
    "new.day == new.paid_at or new.day > new.local_at",
    "old.qty is None and op == 'insert'",
    "date_diff('day', new.paid_at, committed_at)",
    "coalesce(new.status, new.qty) == 7",
    "nullif(new.status, '') == 'x'",
    "f'{new.qty}: {new.status}'",
    "length(new.raw) + length(new.items) + length(new.tags)",
    "sha256(new.raw)",
    "min(new.qty, new.amount)",
    "get(new.items, 0, 'sku')",
]


@pytest.mark.parametrize("expression", SILENT)
def test_what_can_work_is_not_complained_about(expression: str) -> None:
    wide: dict[str, Any] = {
        "on": ["insert", "update"],
        "when": "changed(new.id, old.id)",
        "properties": {"x": {"value": expression}},
    }
    assert found(**wide) == []
    assert found(**wide, catalog=False) == []


def test_nothing_is_known_of_columns_without_a_catalog() -> None:
    for expression, *_ in [*ERRORS, *WARNINGS]:
        if "new." in expression:
            for problem in found(**value(expression), catalog=False):
                assert "(integer)" not in problem.message and "shop.state" not in problem.message, problem


@pytest.mark.parametrize(
    ("expression", "place"),
    [("'ä' == new.status or new.qty == '7'", 22), ("'ä' != new.status\nand 'ö' != new.status and new.qty == '7'", 27)],
)
def test_a_place_is_counted_in_characters(expression: str, place: int) -> None:
    [problem] = found(**value(expression))
    assert problem.message.startswith(f"column {place}: "), problem


# Conditions


@pytest.mark.parametrize(
    ("when", "severity", "message"),
    [
        ("new.status == 'paid' or 'sent'", "error", "`or 'sent'` is always true: write new.status in ('paid', 'sent')"),
        ("new.status != 'paid' and 'sent'", "error", "`and 'sent'` is always true: write new.status not in ('paid', 'sent')"),
        ("new.status or 'sent'", "error", "`or 'sent'` is always true"),
        ("starts_with(new.state, 'P')", "error", "is never true: there is never an event"),
        ("'x' in new.state", "error", "is never true: there is never an event"),
        ("not (new.status == 'paid' or 'sent')", "error", "`or 'sent'` is always true"),
        ("new.gift and (new.status == 'a' or 'b')", "error", "write new.status in ('a', 'b')"),
        ("'false'", "warning", "'false' is always true: it is no condition"),
        ("''", "warning", "'' is always false: it is no condition"),
        ("new.paid_at", "warning", "always true: new.paid_at is timestamp"),
        ("False", "warning", "is never true: there is never an event"),
        ("new.gift and new.gift == None and None", "error", "is never true: there is never an event"),
    ],
)
def test_a_condition_that_is_none_is_reported(when: str, severity: str, message: str) -> None:
    assert (severity, True) in [(each.severity, message in each.message) for each in found(on="insert", when=when)]


def test_what_needs_no_catalog_is_found_without_one() -> None:
    [problem] = found(on="insert", when="new.status == 'paid' or 'sent'", catalog=False)
    assert (problem.severity, problem.key) == ("error", "events[0].when")
    assert problem.message == "column 25: `or 'sent'` is always true: write new.status in ('paid', 'sent')"


# Rows


@pytest.mark.parametrize(
    ("event", "severity", "key", "message"),
    [
        ({"on": "delete"}, "error", "user_id", "new.user_id is None: there is no new row on delete"),
        ({"on": "insert", "user_id": "old.user_id"}, "error", "user_id", "old.user_id is None: there is no old row on insert"),
        ({"on": "insert", "when": "old.status != 'x'"}, "error", "when", "old.status is None"),
        ({"on": ["insert", "delete"]}, "error", "user_id", "'new.user_id' is None on delete: every such event becomes a dead"),
        ({"on": ["insert", "delete"], "when": "new.qty > 1"}, "warning", "when", "is never true on delete, where new is None"),
        ({"on": ["insert", "update"], "when": "new.qty > old.qty"}, "warning", "when", "is never true on insert, where old is"),
        (
            {"on": ["insert", "update"], "properties": {"x": {"value": "old.status", "required": True}}},
            "error",
            "x.value",
            "'old.status' is None on insert: every such event becomes a dead letter (required_missing)",
        ),
        ({"on": ["update", "insert"], "id": ["old.id"]}, "error", "id[0]", "'old.id' is None on insert"),
    ],
)
def test_a_row_that_an_operation_does_not_have_is_reported_once(event: Any, severity: str, key: str, message: str) -> None:
    [problem] = [each for each in found(**event) if "may be NULL" not in each.message and "the event's id" not in each.message]
    assert problem.severity == severity and problem.key.endswith(key) and message in problem.message, problem


def test_the_uses_of_a_row_that_is_not_there_are_one_finding() -> None:
    [problem] = found(on="delete", user_id="new.user_id", properties={"a": "new.status", "b": "lower(new.email)"})
    assert problem.message.endswith("; the same of events[0].properties.a, events[0].properties.b")
    assert problem.hint == "Write old.user_id, or change `on`."


@pytest.mark.parametrize(
    "event",
    [
        {"on": ["insert", "update"], "when": "new.status == 'paid' and old.status != 'paid'"},
        {"on": ["insert", "update"], "when": "entered(new.status, 'paid')"},
        {"on": ["insert", "update"], "when": "changed(new.status, old.status)"},
        {"on": ["insert", "update", "delete"], "user_id": "coalesce(new.user_id, old.user_id)"},
        {"on": ["insert", "delete"], "user_id": "new.user_id if op == 'insert' else old.user_id"},
        {"on": "insert", "user_id": "coalesce(new.user_id, old.user_id)"},
        {"on": ["insert", "delete"], "user_id": "old.user_id", "when": "op == 'delete'", "id": ["old.id"]},
        {"on": ["insert", "delete"], "user_id": "coalesce(new.user_id, old.user_id)", "properties": {"x": "new.status"}},
        {"on": ["insert", "update"], "properties": {"before": "old.status"}},
    ],
)
def test_a_row_that_another_operation_has_is_not_complained_about(event: dict[str, Any]) -> None:
    assert [each for each in found(**event) if each.severity == "error"] == []


@pytest.mark.parametrize(
    "when",
    [
        "coalesce(old.state, 'none') in ('none', 'open') and new.state == 'paid'",
        "coalesce(new.state, 'gone') != coalesce(old.state, 'none')",
        "coalesce(old.state, 'none') == 'none' or coalesce(new.state, 'gone') == 'gone'",
        "before == 'none' or before == 'open'",
        "{'open': 1, 'paid': 2}[coalesce(old.state, 'none')] == 1",
    ],
)
def test_a_value_in_place_of_a_row_that_is_not_there_can_be_compared(when: str) -> None:
    for column in ("state", "needed"):
        event: dict[str, Any] = {"when": when.replace("state", column), "let": {"before": f"coalesce(old.{column}, 'none')"}}
        given = found(on=["insert", "update", "delete"], user_id="coalesce(new.id, old.id)", **event)
        assert [each for each in given if each.severity == "error"] == []


@pytest.mark.parametrize("when", ["coalesce(old.state, 'none') == 'payd'", "old.state != new.state == 'payd'"])
def test_what_no_operation_can_equal_is_an_error_with_several_operations(when: str) -> None:
    told = [each.message for each in found(on=["insert", "update"], when=when) if each.severity == "error"]
    assert told and all("'payd'" in each for each in told)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"user_id": "[new.gift][0]"}, "must be text or a whole number, and '[new.gift][0]' is boolean"),
        ({"user_id": "new.user_id", "timestamp": "new.refs[0]"}, "must be a time, and 'new.refs[0]' is UUID"),
        ({"user_id": "new.refs[0]", "timestamp": "[new.day][0]"}, ""),
        ({"user_id": "new.user_id", "timestamp": "[new.qty][0]"}, "must be a time, and '[new.qty][0]' is integer"),
    ],
)
def test_what_cannot_be_an_identifier_or_a_time_is_an_error(event: dict[str, Any], message: str) -> None:
    assert [each.message for each in found(**event) if "must be" in each.message] == ([message] if message else [])


# NULL where a value is needed


@pytest.mark.parametrize(
    ("event", "names"),
    [
        ({"user_id": "new.email"}, "new.email"),
        ({"user_id": "f'{new.email}-{new.status}'"}, "new.email, new.status"),
        ({"user_id": "coalesce(new.email, new.status)"}, "new.email, new.status"),
        ({"type": "group", "group_id": "new.status"}, "new.status"),
        ({"type": "alias", "previous_id": "new.status"}, "new.status"),
        ({"properties": {"x": {"value": "upper(new.status)", "required": True}}}, "new.status"),
    ],
)
def test_null_in_a_needed_value_is_a_warning(event: dict[str, Any], names: str) -> None:
    [problem] = [each for each in found(**event) if "may be NULL" in each.message]
    assert problem.severity == "warning" and problem.message.startswith(f"{names} may be NULL")


@pytest.mark.parametrize(
    "event",
    [
        {"user_id": "new.email", "when": "new.email is not None"},
        {"user_id": "new.email", "when": "new.qty > 1 and new.email"},
        {"user_id": "new.email", "when": "ends_with(new.email, '@x.example') and new.qty > 1"},
        {"user_id": "new.email", "when": "entered(new.email, 'a', 'b')"},
        {"user_id": "new.email", "when": "not (new.email is None or new.qty == 1)"},
        {"user_id": "new.email", "anonymous_id": "new.token"},
        {"user_id": "coalesce(new.email, new.user_id)"},
        {"user_id": "new.email if new.email is not None else new.id"},
        {"user_id": "get(new.items, 'user')"},
        {"user_id": "split(new.email, '@')[0]", "when": "new.email is not None"},
        {"properties": {"x": {"value": "new.items", "required": True}}},
    ],
)
def test_a_value_that_cannot_be_null_or_is_unknown_is_no_warning(event: dict[str, Any]) -> None:
    assert [each for each in found(**event) if "may be NULL" in each.message] == []


# Declared properties


@pytest.mark.parametrize(
    ("expression", "rules", "severity", "message"),
    [
        ("new.state", {"enum": ["PAID", "OPEN"]}, "error", "must be one of those declared, but 'SENT', 'open', 'paid' are all"),
        ("new.state", {"enum": ["paid", "open"]}, "warning", "events with 'SENT' become dead letters (not_in_enum)"),
        ("new.state", {"pattern": "^[0-9]+$"}, "error", "must match its pattern"),
        ("new.state", {"pattern": "^[a-z]+$"}, "warning", "events with 'SENT' become dead letters (pattern_mismatch)"),
        ("new.state", {"max_length": 3}, "error", "must have a length of at most 3"),
        ("new.state", {"type": "number"}, "error", "is declared as number"),
        ("new.padded", {"max_length": 3}, "error", "a char(4) always has 4"),
        ("new.short", {"min_length": 5}, "error", "the column holds 4 characters at most"),
        ("new.token", {"max_length": 32}, "error", "a uuid always has 36"),
        ("new.token", {"min_length": 37}, "error", "must have a length of at least 37"),
        ("new.qty", {"minimum": 2**31}, "error", "must be at least 2147483648, but 'new.qty' is -2147483648 to 2147483647"),
        ("weekday(new.day)", {"maximum": 0}, "error", "must be at most 0, but 'weekday(new.day)' is 1 to 7"),
        ("new.gift", {"minimum": 0}, "error", "must be a number, as it has bounds, but 'new.gift' is boolean"),
        ("new.qty", {"pattern": "^7$"}, "error", "must be text, as it has a pattern"),
        ("new.qty", {"enum": ["1", "2"]}, "error", "none of them is a value of integer"),
        ("new.status", {"enum": [1, 2]}, "error", "none of them is a value of text"),
        ("first(new.tags)", {"type": "number"}, "error", "is declared as number, but 'first(new.tags)' is text"),
        ("12", {"maximum": 7}, "error", "must be at most 7, but 12 is all that it can be"),
        ("new.tags", {"items": {"type": "number"}}, "error", "is declared as number"),
        ("{'a': new.qty}", {"properties": {"b": {"required": True}}}, "error", "is required"),
        ("{'a': new.qty}", {"properties": {"a": {"type": "string"}}}, "error", "is declared as string"),
        ("[{'s': new.state}]", {"items": {"properties": {"s": {"enum": ["x"]}}}}, "error", "must be one of those declared"),
    ],
)
def test_rules_that_no_value_meets_are_errors(expression: str, rules: dict[str, Any], severity: str, message: str) -> None:
    [problem] = found(**value(expression, **rules))
    assert problem.severity == severity and message in problem.message, problem


@pytest.mark.parametrize(
    ("expression", "rules"),
    [
        ("new.state", {"enum": ["open", "paid", "SENT", "more"], "type": "string"}),
        ("new.checked", {"enum": ["eur", "usd", None]}),
        ("new.status", {"enum": ["a", 1]}),
        ("new.amount", {"type": "integer", "minimum": 0}),
        ("new.code", {"enum": ["EUR"]}),
        ("new.items", {"type": "number", "minimum": 0, "enum": [1]}),
        ("new.matrix", {"items": {"items": {"type": "integer"}}}),
        ("[x for x in new.refs]", {"items": {"type": "string", "min_length": 1}}),
        ("new.tags", {"min_length": 1, "items": {"type": "string", "pattern": "x"}}),
        ("op", {"enum": ["insert", "update", "delete"]}),
        ("{'a': new.items}", {"properties": {"a": {"type": "array", "required": True}}}),
    ],
)
def test_rules_that_a_value_can_meet_are_not_complained_about(expression: str, rules: dict[str, Any]) -> None:
    assert found(**value(expression, **rules)) == []


# The tables


def test_every_function_says_what_its_arguments_may_be() -> None:
    for name, function in FUNCTIONS.items():
        words = set(function.takes)
        assert function.takes and words <= ARGUMENTS.keys() | CHOICES.keys(), name
        assert len(function.takes) <= function.most
    assert RESULTS.keys() <= FUNCTIONS.keys()


def test_expressions_that_could_take_long_to_type_do_not() -> None:
    nested = "not " * 35 + "new.gift"
    chosen = "new.gift"
    for _ in range(18):
        chosen = f"(1 if {chosen} is not None else 2)"
    lets = {"n0": "new.qty + 1"} | {f"n{i}": " + ".join(f"n{j}" for j in range(i)) for i in range(1, 20)}
    assert found(on="insert", properties={"a": nested, "b": chosen}) == []
    assert found(on="insert", let=lets, properties={"a": "n19"}) == []
    choices = {"n0": "new.qty"} | {f"n{i}": f"n{i - 1} if new.email is None else n{i - 1} + 1" for i in range(1, 14)}
    assert found(on="insert", let=choices, properties={"a": "n13"}) == []
