"""Events with ids, names and values that a protocol or a library does not take as they are: one never stops the others."""

from __future__ import annotations

import json
from typing import Any

from cdc_tracker.delivery.sender import send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import Event, Outcome, Receipt
from tests.contract.test_destinations import FINAL, QUICK
from tests.hostile import EVENT_NAMES, EXTREMES, IDS
from tests.vendors.kit import Kit, batch, event, raw_event


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
    count = len(EVENT_NAMES)
    made = [event(0), *[event(n, name=name) for n, name in enumerate(EVENT_NAMES, 1)], event(count + 1)]
    receipts = settled(destination, made)
    assert {receipt.outcome for receipt in receipts} <= {*FINAL, Outcome.REJECTED}
    assert all(receipt.reason and receipt.detail for receipt in receipts if receipt.outcome is Outcome.REJECTED)
    taken = [n for n, receipt in enumerate(receipts) if receipt.outcome in FINAL]
    assert {0, count + 1} <= set(taken)
    assert sorted(numbers(kit)) == taken


def test_a_value_of_any_kind_is_taken_or_refused_with_a_reason_and_the_others_go_on(destination: Destination, kit: Kit) -> None:
    """What the vendors' servers hold is not read back: Python's own reader takes some of it no better than they do."""
    for n, (kind, value) in enumerate(EXTREMES.items()):
        before, odd, after = settled(destination, [event(3 * n), with_value(3 * n + 1, value), event(3 * n + 2)])
        assert [before.outcome in FINAL, after.outcome in FINAL] == [True, True], kind
        assert odd.outcome in FINAL or (odd.outcome is Outcome.REJECTED and odd.detail), kind
