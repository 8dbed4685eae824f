"""A column's text, by type oid → a Python value, and JSON.

Types that are not built in (enums, domains, composites, extensions) and arrays of them have oids that differ between databases:
their text stays text, `{a,b}` for an array of an enum.
"""

from __future__ import annotations

import functools
import json
from base64 import b64encode
from collections.abc import Callable
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

import msgspec
import psycopg
from psycopg.adapt import Transformer
from psycopg.postgres import types
from psycopg.pq import Format

from cdc_tracker.model import Codec, Special, canonical

SESSION = {
    "quote_all_identifiers": "off",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",  # the shortest text that gives the same float again
    "search_path": '"$user", public',  # the server's default; regclass and regproc values depend on it
}
"""Settings of every session that streams or reads, so that the text of a value is always the same."""

_LOADERS = Transformer()


@functools.cache
def codec(type_oid: int) -> Codec:
    """The Codec of a type. An unknown oid is text."""
    known = types.get(type_oid)
    if known is None:
        return _TEXT
    if type_oid == known.array_oid:
        return _array(type_oid, codec(known.oid))
    return _BUILT_IN.get(known.name, _OTHER)


def _driver(name: str) -> Callable[[bytes], Any]:
    return _LOADERS.get_loader(types[name].oid, Format.TEXT).load


def _quoted(text: str) -> str:
    """JSON of text that needs no escapes."""
    return f'"{text}"'


# Numbers: NaN and the infinities end in a letter, everything else in a digit.


def _load_decimal(text: str) -> Decimal | Special:
    return Special(text) if text[-1] > "9" else Decimal(text)


def _decimal_json(text: str) -> str:
    if text[-1] > "9":
        return f'"{text}"'
    # Below 1e-6 the canonical form has an exponent, as Decimal's text has.
    return canonical(Decimal(text)) if "0.000000" in text[:9] else text


def _load_float(text: str) -> float | Special:
    return Special(text) if text[-1] > "9" else float(text)


_encode = msgspec.json.Encoder().encode


def _float_json(text: str) -> str:
    return f'"{text}"' if text[-1] > "9" else _encode(float(text)).decode()


def _load_boolean(text: str) -> bool:
    return text == "t"


def _boolean_json(text: str) -> str:
    return "true" if text == "t" else "false"


# Dates and times. psycopg raises for infinity, BC and years past 9999.

_timestamptz, _timestamp, _date, _uuid = (_driver(name) for name in ("timestamptz", "timestamp", "date", "uuid"))


def _load_timestamptz(text: str) -> Any:
    try:
        return _timestamptz(text.encode())
    except psycopg.DataError:
        return Special(text)


def _timestamptz_json(text: str) -> str:
    if text[-3:] != "+00" or text[10] != " ":
        return canonical(_load_timestamptz(text))
    length = len(text)
    if length == 22:
        return f'"{text[:10]}T{text[11:19]}Z"'
    return f'"{text[:10]}T{text[11:-3]}{"000000"[: 29 - length]}Z"'


def _load_timestamp(text: str) -> Any:
    try:
        return _timestamp(text.encode())
    except psycopg.DataError:
        return Special(text)


def _timestamp_json(text: str) -> str:
    length = len(text)
    if not 19 <= length <= 26 or text[10] != " " or text[-1] > "9":
        return f'"{text}"'
    if length == 19:
        return f'"{text[:10]}T{text[11:]}"'
    return f'"{text[:10]}T{text[11:]}{"000000"[: 26 - length]}"'


def _load_date(text: str) -> Any:
    try:
        return _date(text.encode())
    except psycopg.DataError:
        return Special(text)


# JSON. jsonb arrives in a normal form, without repeated keys and exponents: only white space is removed.

_decode_json = msgspec.json.Decoder(float_hook=Decimal).decode
_MAX_DIGITS = 4000  # Python refuses to parse an int of more than 4,300


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < _MAX_DIGITS else Decimal(digits)


def _load_json(text: str) -> Any:
    try:
        return _decode_json(text)
    except (ValueError, RecursionError, ArithmeticError):
        return _load_odd_json(text)


def _load_odd_json(text: str) -> Any:
    """JSON that msgspec refuses: huge integers. Half a surrogate pair or deep nesting stays text."""
    try:
        value = json.loads(text, parse_float=Decimal, parse_int=_integer)
        canonical(value)
    except (ValueError, RecursionError, ArithmeticError):
        return Special(text)
    return value


def _json_json(text: str) -> str:
    return canonical(_load_json(text))


def _jsonb_json(text: str) -> str:
    if "0.000000" in text:
        return canonical(_load_json(text))
    try:
        return msgspec.json.format(text, indent=-1)
    except (ValueError, RecursionError):
        return canonical(_load_json(text))


# Others


def _load_uuid(text: str) -> Any:
    return _uuid(text.encode())


def _load_bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _bytes_json(text: str) -> str:
    return f'"{b64encode(bytes.fromhex(text[2:])).decode()}"'


def _array(type_oid: int, element: Codec) -> Codec:
    """The Codec of an array: psycopg splits the text (quotes, NULL, dimensions, bounds `[0:1]=`), `element` reads the parts."""
    # box is the only type whose arrays are not separated by commas, as its array loader knows; its elements stay text
    arrays_of = type_oid if type_oid == types["box"].array_oid else types["text"].array_oid
    split = _LOADERS.get_loader(arrays_of, Format.TEXT).load
    load_one, json_one = element.load, element.to_json

    def load(text: str) -> Any:
        parts = split(text.encode())
        return parts if load_one is str else load_parts(parts)

    def load_parts(parts: list[Any]) -> list[Any]:
        return [None if part is None else load_parts(part) if part.__class__ is list else load_one(part) for part in parts]

    def to_json(text: str) -> str:
        return json_parts(split(text.encode()))

    def json_parts(parts: list[Any]) -> str:
        return (
            "["
            + ",".join(
                ["null" if part is None else json_parts(part) if part.__class__ is list else json_one(part) for part in parts]
            )
            + "]"
        )

    return Codec("array", load, to_json)


_TEXT = Codec("text", str, encode_basestring)
_OTHER = Codec("other", str, encode_basestring)
_INTEGER = Codec("integer", int, str)
_FLOAT = Codec("float", _load_float, _float_json)
_TIME = Codec("time", str, _quoted)
_BUILT_IN: dict[str, Codec] = {
    "int2": _INTEGER,
    "int4": _INTEGER,
    "int8": _INTEGER,
    "oid": _INTEGER,
    "numeric": Codec("decimal", _load_decimal, _decimal_json),
    "float4": _FLOAT,
    "float8": _FLOAT,
    "bool": Codec("boolean", _load_boolean, _boolean_json),
    "text": _TEXT,
    "varchar": _TEXT,
    "bpchar": _TEXT,
    "name": _TEXT,
    '"char"': _TEXT,
    "uuid": Codec("uuid", _load_uuid, _quoted),
    "json": Codec("json", _load_json, _json_json),
    "jsonb": Codec("json", _load_json, _jsonb_json),
    "timestamptz": Codec("timestamptz", _load_timestamptz, _timestamptz_json),
    "timestamp": Codec("timestamp", _load_timestamp, _timestamp_json),
    "date": Codec("date", _load_date, _quoted),
    "time": _TIME,
    "timetz": _TIME,
    "bytea": Codec("bytes", _load_bytes, _bytes_json),
}
"""Built-in types by name. All others (intervals, ranges, network addresses, money, geometry, …) are `other`: text."""

load_json = codec(types["jsonb"].oid).load
"""JSON text as a Python value with exact numbers. Raises ValueError."""
