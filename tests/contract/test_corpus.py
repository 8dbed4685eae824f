"""Every hostile event of the corpus goes to every destination through the core, among good ones."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from msgspec.structs import replace as changed

from cdc_tracker.delivery.sender import send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import Batch, Event, Outcome, Position, Receipt
from tests.contract.test_destinations import FINAL, QUICK
from tests.hostile import Hostile, cases
from tests.vendors.kit import Kit, event

GROUP = 40  # hostile events in a batch
TROUBLES = 2_000  # after which a good event is never taken


@pytest.fixture(autouse=True)
def _long_numbers() -> Iterator[None]:
    """For reading what a destination holds, and for the vendors' servers."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(limit)


def unreadable(case: Hostile) -> bool:
    """Python's own json and Decimal cannot read it back, so neither can the vendors' servers."""
    return any("[" * 400 in value or '{"a":' * 400 in value or "e99999999" in value for _, value in case.fields)


def mixed(hostile: list[Hostile], first: int) -> list[Event]:
    """A good event before, between and behind them, each at a position of its own."""
    made = [event(10_000 + 3 * first)]
    for n, case in enumerate(hostile, 1):
        made += [case.event(20_000 + first + n), event(10_000 + 3 * first + n)]
    return [changed(one, position=Position(1_000 + first, n)) for n, one in enumerate(made)]


def settled(destination: Destination, made: list[Event]) -> list[Receipt]:
    troubles: list[CdcTrackerError] = []
    batch = Batch(made, made[-1].position)
    return send(destination, batch, stop=lambda: len(troubles) > TROUBLES, on_trouble=troubles.append, backoff=QUICK)


def test_every_event_of_the_corpus_is_taken_or_rejected_and_the_good_ones_arrive_once(destination: Destination, kit: Kit) -> None:
    corpus = sorted(cases(), key=unreadable)
    if kit.server is not None:
        corpus = [case for case in corpus if not unreadable(case)]
    good: list[str] = []
    refused: Counter[str] = Counter()
    readable = True
    for first in range(0, len(corpus), GROUP):
        hostile = corpus[first : first + GROUP]
        if readable and any(map(unreadable, hostile)):
            readable = False
            check(kit, good)
        made = mixed(hostile, first)
        receipts = settled(destination, made)
        assert len(receipts) == len(made)
        assert {receipt.outcome for receipt in receipts[::2]} <= set(FINAL), "a good event was not taken"
        good += [one.message_id for one in made[::2]]
        for case, receipt in zip(hostile, receipts[1::2], strict=True):
            assert receipt.outcome in (*FINAL, Outcome.REJECTED, Outcome.SUPPRESSED)
            if receipt.outcome is Outcome.REJECTED:
                assert receipt.reason and receipt.detail, case.name
                refused[receipt.reason] += 1
    if readable:
        check(kit, good)
    assert refused.total() < len(corpus)


def check(kit: Kit, good: list[str]) -> None:
    found = Counter(call["messageId"] for call in kit.held())
    assert {message_id: found[message_id] for message_id in good} == dict.fromkeys(good, 1)
