"""The operators of expressions at run time: exact numbers, None that propagates, and bounds on every result.

Arithmetic with None is None, an ordering comparison with None is False, a missing key or index is None. Numbers stay exact: a
float becomes the Decimal of its shortest text; + - * are exact or raise; a division is rounded half-even to 34 significant
digits. Errors are ExpressionErrors, whose messages name types and never show a value.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any

from cdc_tracker.model import Special, canonical
from cdc_tracker.times import aware

MAX_TEXT = 1_000_000  # characters of one result
MAX_ITEMS = 100_000  # elements of one result
MAX_DIGITS = 4_000

EXACT = decimal.Context(
    prec=MAX_DIGITS,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=-MAX_DIGITS,
    Emax=MAX_DIGITS,
    traps=[decimal.Inexact, decimal.InvalidOperation, decimal.Overflow, decimal.DivisionByZero],
)
DIVISION = decimal.Context(
    prec=34,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=-MAX_DIGITS,
    Emax=MAX_DIGITS,
    traps=[decimal.InvalidOperation, decimal.Overflow, decimal.DivisionByZero],
)


class ExpressionError(ValueError):
    """An expression cannot be computed for this row. The message contains no value of the row."""


_NAMES: list[tuple[type, str]] = [
    (bool, "boolean"),
    (Special, "special"),
    (str, "string"),
    (int, "integer"),
    (Decimal, "number"),
    (float, "number"),
    (datetime, "timestamp"),
    (date, "date"),
    (list, "array"),
    (tuple, "array"),
    (dict, "object"),
    (bytes, "bytes"),
]


def type_name(value: object) -> str:
    """The type's name in messages: as in JSON, or timestamp, date, bytes, special."""
    if value is None:
        return "null"
    return next((name for kind, name in _NAMES if isinstance(value, kind)), type(value).__name__)


def number(value: Any, what: str) -> Any:
    """The value as an int or Decimal. Raises ExpressionError, which says that `what` takes numbers."""
    if value.__class__ is int or value.__class__ is Decimal:
        return value
    if value.__class__ is float:
        exact = Decimal(repr(value))
        if exact.is_finite():
            return exact
    raise ExpressionError(f"{what} takes numbers, not {type_name(value)}")


def _arithmetic(
    sign: str, on_int: Callable[[int, int], Any], on_decimal: Callable[[Decimal, Decimal], Any], a: Any, b: Any
) -> Any:
    if a is None or b is None:
        return None
    a, b = number(a, f"`{sign}`"), number(b, f"`{sign}`")
    if a.__class__ is int and b.__class__ is int:
        return on_int(a, b)
    try:
        return on_decimal(EXACT.create_decimal(a), EXACT.create_decimal(b))
    except decimal.Inexact:
        raise ExpressionError(f"`{sign}` gives more than {MAX_DIGITS} digits") from None


def _int_product(a: int, b: int) -> int:
    if a.bit_length() + b.bit_length() > MAX_DIGITS * 3:
        raise ExpressionError(f"`*` gives more than {MAX_DIGITS} digits")
    return a * b


def _quotient(a: Any, b: Any) -> Decimal:
    return DIVISION.divide(Decimal(a), Decimal(b))


def _floor_quotient(a: Decimal, b: Decimal) -> Decimal:
    """Rounded towards minus infinity, as for int."""
    whole, rest = EXACT.divmod(a, b)
    return EXACT.subtract(whole, Decimal(1)) if rest and (rest < 0) != (b < 0) else whole


def _modulus(a: Decimal, b: Decimal) -> Decimal:
    rest = EXACT.remainder(a, b)
    return EXACT.add(rest, b) if rest and (rest < 0) != (b < 0) else rest


subtract = partial(_arithmetic, "-", int.__sub__, EXACT.subtract)
multiply = partial(_arithmetic, "*", _int_product, EXACT.multiply)
divide = partial(_arithmetic, "/", _quotient, _quotient)
floor_divide = partial(_arithmetic, "//", int.__floordiv__, _floor_quotient)
modulo = partial(_arithmetic, "%", int.__mod__, _modulus)
_add_numbers = partial(_arithmetic, "+", int.__add__, EXACT.add)


def add(a: Any, b: Any) -> Any:
    """`a + b` of numbers, texts or lists; None if either is None."""
    if a is None or b is None:
        return None
    if isinstance(a, str) and isinstance(b, str):
        bounded_text(len(a) + len(b))
        return str(a) + str(b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        bounded_items(len(a) + len(b))
        return [*a, *b]
    return _add_numbers(a, b)


def negate(value: Any) -> Any:
    """`-value`; None of None."""
    if value is None:
        return None
    value = number(value, "`-`")
    return value.copy_negate() if value.__class__ is Decimal and value else -value


def _alike(a: Any, b: Any) -> tuple[Any, Any]:
    """Two values, comparable: floats as exact Decimals, dates and times in UTC."""
    if a.__class__ is float and b.__class__ is not float:
        a = Decimal(repr(a))
    elif b.__class__ is float and a.__class__ is not float:
        b = Decimal(repr(b))
    if isinstance(a, date) and isinstance(b, date):
        a, b = moment(a), moment(b)
    return a, b


def moment(value: date) -> datetime:
    """A date as its midnight in UTC; a datetime without a zone as UTC."""
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return aware(value)


def equal(a: Any, b: Any) -> bool:
    """`a == b`: numbers by their exact value, a boolean only equal to itself."""
    if a.__class__ is b.__class__:
        return bool(a == b)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    a, b = _alike(a, b)
    return bool(a == b)


def unequal(a: Any, b: Any) -> bool:
    """`a != b`."""
    return not equal(a, b)


def _ordering(sign: str, compare: Callable[[Any, Any], bool], a: Any, b: Any) -> bool:
    if a is None or b is None:
        return False
    a, b = _alike(a, b)
    if isinstance(a, Special) or isinstance(b, Special) or isinstance(a, bool) is not isinstance(b, bool):
        raise ExpressionError(f"`{sign}` cannot compare {type_name(a)} with {type_name(b)}")
    try:
        return bool(compare(a, b))
    except TypeError:
        raise ExpressionError(f"`{sign}` cannot compare {type_name(a)} with {type_name(b)}") from None


less = partial(_ordering, "<", lambda a, b: a < b)
less_equal = partial(_ordering, "<=", lambda a, b: a <= b)
greater = partial(_ordering, ">", lambda a, b: a > b)
greater_equal = partial(_ordering, ">=", lambda a, b: a >= b)


def contains(item: Any, whole: Any) -> bool:
    """`item in whole`: of a text, an object's keys, a list's elements. False if `whole` is None."""
    if whole is None:
        return False
    if isinstance(whole, str):
        if item is None:
            return False
        if not isinstance(item, str):
            raise ExpressionError(f"`in` cannot look for {type_name(item)} in string")
        return item in whole
    if isinstance(whole, dict):
        return isinstance(item, str) and item in whole
    if isinstance(whole, list | tuple):
        return any(equal(item, each) for each in whole)
    raise ExpressionError(f"`in` cannot look into {type_name(whole)}")


def lacks(item: Any, whole: Any) -> bool:
    """`item not in whole`."""
    return not contains(item, whole)


def item(whole: Any, key: Any) -> Any:
    """`whole[key]`; None if there is no such key or index."""
    if whole is None or key is None:
        return None
    if isinstance(whole, dict) and isinstance(key, str):
        return whole.get(key)
    if isinstance(whole, list | tuple | str) and key.__class__ is int:
        return whole[key] if -len(whole) <= key < len(whole) else None
    raise ExpressionError(f"cannot take [{type_name(key)}] of {type_name(whole)}")


def part(whole: Any, start: Any, stop: Any, step: Any) -> Any:
    """`whole[start:stop:step]` of a list or text; None of None."""
    if whole is None:
        return None
    if not isinstance(whole, list | tuple | str):
        raise ExpressionError(f"cannot take a part of {type_name(whole)}")
    if any(bound is not None and bound.__class__ is not int for bound in (start, stop, step)):
        raise ExpressionError("the bounds of a part must be integers")
    cut = whole[start:stop:step]
    return str(cut) if isinstance(cut, str) else cut


def to_text(value: Any) -> str:
    """A value as text: text unchanged, a date or time in ISO 8601, anything else as its JSON."""
    if isinstance(value, str):
        return str(value)
    json = canonical(value)
    return json[1:-1] if json.startswith('"') else json


def interpolate(*parts: Any) -> str | None:
    """An f-string's value; None if any part is None, as in arithmetic and with SQL's `||`."""
    if None in parts:
        return None
    texts = [to_text(each) for each in parts]
    bounded_text(sum(map(len, texts)))
    return "".join(texts)


def key(value: Any) -> str:
    """A key of an object. Raises ExpressionError for anything but text."""
    if not isinstance(value, str):
        raise ExpressionError(f"the keys of an object must be text, not {type_name(value)}")
    return str(value)


def bounded_text(length: int) -> None:
    """Raises ExpressionError for a text of more than MAX_TEXT characters."""
    if length > MAX_TEXT:
        raise ExpressionError(f"makes a text of more than {MAX_TEXT:,} characters")


def bounded_items(count: int) -> None:
    """Raises ExpressionError for a list of more than MAX_ITEMS elements."""
    if count > MAX_ITEMS:
        raise ExpressionError(f"makes a list of more than {MAX_ITEMS:,} elements")
