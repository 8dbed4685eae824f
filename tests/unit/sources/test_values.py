"""Codecs against a real server: what it prints, what psycopg makes of it, what we make of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.postgres import types
from psycopg.types.json import set_json_loads

from cdc_tracker.model import Special, canonical
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.values import codec
from tests.postgres import Server

pytestmark = pytest.mark.servers("pg15", "pg18")

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
MOMENTS = st.one_of(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)).map(lambda moment: moment.isoformat(" ")),
    st.sampled_from(
        ["infinity", "-infinity", "0044-03-15 12:00:00 BC", "12026-01-01 00:00:00.5", "0001-01-01", "2026-01-02 03:04:05.1"]
    ),
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**40), 10**40), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
DECIMALS = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, places=9).map(lambda number: f"{number:f}"),
    st.decimals(min_value=-1, max_value=1, places=30).map(lambda number: f"{number:f}"),
    st.sampled_from(
        ["NaN", "Infinity", "-Infinity", "0.000", "0.0000000", "-0.0000001", "1" + "0" * 300, "-0.000001", "10.0000001"]
    ),
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(repr)
LITERALS: dict[str, st.SearchStrategy[str]] = {
    "int2": st.integers(-(2**15), 2**15 - 1).map(str),
    "int4": st.integers(-(2**31), 2**31 - 1).map(str),
    "int8": st.integers(-(2**63), 2**63 - 1).map(str),
    "oid": st.integers(0, 2**32 - 1).map(str),
    "numeric": DECIMALS,
    "float8": FLOATS | st.sampled_from(["NaN", "Infinity", "-Infinity", "-0", "1e-7", "5e-324"]),
    "float4": st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr) | st.sampled_from(["NaN", "-Infinity", "0.1"]),
    "bool": st.sampled_from(["t", "f"]),
    "text": TEXTS,
    "varchar": TEXTS,
    "bpchar": TEXTS,
    "uuid": st.uuids().map(str),
    "json": st.builds(json.dumps, JSON_VALUES, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 2])),
    "jsonb": JSON_VALUES.map(json.dumps).filter(lambda text: "\\u0000" not in text),
    "timestamptz": MOMENTS,
    "timestamp": MOMENTS,
    "date": MOMENTS,
    "bytea": st.binary(max_size=40).map(lambda octets: "\\x" + octets.hex()),
}
"""Types whose values psycopg gives as we do."""
KEPT_AS_TEXT = {
    "time": ["03:04:05.5", "24:00:00"],
    "timetz": ["03:04:05+05:30"],
    "interval": ["1 year 2 months 3 days 04:05:06.7", "-1 day", "0"],
    "inet": ["10.0.0.1/8", "::1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "money": ["-1234.50"],
    "bit": ["1"],
    "varbit": ["0101"],
    "tsvector": ["a fat cat"],
    "point": ["(1,2)"],
    "box": ["(2,2),(0,0)"],
    "int4range": ["[1,5)", "empty"],
    "tstzrange": ['["2026-01-01 00:00:00+01",infinity)'],
    "int4multirange": ["{[1,3),[5,7)}"],
    "pg_lsn": ["16/B374D848"],
    "xid8": ["7"],
}


@pytest.fixture(scope="module")
def reader(server: Server) -> Iterator[psycopg.Connection]:
    with connect(server.url(), statement_timeout=60.0) as connection:
        set_json_loads(lambda data: json.loads(data, parse_float=Decimal), connection)
        yield connection


def read(reader: psycopg.Connection, query: str, parameter: object) -> list[tuple[int, str | None, Any]]:
    """(type oid, the server's text, psycopg's value or its DataError) of each row."""
    cursor = reader.execute(query, [parameter])
    assert cursor.pgresult is not None
    assert cursor.description is not None
    rows = []
    for index in range(cursor.pgresult.ntuples):
        octets = cursor.pgresult.get_value(index, 0)
        cursor.scroll(index, mode="absolute")
        try:
            row = cursor.fetchone()
            value = row[0] if row else None
        except (psycopg.DataError, NotImplementedError) as error:
            value = error
        rows.append((cursor.description[0].type_code, octets.decode() if octets is not None else None, value))
    return rows


def as_expected(value: Any) -> Any:
    """What we should make of psycopg's value, with NaN and infinity as their text."""
    if isinstance(value, list):
        return [as_expected(item) for item in value]
    if isinstance(value, float | Decimal) and (value != value or abs(value) == float("inf")):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value


@pytest.mark.parametrize("name", LITERALS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_value_is_what_psycopg_makes_of_it_and_its_json_is_canonical(
    reader: psycopg.Connection, name: str, data: st.DataObject
) -> None:
    literals = data.draw(st.lists(LITERALS[name], min_size=1, max_size=20))
    for oid, text, value in read(
        reader, f"SELECT x::{name} FROM unnest(%s::text[]) WITH ORDINALITY AS t(x, n) ORDER BY n", literals
    ):
        assert text is not None
        made = codec(oid)
        loaded = made.load(text)
        if isinstance(value, psycopg.DataError):
            assert isinstance(loaded, Special)
            assert loaded == text
        else:
            assert loaded == as_expected(value)
            assert isinstance(loaded, Special) or type(loaded) is type(value)
        assert made.to_json(text) == canonical(loaded)
        assert "\n" not in made.to_json(text)
        json.loads(made.to_json(text))


@pytest.mark.parametrize("name", LITERALS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_array_holds_what_its_elements_are_alone(reader: psycopg.Connection, name: str, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 3))
    line = st.lists(st.none() | LITERALS[name], min_size=width, max_size=width)
    literals = data.draw(line | st.lists(line, min_size=1, max_size=3))
    [(oid, text, _)] = read(reader, f"SELECT %s::text[]::{name}[]", literals)
    assert text is not None
    flat = [item for part in literals for item in (part if isinstance(part, list) else [part])]
    element = codec(types[name].oid)
    texts = read(reader, f"SELECT x::{name} FROM unnest(%s::text[]) WITH ORDINALITY AS t(x, n) ORDER BY n", flat)
    expected = [None if single is None else element.load(single) for _, single, _ in texts]
    loaded = codec(oid).load(text)
    assert [item for part in loaded for item in (part if isinstance(literals[0], list) else [part])] == expected
    assert codec(oid).to_json(text) == canonical(loaded)


@pytest.mark.parametrize("name", KEPT_AS_TEXT)
def test_types_without_a_python_value_keep_their_text(reader: psycopg.Connection, name: str) -> None:
    for literal in KEPT_AS_TEXT[name]:
        [(oid, text, _)] = read(reader, f"SELECT %s::{name}", literal)
        assert text is not None
        assert codec(oid).load(text) == text
        assert codec(oid).to_json(text) == canonical(text)
        [(array, texts, _)] = read(reader, f"SELECT ARRAY[%s::{name}, NULL]", literal)
        assert texts is not None
        assert codec(array).load(texts) == [text, None]
        assert codec(array).to_json(texts) == canonical([text, None])


def test_every_built_in_type_has_a_codec_that_takes_what_the_server_prints(reader: psycopg.Connection) -> None:
    """One row of each system catalog with a value of every type that occurs there, and no exception."""
    for catalog in ("pg_class", "pg_type", "pg_proc", "pg_index", "pg_stat_activity", "pg_statistic", "pg_stats", "pg_settings"):
        cursor = reader.execute(f"SELECT * FROM {catalog} LIMIT 50")
        assert cursor.pgresult is not None
        for column in range(cursor.pgresult.nfields):
            made = codec(cursor.pgresult.ftype(column))
            for row in range(cursor.pgresult.ntuples):
                octets = cursor.pgresult.get_value(row, column)
                if octets is not None:
                    assert made.to_json(octets.decode()) == canonical(made.load(octets.decode()))


@pytest.mark.parametrize(
    ("name", "text", "value", "as_json"),
    [
        ("numeric", "12.3400", Decimal("12.3400"), "12.3400"),
        (
            "timestamptz",
            "2026-01-02 03:04:05.123+00",
            datetime(2026, 1, 2, 3, 4, 5, 123000, UTC),
            '"2026-01-02T03:04:05.123000Z"',
        ),
        ("timestamptz", "2026-01-02 03:04:05+00", datetime(2026, 1, 2, 3, 4, 5, 0, UTC), '"2026-01-02T03:04:05Z"'),
        ("timestamptz", "infinity", "infinity", '"infinity"'),
        ("timestamp", "2026-01-02 03:04:05.1", datetime(2026, 1, 2, 3, 4, 5, 100000), '"2026-01-02T03:04:05.100000"'),
        ("date", "2026-01-02", date(2026, 1, 2), '"2026-01-02"'),
        ("date", "0044-03-15 BC", "0044-03-15 BC", '"0044-03-15 BC"'),
        ("bool", "t", True, "true"),
        ("bytea", "\\x00ff", b"\x00\xff", '"AP8="'),
        ("jsonb", '{"a": 1.10, "b": [1, 2]}', {"a": Decimal("1.10"), "b": [1, 2]}, '{"a":1.10,"b":[1,2]}'),
        ("json", '{"a": 1,\n "a": 2}', {"a": 2}, '{"a":2}'),
        ("json", '"\\ud800"', '"\\ud800"', '"\\"\\\\ud800\\""'),
        ("jsonb", "7" * 5000, Decimal("7" * 5000), "7" * 5000),
        ("interval", "P1Y2M", "P1Y2M", '"P1Y2M"'),
    ],
)
def test_text_becomes_value_and_json(name: str, text: str, value: object, as_json: str) -> None:
    made = codec(types[name].oid)
    assert made.load(text) == value
    assert made.to_json(text) == as_json == canonical(made.load(text))


def test_an_array_with_bounds_of_its_own_is_a_list(reader: psycopg.Connection) -> None:
    [(oid, text, _)] = read(reader, "SELECT %s::int[]", "[0:1][5:6]={{1,2},{3,NULL}}")
    assert text == "[0:1][5:6]={{1,2},{3,NULL}}"
    assert codec(oid).load(text) == [[1, 2], [3, None]]
    assert codec(oid).to_json(text) == "[[1,2],[3,null]]"


def test_specials_inside_arrays_stay_special() -> None:
    loaded = codec(types["date"].array_oid).load("{{2026-01-02,infinity}}")
    assert loaded == [[date(2026, 1, 2), "infinity"]]
    assert isinstance(loaded[0][1], Special)
    assert isinstance(codec(types["numeric"].array_oid).load("{NaN}")[0], Special)


def test_an_unknown_oid_is_text() -> None:
    assert codec(999_999).kind == "text"
    assert codec(999_999).load("{a,b}") == "{a,b}"
