"""Of each user the events arrive in order, whatever went wrong on the way."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from cdc_tracker.delivery.sender import send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.errors import DestinationBlocked, DestinationUnavailable
from tests.contract.faulty import faulty
from tests.contract.kits import HTTP
from tests.contract.test_destinations import QUICK, never, quiet
from tests.vendors.kit import Kit, batch, events
from tests.vendors.server import Answer, Cut, Script

BATCHES, EACH = 3, 30


def orders(calls: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Of each user, the numbers in the order of their first arrival."""
    found: dict[str, list[int]] = defaultdict(list)
    for call in calls:
        number = call["properties"]["order_id"]
        if number not in found[call["userId"]]:
            found[call["userId"]].append(number)
    return found


def expected() -> dict[str, list[int]]:
    return {f"user-{user}": list(range(user, BATCHES * EACH, 7)) for user in range(7)}


def test_events_of_many_users_arrive_in_each_ones_order(destination: Destination, kit: Kit) -> None:
    assert destination.limits.in_flight == 1
    front = faulty(destination)
    for n in range(BATCHES):
        made = events(EACH, start=n * EACH)
        front.errors.extend([DestinationUnavailable("away"), DestinationBlocked("no")][: n % 3])
        front.unanswered = 0 if kit.exactly_once else n % 2
        front.most = 12 if n == 2 and not kit.exactly_once else 1_000
        send(front, batch(made), stop=never, on_trouble=quiet, backoff=QUICK)
    assert orders(kit.held()) == expected()


@pytest.mark.parametrize("kit", HTTP, indirect=True)
def test_answers_that_fail_in_between_change_no_order(destination: Destination, kit: Kit) -> None:
    assert kit.server is not None
    faults: list[Script] = [
        Answer(503),
        Cut(taken=True),
        Answer(429, headers={"Retry-After": "0"}),
        Answer(500, taken=True),
        Cut(after_body=False),
    ]
    for n in range(BATCHES):
        script: list[Script | None] = [None if i % 2 == 0 else faults[(n + i) % len(faults)] for i in range(n + 8)]
        kit.server.answers(*script)
        send(destination, batch(events(EACH, start=n * EACH)), stop=never, on_trouble=quiet, backoff=QUICK)
    seen: dict[str, list[int]] = orders(kit.held())
    assert seen == expected()
