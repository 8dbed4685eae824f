"""Events with ids, names and values that a protocol or a library does not take as they are: one never stops the others."""

from __future__ import annotations

import json
from typing import Any

from cdc_tracker.delivery.sender import send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import Event, Outcome, Receipt
from tests.contract.test_destinations import FINAL, QUICK
from tests.vendors.kit import Kit, batch, event, raw_event

IDS = ["order_17", "order:17", "a", " a", "a ", "a\tb", "a b", "a\nb", "a\r\nx-evil: 1", "a\x01b", "a\x7fb", "a.b", "0", "null"]
IDS += [
    "bestellung-größe-1",
    "commande-été-1",
    "заказ-7",
    "🎉",
    "注" * 100,
    "🎉" * 100,
    "x" * 100,
    "x" * 36 + "y",
    "x" * 64 + "y",
]
IDS += [
    "x" * 64 + "z",
    "a_b",
    "a/b",
    'a"b',
    "a\\b",
    "a\u2028b",
    "\u00a0a",
    "a\ufeff",
    "../../etc",
    "{event}",
    "%s",
    "*",
    ">",
    ".",
]
"""An application may choose any text of up to 100 characters. Some of these differ in what a protocol drops or cuts."""

NAMES = ["!!!", ".", "..", "a.b", "*", ">", "a b > c", "a\nb", "\tx ", "a\x01b", "🎉" * 70, "Größe", "注文が支払われました" * 12]
NAMES += ["x" * 300, "x " * 2_500, "x" * 20_000, "order/paid", "__", "-", "{event}", "%s", "İ", "con", "null", "0"]

VALUES = {
    "an integer of 5,000 digits": "9" * 5_000,
    "a fraction of 5,000 digits": "0." + "9" * 5_000,
    "1e5000": "1e5000",
    "-1E-99999999": "-1E-99999999",
    "such numbers deep inside": '{"a":{"b":{"c":{"d":{"n":' + "9" * 4_301 + "}}}}}",
    "such numbers very deep inside": '{"a":' * 45 + '{"n":1e5000}' + "}" * 45,
    "such a number among many": "{" + ",".join(f'"k{n}":1' for n in range(300)) + ',"n":' + "9" * 4_301 + "}",
    "a list of such": "[" + ",".join(["1e5000"] * 300) + "]",
    "700 lists deep": "[" * 700 + "]" * 700,
    "700 objects deep": '{"a":' * 700 + "1" + "}" * 700,
    "3,000 lists deep": "[" * 3_000 + "]" * 3_000,
    "3,000 objects deep": '{"a":' * 3_000 + "1" + "}" * 3_000,
    "-0": "-0",
    "a key of 2,000 characters": '{"' + "k" * 2_000 + '":1}',
    "an empty key": '{"":1}',
    "half a surrogate pair as its text": '"\\\\ud800"',
    "text with all controls but zero": json.dumps("".join(map(chr, range(1, 32)))),
    "300,000 characters": '"' + "é" * 150_000 + '"',
}


def with_id(n: int, message_id: str) -> Event:
    made = event(n)
    return raw_event(n, made.body.decode().replace(json.dumps(made.message_id), json.dumps(message_id, ensure_ascii=False)))


def with_value(n: int, value: str) -> Event:
    made = event(n)
    body = made.body.replace(b'{"order_id":%d}' % n, b'{"order_id":%d,"odd":%b}' % (n, value.encode()))
    return Event(made.message_id, made.type, body, made.mapping, made.position, made.committed_at)


def settled(destination: Destination, made: list[Event]) -> list[Receipt]:
    """Gives up after 60 failures: a good event that is never taken must fail the test, not hang it.

    Destinations refuse by themselves what they cannot take; they do not rely on the core to survive it.
    """
    troubles: list[CdcTrackerError] = []
    receipts = send(destination, batch(made), stop=lambda: len(troubles) > 60, on_trouble=troubles.append, backoff=QUICK)
    assert "destination_error" not in [receipt.reason for receipt in receipts]
    return receipts


def numbers(kit: Kit) -> list[Any]:
    return [call["properties"]["order_id"] for call in kit.held()]


def test_an_event_goes_through_whatever_its_id_is_and_no_two_ids_become_one(destination: Destination, kit: Kit) -> None:
    made = [with_id(n, message_id) for n, message_id in enumerate(IDS)]
    receipts = settled(destination, made)
    assert {receipt.outcome for receipt in receipts} <= set(FINAL), [receipt for receipt in receipts if receipt.detail]
    assert sorted(numbers(kit)) == list(range(len(IDS)))
    if not kit.keeps_repeats:
        settled(destination, made)
        assert sorted(numbers(kit)) == list(range(len(IDS)))


def test_an_event_of_any_name_is_taken_or_refused_with_a_reason_and_the_others_go_on(destination: Destination, kit: Kit) -> None:
    count = len(NAMES)
    made = [event(0), *[event(n, name=name) for n, name in enumerate(NAMES, 1)], event(count + 1)]
    receipts = settled(destination, made)
    assert {receipt.outcome for receipt in receipts} <= {*FINAL, Outcome.REJECTED}
    assert all(receipt.reason and receipt.detail for receipt in receipts if receipt.outcome is Outcome.REJECTED)
    taken = [n for n, receipt in enumerate(receipts) if receipt.outcome in FINAL]
    assert {0, count + 1} <= set(taken)
    assert sorted(numbers(kit)) == taken


def test_a_value_of_any_kind_is_taken_or_refused_with_a_reason_and_the_others_go_on(destination: Destination, kit: Kit) -> None:
    """What the vendors' servers hold is not read back: Python's own reader takes some of it no better than they do."""
    for n, (kind, value) in enumerate(VALUES.items()):
        before, odd, after = settled(destination, [event(3 * n), with_value(3 * n + 1, value), event(3 * n + 2)])
        assert [before.outcome in FINAL, after.outcome in FINAL] == [True, True], kind
        assert odd.outcome in FINAL or (odd.outcome is Outcome.REJECTED and odd.detail), kind
