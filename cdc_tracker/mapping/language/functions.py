"""The functions that expressions may call. The compiler, `check` and the documentation read them from the table FUNCTIONS.

All are pure. None as the first argument returns None unless the line says otherwise; a wrong type raises ExpressionError.
The compiler knows `changed` and `entered` by name: it compares texts where that is enough.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any, NamedTuple

import msgspec

from cdc_tracker.mapping.language import operators as op
from cdc_tracker.mapping.language.moments import clock, date_diff, epoch, iso, moment
from cdc_tracker.mapping.language.operators import ExpressionError, type_name
from cdc_tracker.model import canonical
from cdc_tracker.times import to_micros


class Function(NamedTuple):
    """A row of FUNCTIONS. `signature` and `doc` are for people; `least` and `most` bound the number of arguments.

    `takes`: a word of signatures.py for each argument; the last one is that of all further arguments.
    """

    signature: str
    doc: str
    takes: tuple[str, ...]
    call: Callable[..., Any]
    least: int
    most: int
    result: str  # a Codec's kind, "number" (integer or decimal) or "any"


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ExpressionError(f"{name}() takes text, not {type_name(value)}")
    return value


def _whole(name: str, value: Any) -> int:
    if value.__class__ is not int:
        raise ExpressionError(f"{name}() takes an integer here, not {type_name(value)}")
    return int(value)


def _items(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ExpressionError(f"{name}() takes a list, not {type_name(value)}")
    return list(value)


def _reach(name: str, value: Any) -> int:
    """A count of characters, 0 or more."""
    count = _whole(name, value)
    if count < 0:
        raise ExpressionError(f"{name}() takes a count of 0 or more")
    return count


def _length(value: Any) -> int:
    if not isinstance(value, str | list | tuple | dict | bytes):
        raise ExpressionError(f"length() takes text, a list or an object, not {type_name(value)}")
    return len(value)


def _concat(*values: Any) -> str:
    texts = [op.to_text(value) for value in values if value is not None]
    op.bounded_text(sum(map(len, texts)))
    return "".join(texts)


def _replace(value: Any, old: Any, new: Any) -> str:
    value, old, new = _text("replace", value), _text("replace", old), _text("replace", new)
    if not old:
        return str(value)
    op.bounded_text(len(value) + value.count(old) * (len(new) - len(old)))
    return str(value).replace(old, new)


def _split(value: Any, separator: Any) -> list[str]:
    value, separator = _text("split", value), _text("split", separator)
    if not separator:
        raise ExpressionError("split() needs a separator")
    op.bounded_items(value.count(separator) + 1)
    return str(value).split(separator)


def _join(values: Any, separator: Any) -> str:
    texts = [op.to_text(value) for value in _items("join", values) if value is not None]
    separator = _text("join", separator)
    op.bounded_text(sum(map(len, texts)) + len(separator) * len(texts))
    return str(separator).join(texts)


def _substring(value: Any, start: Any, length: Any = None) -> str:
    text, begin = _text("substring", value), _whole("substring", start)
    if begin < 1:
        raise ExpressionError("substring() counts from 1")
    end = None if length is None else begin - 1 + _reach("substring", length)
    return str(text)[begin - 1 : end]


def _right(value: Any, count: Any) -> str:
    text, wanted = _text("right", value), _reach("right", count)
    return str(text)[-wanted:] if wanted else ""


def _coalesce(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _rounded(name: str, value: Any, mode: str, digits: int = 0) -> Any:
    exact = Decimal(op.number(value, f"{name}()"))
    if exact.adjusted() > op.MAX_DIGITS or not -100 <= digits <= 100:
        raise ExpressionError(f"{name}() would give more than {op.MAX_DIGITS} digits")
    if digits <= 0:
        scaled = exact.scaleb(digits, op.EXACT).to_integral_value(mode)
        return int(scaled.scaleb(-digits, op.EXACT))
    return exact.quantize(Decimal(1).scaleb(-digits), mode, _ROUNDING)


_ROUNDING = Context(prec=op.MAX_DIGITS, traps=[InvalidOperation])


def _round(value: Any, digits: Any = 0) -> Any:
    return _rounded("round", value, ROUND_HALF_UP, _whole("round", digits))


def _extreme(name: str, better: Callable[[Any, Any], bool], values: tuple[Any, ...]) -> Any:
    found: Any = None
    for value in _items(name, values[0] if len(values) == 1 and values[0] is not None else values):
        if value is not None and (found is None or better(value, found)):
            found = value
    return found


def _sum(values: Any) -> Any:
    total: Any = 0
    for value in _items("sum", values):
        if value is not None:
            total = op.add(total, op.number(value, "sum()"))
    return total


_INTEGER = re.compile(r"[-+]?[0-9]{1,4000}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,2000}(?:\.[0-9]{0,2000})?|\.[0-9]{1,2000})(?:[eE][-+]?[0-9]{1,3})?")


def _int(value: Any) -> int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        if not _INTEGER.fullmatch(value.strip()):
            raise ExpressionError("int() takes text that is a whole number")
        return int(value)
    exact = op.number(value, "int()")
    if exact.__class__ is Decimal and (exact.adjusted() > op.MAX_DIGITS or exact != exact.to_integral_value()):
        raise ExpressionError("int() takes a whole number; see round, floor and ceil")
    return int(exact)


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return op.number(value, "number()")
    if not _NUMBER.fullmatch(value.strip()):
        raise ExpressionError("number() takes text that is a number")
    return Decimal(value.strip())


_TRUTHS = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True) | dict.fromkeys(("false", "f", "no", "n", "off", "0"), False)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    found = None
    if isinstance(value, str):
        found = _TRUTHS.get(value.strip().lower())
    elif value in (0, 1) and value.__class__ is int:
        found = value == 1
    if found is None:
        raise ExpressionError("boolean() takes true/false, t/f, yes/no, y/n, on/off, 1/0")
    return found


_JSON = msgspec.json.Decoder(float_hook=Decimal)


def _json(value: Any) -> Any:
    try:
        return _JSON.decode(_text("json", value))
    except (ValueError, RecursionError, ArithmeticError):
        raise ExpressionError("json() takes text that is JSON") from None


def _get(value: Any, *path: Any) -> Any:
    for step in path:
        value = op.item(value, step)
    return value


def _keys(value: Any) -> list[str]:
    if not isinstance(value, dict):
        raise ExpressionError(f"keys() takes an object, not {type_name(value)}")
    return list(value)


def _sorted(values: Any) -> list[Any]:
    items = [value for value in _items("sorted", values) if value is not None]
    try:
        return sorted(items)
    except TypeError:
        raise ExpressionError("sorted() takes elements of one type") from None


def _distinct(values: Any) -> list[Any]:
    seen: dict[str, Any] = {}
    for value in _items("distinct", values):
        seen.setdefault(canonical(value), value)
    return list(seen.values())


def _digest(name: str, value: Any) -> str:
    raw = value if isinstance(value, bytes) else _text(name, value).encode()
    return hashlib.new(name, raw, usedforsecurity=False).hexdigest()


def _tolerant(call: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but None as its first argument returns None."""

    def tolerant(first: Any, *rest: Any) -> Any:
        return None if first is None else call(first, *rest)

    return tolerant


_MANY = 32


def _table(rows: Iterable[tuple[str, str, str, Callable[..., Any], str]]) -> dict[str, Function]:
    """The functions by name. Their arity is read from the signature: `[x]` is optional, `…` repeats."""
    table: dict[str, Function] = {}
    for signature, doc, takes, call, result in rows:
        name, _, rest = signature.partition("(")
        required, _, optional = rest.rstrip(")").partition("[")
        least = sum(1 for part in required.split(",") if part.strip(" …"))
        most = _MANY if "…" in rest else least + sum(1 for part in optional.split(",") if part.strip(" ]"))
        table[name] = Function(signature, doc, tuple(takes.split()), call, least, most, result)
    return table


def _on(call: Callable[..., Any], kind: str) -> tuple[Callable[..., Any], str]:
    return _tolerant(call), kind


FUNCTIONS: dict[str, Function] = _table(
    [
        ("lower(text)", "in lower case", "text", *_on(lambda v: _text("lower", v).lower(), "text")),
        ("upper(text)", "in upper case", "text", *_on(lambda v: _text("upper", v).upper(), "text")),
        ("trim(text)", "without white space at both ends", "text", *_on(lambda v: _text("trim", v).strip(), "text")),
        ("length(value)", "characters of a text, elements of a list, keys of an object", "sized", *_on(_length, "integer")),
        ("concat(value, …)", "the values as one text; None is left out", "any", _concat, "text"),
        ("replace(text, old, new)", "every `old` replaced by `new`", "text text text", *_on(_replace, "text")),
        ("split(text, separator)", "the list of texts between separators", "text text", *_on(_split, "array")),
        ("join(list, separator)", "the elements as one text; None is left out", "list text", *_on(_join, "text")),
        (
            "substring(text, start[, length])",
            "from the start-th character on, counted from 1",
            "text integer integer",
            *_on(_substring, "text"),
        ),
        (
            "left(text, count)",
            "the first characters",
            "text integer",
            *_on(lambda v, n: str(_text("left", v))[: _reach("left", n)], "text"),
        ),
        ("right(text, count)", "the last characters", "text integer", *_on(_right, "text")),
        (
            "starts_with(text, prefix)",
            "whether the text starts with it",
            "text text",
            *_on(lambda v, p: _text("starts_with", v).startswith(_text("starts_with", p)), "boolean"),
        ),
        (
            "ends_with(text, suffix)",
            "whether the text ends with it",
            "text text",
            *_on(lambda v, s: _text("ends_with", v).endswith(_text("ends_with", s)), "boolean"),
        ),
        ("contains(whole, part)", "`part in whole`", "whole any", *_on(lambda whole, item: op.contains(item, whole), "boolean")),
        ("coalesce(value, …)", "the first that is not None", "any", _coalesce, "any"),
        ("nullif(a, b)", "None if a equals b, else a", "any any", lambda a, b: None if op.equal(a, b) else a, "any"),
        ("round(number[, digits])", "half away from zero; without digits an integer", "number integer", *_on(_round, "number")),
        ("abs(number)", "without its sign", "number", *_on(lambda v: abs(op.number(v, "abs()")), "number")),
        ("floor(number)", "the next integer below", "number", *_on(lambda v: _rounded("floor", v, ROUND_FLOOR), "integer")),
        ("ceil(number)", "the next integer above", "number", *_on(lambda v: _rounded("ceil", v, ROUND_CEILING), "integer")),
        (
            "min(value, …)",
            "the least of the values, or of one list; None is left out",
            "any",
            lambda *v: _extreme("min", op.less, v),
            "any",
        ),
        (
            "max(value, …)",
            "the greatest of the values, or of one list; None is left out",
            "any",
            lambda *v: _extreme("max", op.greater, v),
            "any",
        ),
        ("sum(list)", "of the numbers of a list; None is left out; 0 for an empty list", "list", *_on(_sum, "number")),
        ("int(value)", "an integer from text, a whole number or a boolean", "digits", *_on(_int, "integer")),
        ("number(value)", "an exact number from text or a number", "numeral", *_on(_number, "number")),
        ("string(value)", "as text: ISO 8601 for times, JSON for lists and objects", "any", *_on(op.to_text, "text")),
        ("boolean(value)", "from true/false, t/f, yes/no, y/n, on/off, 1/0", "truth", *_on(_boolean, "boolean")),
        ("json(text)", "the value of the JSON text", "text", *_on(_json, "json")),
        ("get(value, key, …)", "the value at a path of keys and indexes; None if one is missing", "any any", _get, "any"),
        ("keys(object)", "the list of an object's keys", "object", *_on(_keys, "array")),
        (
            "first(list)",
            "the first element, None of an empty list",
            "list",
            *_on(lambda v: next(iter(_items("first", v)), None), "any"),
        ),
        (
            "last(list)",
            "the last element, None of an empty list",
            "list",
            *_on(lambda v: next(reversed(_items("last", v)), None), "any"),
        ),
        ("any(list)", "whether one element is true", "list", *_on(lambda v: any(_items("any", v)), "boolean")),
        ("all(list)", "whether every element is true", "list", *_on(lambda v: all(_items("all", v)), "boolean")),
        ("sorted(list)", "in ascending order; None is left out", "list", *_on(_sorted, "array")),
        ("distinct(list)", "each element once, in the order of first appearance", "list", *_on(_distinct, "array")),
        ("sha256(text)", "hexadecimal SHA-256 of the UTF-8 text", "raw", *_on(lambda v: _digest("sha256", v), "text")),
        ("md5(text)", "hexadecimal MD5 of the UTF-8 text; not for secrets", "raw", *_on(lambda v: _digest("md5", v), "text")),
        (
            "timestamp(value)",
            "a UTC time from a date, ISO 8601 text (no zone: UTC) or seconds since 1970",
            "moment",
            *_on(lambda v: moment("timestamp", v), "timestamptz"),
        ),
        (
            "date(value[, zone])",
            "the day of what timestamp takes, in the time zone; without one in UTC",
            "moment zone",
            *_on(lambda v, *zone: (at := clock("date", v, *zone)) and at.date(), "date"),
        ),
        (
            "hour(value[, zone])",
            "the hour of the day, 0 to 23, likewise",
            "moment zone",
            *_on(lambda v, *zone: (at := clock("hour", v, *zone)) and at.hour, "integer"),
        ),
        (
            "weekday(value[, zone])",
            "the day of the week, 1 (Monday) to 7 (Sunday), likewise",
            "moment zone",
            *_on(lambda v, *zone: (at := clock("weekday", v, *zone)) and at.isoweekday(), "integer"),
        ),
        ("iso(value)", "ISO 8601 text of what timestamp takes", "moment", *_on(iso, "text")),
        ("epoch(value)", "seconds since 1970, exact", "moment", *_on(epoch, "number")),
        (
            "epoch_ms(value)",
            "milliseconds since 1970, cut to an integer",
            "moment",
            *_on(lambda v: to_micros(moment("epoch_ms", v)) // 1000, "integer"),
        ),
        (
            "date_diff(unit, start, end)",
            "whole seconds, minutes, hours, days or weeks from start to end",
            "unit moment moment",
            date_diff,
            "integer",
        ),
        ("changed(a, b)", "whether the two differ, None counting as a value", "any any", op.unequal, "boolean"),
        (
            "entered(new.x, value, …)",
            "whether new.x is one of the values, and old.x was not",
            "any any",
            lambda now, *values: op.contains(now, values),  # of one row: the compiler asks both
            "boolean",
        ),
    ]
)
