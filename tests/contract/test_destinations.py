"""What every destination must do."""

from __future__ import annotations

import gc
import threading

import pytest

from cdc_tracker.delivery.batcher import split_by_limits
from cdc_tracker.delivery.sender import Backoff, Interrupted, send
from cdc_tracker.destinations.base import Destination, DestinationSettings, HoldsCheckpoint
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import START, Batch, Change, Event, Outcome, Transaction
from cdc_tracker.pipeline import route_of
from tests.contract.faulty import faulty
from tests.contract.kits import HOLDERS, NAMES, TRANSLATING
from tests.vendors.kit import Kit, batch, decoded, event, events, raw_event

QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)
VERBATIM = [name for name in NAMES if name not in TRANSLATING]
FINAL = (Outcome.DELIVERED, Outcome.ASSUMED)


def never() -> bool:
    return False


def quiet(error: CdcTrackerError) -> None:
    """What went wrong is looked at where a test is about it."""


def test_every_event_gets_a_final_receipt_in_order(destination: Destination, kit: Kit) -> None:
    made = events(40)
    receipts = destination.deliver(batch(made))
    assert len(receipts) == 40
    assert {receipt.outcome for receipt in receipts} <= set(FINAL)
    assert [call["messageId"] for call in kit.held()] == [one.message_id for one in made]


def test_what_was_answered_for_is_there_when_deliver_returns(destination: Destination, kit: Kit) -> None:
    for n in range(5):
        destination.deliver(batch(events(3, start=3 * n)))
        assert len(kit.held()) == 3 * (n + 1)


def test_the_same_batch_twice_does_what_the_destination_says(destination: Destination, kit: Kit) -> None:
    made = batch(events(5))
    first, second = destination.deliver(made), destination.deliver(made)
    assert first == second
    ids = [call["messageId"] for call in kit.held()]
    assert len(set(ids)) == 5
    assert len(ids) == (10 if kit.keeps_repeats else 5)
    says = destination.duplicate_handling.split()[0]
    assert says in (("keeps", "prints", "receives", "appends") if kit.keeps_repeats else ("drops", "ignores", "replaces"))


EXACT = (
    '{"type":"track","event":"Größe geändert","messageId":"m-%d","userId":"ж-7",'
    '"properties":{"name":"日本 😀 \\"x\\" \\\\ \\n","empty":"","none":null,"list":[],"object":{},'
    '"big":123456789012345678901234567890,"fraction":1234567890123456789.000000000000000001,"small":1E-30,"long":9007199254740993,"truth":false},'
    '"context":{"k":"é"},"timestamp":"2026-01-02T03:04:05.000006Z"}'
)


@pytest.mark.invariant(9)
@pytest.mark.parametrize("kit", VERBATIM, indirect=True)
def test_text_and_numbers_arrive_exactly(destination: Destination, kit: Kit) -> None:
    made = raw_event(1, EXACT % 1)
    destination.deliver(batch([made]))
    assert kit.held() == [decoded(made.body)]


@pytest.mark.parametrize("kit", VERBATIM, indirect=True)
def test_calls_of_every_type_arrive(destination: Destination, kit: Kit) -> None:
    bodies = [
        '{"type":"identify","messageId":"m-0","userId":"3","traits":{"plan":"pro"},"timestamp":"2026-01-02T00:00:00.000000Z"}',
        '{"type":"group","messageId":"m-1","userId":"3","groupId":"g","traits":{"n":1},"timestamp":"2026-01-02T00:00:01.000000Z"}',
        '{"type":"alias","messageId":"m-2","userId":"3","previousId":"a-1","timestamp":"2026-01-02T00:00:02.000000Z"}',
        '{"type":"page","name":"Home","messageId":"m-3","anonymousId":"a","properties":{},"timestamp":"2026-01-02T00:00:03.000000Z"}',
        '{"type":"screen","name":"Main","messageId":"m-4","anonymousId":"a","properties":{},"timestamp":"2026-01-02T00:00:04.000000Z"}',
    ]
    destination.deliver(batch([raw_event(n, body) for n, body in enumerate(bodies)]))
    assert kit.held() == [decoded(body) for body in bodies]


SHAPE = {
    "events": {"except": ["Left Out"], "rename": {"Order Paid": "order_settled"}},
    "properties": {"rename": {"order_id": "number"}, "except": ["secret", "context.source"]},
}


def test_events_arrive_as_the_settings_shape_them(destination: Destination, kit: Kit) -> None:
    route = route_of(DestinationSettings.model_validate({"type": "any", **SHAPE}))
    assert route is not None
    change = Change("c", None, None, None, START, 0, 0, Transaction(1, 0, 0))
    made = [event(n, name="Left Out" if n % 3 == 2 else "Order Paid", secret="hunter2", kept=n) for n in range(9)]
    shaped = [found for each in made if isinstance(found := route(each, change), Event)]
    receipts = destination.deliver(batch(shaped))
    assert {receipt.outcome for receipt in receipts} <= set(FINAL)
    held = kit.held()
    assert [call["messageId"] for call in held] == [made[n].message_id for n in range(9) if n % 3 != 2]
    assert {call["event"] for call in held} == {"order_settled"}
    assert [(call["properties"]["number"], call["properties"]["kept"]) for call in held] == [
        (n, n) for n in range(9) if n % 3 != 2
    ]
    assert all("secret" not in call["properties"] and "order_id" not in call["properties"] for call in held)


def test_a_zero_character_arrives_or_is_rejected_alone(destination: Destination, kit: Kit) -> None:
    made = [event(0), event(1, note="a\0b"), event(2)]
    receipts = send(destination, batch(made), stop=never, on_trouble=quiet, backoff=QUICK)
    held = [call["properties"].get("note") for call in kit.held()]
    if kit.takes_nul:
        assert held == [None, "a\0b", None]
    else:
        assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, Outcome.REJECTED, Outcome.DELIVERED]
        assert receipts[1].reason == "refused"
        assert receipts[1].detail
        assert held == [None, None]


def test_batches_within_the_limits_are_taken_whole(destination: Destination, kit: Kit) -> None:
    made = events(700, note="x" * 1_500)
    for part in split_by_limits(made, destination.limits):
        assert len(part) <= destination.limits.events
        assert sum(len(one.body) + 1 for one in part) <= destination.limits.batch_bytes
        destination.deliver(batch(part))
    assert [call["properties"]["order_id"] for call in kit.held()] == list(range(700))


LIMITED = [name for name in NAMES if name not in {"memory", "stdout", *HOLDERS}]  # the others take an event of any size


@pytest.mark.parametrize("kit", LIMITED, indirect=True)
def test_an_event_above_the_limit_is_rejected_without_being_sent(destination: Destination, kit: Kit) -> None:
    made = [event(0), event(1, note="x" * destination.limits.event_bytes), event(2)]
    receipts = send(destination, batch(made), stop=never, on_trouble=quiet, backoff=QUICK)
    assert [receipt.reason for receipt in receipts] == ["", "event_too_large", ""]
    assert [call["properties"]["order_id"] for call in kit.held()] == [0, 2]


def test_an_unavailable_destination_is_tried_until_it_takes_the_batch(destination: Destination, kit: Kit) -> None:
    front = faulty(destination)
    front.errors.extend(
        [DestinationUnavailable("away"), DestinationUnavailable("away", retry_after=0.001), DestinationBlocked("no")]
    )
    troubles: list[CdcTrackerError] = []
    receipts = send(front, batch(events(5)), stop=never, on_trouble=troubles.append, backoff=QUICK)
    assert [type(trouble) for trouble in troubles] == [DestinationUnavailable, DestinationUnavailable, DestinationBlocked]
    assert len(receipts) == len(kit.held()) == 5
    assert len({tuple(one.body for one in call.events) for call in front.calls}) == 1  # the same bytes each time


def test_a_batch_that_is_too_large_goes_in_parts_and_in_order(destination: Destination, kit: Kit) -> None:
    front = faulty(destination)
    front.most = 3
    receipts = send(front, batch(events(20)), stop=never, on_trouble=quiet, backoff=QUICK)
    assert len(receipts) == 20
    assert [call["properties"]["order_id"] for call in kit.held()] == list(range(20))


def test_what_is_refused_is_found_and_everything_else_delivered(destination: Destination, kit: Kit) -> None:
    front = faulty(destination)
    bad = {3, 4, 17}
    front.minds = lambda one: one.decoded()["properties"]["order_id"] in bad
    receipts = send(front, batch(events(20)), stop=never, on_trouble=quiet, backoff=QUICK)
    assert {i for i, receipt in enumerate(receipts) if receipt.outcome is Outcome.REJECTED} == bad
    assert {receipts[i].reason for i in bad} == {"refused"}
    assert [call["properties"]["order_id"] for call in kit.held()] == [n for n in range(20) if n not in bad]


@pytest.mark.parametrize("kit", [name for name in NAMES if name not in HOLDERS], indirect=True)  # those are all or nothing
def test_only_what_was_not_taken_goes_again(destination: Destination, kit: Kit) -> None:
    front = faulty(destination)
    made = events(10)
    front.throttles = {made[n].message_id for n in (2, 5, 6)}
    receipts = send(front, batch(made), stop=never, on_trouble=quiet, backoff=QUICK)
    assert {receipt.outcome for receipt in receipts} <= set(FINAL)
    assert [len(call.events) for call in front.calls] == [10, 3]
    assert sorted(call["properties"]["order_id"] for call in kit.held()) == list(range(10))


def test_a_call_that_was_not_answered_loses_nothing(destination: Destination, kit: Kit) -> None:
    front = faulty(destination)
    front.unanswered = 1
    send(front, batch(events(4)), stop=never, on_trouble=quiet, backoff=QUICK)
    ids = [call["messageId"] for call in kit.held()]
    assert len(set(ids)) == 4
    assert len(ids) == (8 if kit.keeps_repeats else 4)


def test_stop_interrupts_a_wait_of_an_hour(destination: Destination, kit: Kit) -> None:
    front = faulty(destination)
    front.errors.append(DestinationUnavailable("away", retry_after=3_000))
    stopped = threading.Event()
    threading.Timer(0.1, stopped.set).start()
    with pytest.raises(Interrupted) as caught:
        send(front, batch(events(3)), stop=stopped.is_set, on_trouble=quiet)
    assert caught.value.receipts == [None] * 3
    assert len(front.calls) == 1


def test_a_probe_reaches_the_destination_and_delivers_nothing(destination: Destination, kit: Kit) -> None:
    destination.probe()
    destination.deliver(batch(events(1)))
    destination.probe()
    assert len(kit.held()) == 1


def test_it_says_what_it_guarantees(destination: Destination, kit: Kit) -> None:
    assert (destination.guarantee == "exactly once") is isinstance(destination, HoldsCheckpoint) is kit.exactly_once
    assert destination.limits.in_flight == 1 or not kit.exactly_once
    assert destination.limits.whole_changes is kit.exactly_once
    assert (destination.dedupe_window == 0) is kit.keeps_repeats
    assert destination.age_limit > 0


def test_closed_it_leaves_nothing_open_and_can_be_opened_again(kit: Kit) -> None:
    for n in range(2):
        opened = kit.open()
        opened.deliver(batch(events(2, start=2 * n)))
        opened.close()
        opened.close()
        del opened
        gc.collect()  # what was left open would warn, and a warning fails the test
    assert len(kit.held()) == 4


@pytest.mark.parametrize("kit", ["memory", "stdout", *HOLDERS], indirect=True)
def test_an_empty_batch_changes_nothing_but_the_position(destination: Destination, kit: Kit) -> None:
    destination.deliver(batch(events(3)))
    assert destination.deliver(Batch([], events(9)[-1].position)) == []
    assert len(kit.held()) == 3
    if isinstance(destination, HoldsCheckpoint):
        assert destination.position() == events(9)[-1].position
