"""Literals of every built-in type, and of types of a database's own, for property tests."""

from __future__ import annotations

import json
from datetime import datetime

from hypothesis import strategies as st

PREPARE = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine", \\', 'größer');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN price AS numeric(40, 10);
CREATE DOMAIN raw AS bytea;
CREATE TYPE pair AS (a int, b text, c numeric)
"""

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30) | st.sampled_from(
    [
        "",
        " ",
        "\n\r\t\b\f\x01\x7f",
        '"quoted" \\back\\slash\\',
        "it's",
        "🛒𝄞",
        "NULL",
        "null",
        "{a,b}",
        "\u2028",
        '\\"',
        "\\u0041",
    ]
)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS.filter(lambda text: "\0" not in text),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=9).map(lambda number: f"{number:f}") | st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "0.000", "-0.0000001", "9" * 5000, "0." + "0" * 400 + "1", "1e300"]
)
FLOAT8 = st.floats().map(str) | st.sampled_from(["-0", "5e-324", "1.7976931348623157e308", "1e20", "100000", "NaN", "-Infinity"])
FLOAT4 = st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr) | st.sampled_from(
    ["-0", "NaN", "Infinity", "1e-45", "3.4028235e38", "0.1"]
)
MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)).map(
    lambda moment: moment.isoformat(" ")
) | st.sampled_from(
    [
        "infinity",
        "-infinity",
        "0044-03-15 12:00:00 BC",
        "12026-01-01 00:00:00.5",
        "4713-01-02 00:00:00 BC",
        "294276-12-31 23:59:59",
    ]
)
DATES = st.dates().map(str) | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "5874897-12-31"])
TIMES = st.times().map(str) | st.just("24:00:00")
INTERVALS = st.builds(
    "{} months {} days {} microseconds".format,
    st.integers(-100_000, 100_000),
    st.integers(-100_000, 100_000),
    st.integers(-(2**50), 2**50),
)


def _quoted(item: str | None) -> str:
    return "NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """One and two dimensions, NULLs, bounds of their own."""
    cells = st.none() | items
    flat = st.lists(cells, max_size=4).map(lambda row: "{" + ",".join(map(_quoted, row)) + "}")
    pairs = st.lists(st.tuples(cells, cells), min_size=1, max_size=3)
    grid = pairs.map(lambda rows: "{" + ",".join("{" + ",".join(map(_quoted, row)) + "}" for row in rows) + "}")
    return flat | grid | st.tuples(cells, cells).map(lambda row: "[-1:0]={" + ",".join(map(_quoted, row)) + "}")


def _ranges(items: st.SearchStrategy[int]) -> st.SearchStrategy[str]:
    ordered = st.tuples(items, items).map(sorted)
    return ordered.map(lambda ends: f"[{ends[0]},{ends[1]})") | st.sampled_from(["empty", "(,)", "[1,]", "(,7)"])


SMALL = st.integers(-(2**31) + 1, 2**31 - 2)
OCTET = st.integers(0, 255)
INET4 = st.builds("{}.{}.{}.{}/{}".format, OCTET, OCTET, OCTET, OCTET, st.integers(0, 32))
INET6 = st.ip_addresses(v=6).map(str)
BITS = st.text("01", max_size=20)
HEX = st.binary(max_size=40).map(lambda data: "\\x" + data.hex())
POINT = st.builds("({},{})".format, st.integers(-999, 999), st.floats(-1e6, 1e6))

LITERALS: dict[str, st.SearchStrategy[str]] = {
    "int2": st.integers(-(2**15), 2**15 - 1).map(str),
    "int4": st.integers(-(2**31), 2**31 - 1).map(str),
    "int8": st.integers(-(2**63), 2**63 - 1).map(str),
    "oid": st.integers(0, 2**32 - 1).map(str),
    "numeric": DECIMALS,
    "numeric(12,4)": st.decimals(-(10**7), 10**7, places=4).map(str),
    "float4": FLOAT4,
    "float8": FLOAT8,
    "money": st.integers(-(10**12), 10**12).map(lambda cents: f"{cents / 100:.2f}"),
    "bool": st.sampled_from(["t", "f"]),
    "text": TEXTS,
    "varchar(60)": TEXTS,
    "char(40)": TEXTS,
    '"char"': st.sampled_from(["a", "\\", '"', " "]),
    "name": TEXTS.map(lambda text: text[:15]),
    "bytea": HEX,
    "bit(5)": st.text("01", min_size=5, max_size=5),
    "varbit": BITS,
    "uuid": st.uuids().map(str),
    "json": st.builds(json.dumps, JSON_VALUES, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 1])),
    "jsonb": JSON_VALUES.map(json.dumps),
    "timestamptz": MOMENTS,
    "timestamp": MOMENTS,
    "timestamp(0)": MOMENTS,
    "date": DATES,
    "time": TIMES,
    "timetz": TIMES.map(lambda text: f"{text}+05:30"),
    "interval": INTERVALS,
    "inet": INET4 | INET6,
    "cidr": st.sampled_from(["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"]),
    "macaddr": st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":")),
    "macaddr8": st.binary(min_size=8, max_size=8).map(lambda data: data.hex(":")),
    "point": POINT,
    "box": st.builds("{},{}".format, POINT, POINT),
    "path": st.builds("[{},{}]".format, POINT, POINT),
    "int4range": _ranges(SMALL),
    "int8range": _ranges(SMALL),
    "numrange": _ranges(SMALL),
    "tstzrange": st.sampled_from(["empty", "[2026-01-01,infinity)", "(,0044-01-01 BC]", "[2026-01-01 00:00:00.5+02,2027-01-01)"]),
    "daterange": st.sampled_from(["empty", "[2026-01-01,2026-02-01]", "(,)"]),
    "int4multirange": st.sampled_from(["{}", "{[1,3),[7,9)}", "{(,)}"]),
    "tsvector": st.sampled_from(["'a':1 'fat':2,4C", "'it''s':3"]),
    "tsquery": st.sampled_from(["'fat' & ( 'rat' | 'cat' )", "!'a'"]),
    "pg_lsn": st.just("16/B374D848"),
    "int4[]": arrays(st.integers(-(2**31), 2**31 - 1).map(str)),
    "numeric[]": arrays(st.sampled_from(["1.50", "NaN", "-0.0000001", "1e40"])),
    "float8[]": arrays(FLOAT8),
    "bool[]": arrays(st.sampled_from(["t", "f"])),
    "text[]": arrays(TEXTS),
    "bytea[]": arrays(HEX),
    "jsonb[]": arrays(JSON_VALUES.map(json.dumps)),
    "timestamptz[]": arrays(MOMENTS),
    "uuid[]": arrays(st.uuids().map(str)),
    "mood": st.sampled_from(["sad", "ok", 'it\'s "fine", \\', "größer"]),
    "mood[]": arrays(st.sampled_from(["sad", 'it\'s "fine", \\'])),
    "positive": st.integers(1, 2**31 - 1).map(str),
    "price": st.decimals(-(10**20), 10**20, places=10).map(lambda number: f"{number:f}") | st.just("NaN"),
    "raw": HEX,
    "pair": st.sampled_from(["(1,a,2.50)", '(,"x ""y"", \\\\ z",)', "(3,,NaN)"]),
    "pair[]": arrays(st.sampled_from(["(1,a,2.50)", '(,"x y",)'])),
}
