"""What becomes of values: each vendor keeps them in its own way, and none loses a digit on our side."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cdc_tracker.delivery.sender import send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.model import Outcome
from tests.contract.kits import TRANSLATING
from tests.contract.test_destinations import FINAL, QUICK, never, quiet
from tests.vendors.kit import Kit, batch, decoded, event, raw_event

PROPERTIES = (
    '{"order_id":1,"title":"日本 😀 Größe \\"x\\" \\\\ \\n\\u2028","empty":"","none":null,"truth":false,"list":["ä",1,2.50],'
    '"nested":{"a":{"n":123456789012345678901234567890}},"big":123456789012345678901234567890,"small_big":-9223372036854775809,'
    '"long":9007199254740993,"fraction":1234567890123456789.000000000000000001,"small":1E-30,"cents":0.10}'
)


def exact(value: Any) -> Any:
    """So that 1 is not True, and numbers are alike where all their digits are."""
    if isinstance(value, dict):
        return {key: exact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [exact(inner) for inner in value]
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return ("number", Decimal(value))
    return (type(value).__name__, value)


@pytest.mark.invariant(9)
@pytest.mark.parametrize("kit", TRANSLATING, indirect=True)
def test_text_and_numbers_arrive_as_the_vendor_keeps_them(destination: Destination, kit: Kit) -> None:
    made = raw_event(1, event(1).body.decode().replace('{"order_id":1}', PROPERTIES))
    [receipt] = destination.deliver(batch([made]))
    assert receipt.outcome in FINAL
    [call] = kit.held()
    assert exact(call["properties"]) == exact(kit.keeps(decoded(PROPERTIES)))
    assert call["userId"] == "user-1"


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"end": 1}
    for _ in range(depth - 1):
        value = {"in": value}
    return value


def test_deep_nesting_arrives_as_far_as_the_vendor_takes_it(destination: Destination, kit: Kit) -> None:
    deepest = kit.deepest or 12
    made = [event(0, deep=nested(deepest)), event(1, deep=nested(deepest + 1)), event(2)]
    receipts = send(destination, batch(made), stop=never, on_trouble=quiet, backoff=QUICK)
    if kit.deepest is None:
        assert {receipt.outcome for receipt in receipts} <= set(FINAL)
    else:
        assert receipts[1].outcome is Outcome.REJECTED
        assert receipts[1].reason == "too_deep"
    taken = [n for n in (0, 1, 2) if n != 1 or kit.deepest is None]
    calls = kit.held()
    assert [call["properties"]["order_id"] for call in calls] == taken
    for call in calls:
        sent = made[call["properties"]["order_id"]].decoded()["properties"]
        assert exact(call["properties"]) == exact(kit.keeps(sent))
