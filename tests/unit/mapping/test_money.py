"""Numbers as they are sent: which decimals they have, and that a zero has no exponent."""

from __future__ import annotations

import pytest

from cdc_tracker.model import Event, Text
from tests.unit.mapping.shop import one, outcome

Z20 = "0.00000000000000000000"


def sent(value: str, new: dict[str, Text]) -> str:
    """The property's JSON, digit by digit."""
    found = outcome(one(user_id="'u'", properties={"x": value}), new=new)
    assert isinstance(found, Event), found
    return found.body.decode().partition('"properties":{"x":')[2].partition('},"context"')[0]


@pytest.mark.parametrize(
    ("value", "new", "expected"),
    [
        ("new.amount", {"amount": "29.70"}, "29.70"),
        ("new.amount * new.qty", {"amount": "29.70", "qty": "3"}, "89.10"),
        ("new.qty / 100", {"qty": "1990"}, "19.9"),
        ("new.qty / 100", {"qty": "2000"}, "20"),
        ("new.qty / 100", {"qty": "1999"}, "19.99"),
        ("new.qty / 100", {"qty": "0"}, "0"),
        ("new.qty / 100", {"qty": "-5"}, "-0.05"),
        ("new.qty // 100", {"qty": "1999"}, "19"),
        ("new.amount / 3", {"amount": "10.00"}, "3.333333333333333333333333333333333"),
        ("new.amount / 4", {"amount": "10.00"}, "2.50"),
        ("new.amount / 2", {"amount": "19.90"}, "9.95"),
        ("round(new.qty / 100, 2)", {"qty": "1990"}, "19.90"),
        ("round(new.qty / 100, 2)", {"qty": "2000"}, "20.00"),
        ("round(new.qty / 100, 2)", {"qty": "0"}, "0.00"),
        ("round(new.amount / 3, 2)", {"amount": "10.00"}, "3.33"),
        ("round(new.amount, 2)", {"amount": "2.345"}, "2.35"),
        ("round(new.amount, 2)", {"amount": "-2.345"}, "-2.35"),
        ("round(new.amount)", {"amount": "2.50"}, "3"),
        ("round(new.amount, 2)", {"amount": "0.001"}, "0.00"),
        ("round(new.amount, 20)", {"amount": "0"}, Z20),
        ("round(new.amount, 8)", {"amount": "0.000000001"}, "0.00000000"),
        ("new.amount", {"amount": Z20}, Z20),
        ("coalesce(new.amount, 1)", {"amount": Z20}, Z20),
        ("new.amount * 1", {"amount": Z20}, Z20),
        ("new.amount - new.amount", {"amount": "0.12345678"}, "0.00000000"),
        ("-new.amount", {"amount": Z20}, Z20),
        ("1 if new.gift is None else new.amount", {"amount": "0.0000000"}, "0.0000000"),
    ],
)
def test_a_number_has_the_decimals_that_the_reference_says(value: str, new: dict[str, Text], expected: str) -> None:
    assert sent(value, new) == expected


@pytest.mark.parametrize(
    ("value", "new", "expected"),
    [
        ("new.amount", {"amount": "0.0000001"}, "1E-7"),
        ("round(new.amount, 8)", {"amount": "0.00000033"}, "3.3E-7"),
        ("new.amount", {"amount": "0"}, "0"),
        ("new.amount", {"amount": "0.000000"}, "0.000000"),
        ("new.amount", {"amount": "NaN"}, '"NaN"'),
        ("[new.amount]", {"amount": Z20}, "[0E-20]"),
        ("string(new.amount)", {"amount": Z20}, '"0E-20"'),
        ("new.qty * 1e3", {"qty": "2"}, "2E+3"),
        ("new.ratio", {"ratio": "0"}, "0.0"),
        ("new.ratio", {"ratio": "1e-09"}, "1e-9"),
    ],
)
def test_every_other_number_is_sent_as_before(value: str, new: dict[str, Text], expected: str) -> None:
    assert sent(value, new) == expected


def test_ids_of_a_zero_stay() -> None:
    found, same = (outcome(one(id=[part]), new={"amount": Z20}) for part in ("new.amount", "coalesce(new.amount, 1)"))
    assert isinstance(found, Event) and isinstance(same, Event)
    assert found.message_id == same.message_id == "cc92f296-0bcc-5fc2-b087-62b5f1076342"
