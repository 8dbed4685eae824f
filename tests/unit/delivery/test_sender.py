"""Retry, split and bisection, with the double for a destination."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cdc_tracker.delivery.batcher import split_by_limits
from cdc_tracker.delivery.sender import Backoff, Interrupted, NothingPasses, send
from cdc_tracker.destinations.base import Limits
from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.errors import (
    BatchRejected,
    CdcTrackerError,
    CheckpointMoved,
    DestinationBlocked,
    DestinationUnavailable,
    Stop,
    TooLarge,
)
from cdc_tracker.model import ASSUMED, DELIVERED, Batch, Event, Outcome, Position, Receipt

QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)


def event(n: int, position: Position | None = None, size: int = 10) -> Event:
    return Event(f"id-{n}", "track", b"x" * size, "m", position or Position(100, n), 0)


def batch(count: int) -> Batch:
    return Batch([event(n) for n in range(count)], Position(500, -1))


def deliver(destination: MemoryDestination, made: Batch) -> tuple[list[Receipt], list[CdcTrackerError]]:
    troubles: list[CdcTrackerError] = []
    receipts = send(destination, made, stop=lambda: False, on_trouble=troubles.append, backoff=QUICK)
    return receipts, troubles


def sizes(destination: MemoryDestination) -> list[int]:
    return [len(call.events) for call in destination.batches]


def at_most(count: int, error: Exception) -> Callable[[Batch], list[Receipt]]:
    def answer(made: Batch) -> list[Receipt]:
        if len(made.events) > count:
            raise error
        return [DELIVERED] * len(made.events)

    return answer


def test_what_is_taken_at_once_is_one_call() -> None:
    destination = MemoryDestination()
    made = batch(5)
    assert deliver(destination, made) == ([DELIVERED] * 5, [])
    assert destination.batches == [made]


def test_an_assumed_receipt_is_final() -> None:
    destination = MemoryDestination()
    destination.always = lambda made: [ASSUMED] * len(made.events)
    assert deliver(destination, batch(3))[0] == [ASSUMED] * 3
    assert sizes(destination) == [3]


def test_every_failure_is_told_while_it_lasts() -> None:
    destination = MemoryDestination()
    failures = [DestinationUnavailable("away"), DestinationBlocked("no"), DestinationUnavailable("slow down", retry_after=0.002)]
    destination.answers.extend(failures)
    receipts, troubles = deliver(destination, batch(2))
    assert receipts == [DELIVERED] * 2
    assert troubles == failures


def test_it_never_gives_up() -> None:
    destination = MemoryDestination()
    destination.answers.extend([DestinationUnavailable("away")] * 200)
    assert deliver(destination, batch(1))[0] == [DELIVERED]
    assert len(destination.batches) == 201


def test_only_events_with_a_retry_receipt_go_again() -> None:
    destination = MemoryDestination()
    later = Receipt(Outcome.RETRY, "throttled")
    refused = Receipt(Outcome.REJECTED, "bad_user", "userId")
    destination.answers.extend([[DELIVERED, later, refused, later], [later, DELIVERED]])
    receipts, troubles = deliver(destination, batch(4))
    assert receipts == [DELIVERED, DELIVERED, refused, DELIVERED]
    assert [[one.message_id for one in call.events] for call in destination.batches] == [
        ["id-0", "id-1", "id-2", "id-3"],
        ["id-1", "id-3"],
        ["id-1"],
    ]
    assert [str(trouble) for trouble in troubles] == [
        "2 of 4 events were not taken: throttled",
        "1 of 2 events were not taken: throttled",
    ]


def test_one_event_that_is_too_large_is_rejected_and_the_rest_delivered() -> None:
    destination = MemoryDestination()
    destination.always = at_most(0, TooLarge("413"))
    receipts, _ = deliver(destination, batch(1))
    assert receipts == [Receipt(Outcome.REJECTED, "too_large", detail="413")]
    destination.always = at_most(2, TooLarge("413"))
    assert deliver(destination, batch(7))[0] == [DELIVERED] * 7
    assert [one.message_id for one in destination.events] == [f"id-{n}" for n in range(7)]


@settings(deadline=None)
@given(count=st.integers(1, 40), bad=st.sets(st.integers(0, 39)), groups=st.lists(st.integers(1, 5), min_size=1))
def test_whatever_is_refused_exactly_that_is_rejected(count: int, bad: set[int], groups: list[int]) -> None:
    ordinals = [ordinal for ordinal, size in enumerate(groups * count) for _ in range(size)][:count]
    made = Batch([event(n, Position(100, ordinals[n])) for n in range(count)], Position(500, -1))
    destination = MemoryDestination()

    def answer(asked: Batch) -> list[Receipt]:
        if any(int(one.message_id[3:]) in bad for one in asked.events):
            raise BatchRejected("400")
        return [DELIVERED] * len(asked.events)

    destination.always = answer
    receipts, _ = deliver(destination, made)
    assert {n for n, receipt in enumerate(receipts) if receipt.reason == "refused"} == {n for n in bad if n < count}
    assert [one.message_id for one in destination.events] == [f"id-{n}" for n in range(count) if n not in bad]


def test_the_events_of_one_change_are_divided_last() -> None:
    destination = MemoryDestination()
    positions = [Position(100, n) for n in (0, 1, 1, 1, 1, 2)]
    made = Batch([event(n, position) for n, position in enumerate(positions)], Position(500, -1))
    destination.always = at_most(4, TooLarge("413"))
    deliver(destination, made)
    assert sizes(destination) == [6, 1, 5, 4, 1]


def test_an_event_above_the_limit_is_not_sent() -> None:
    destination = MemoryDestination()
    destination.limits = Limits(events=10, batch_bytes=1_000, event_bytes=50)
    made = Batch([event(0), event(1, size=51), event(2)], Position(500, -1))
    receipts, _ = deliver(destination, made)
    assert [receipt.reason for receipt in receipts] == ["", "event_too_large", ""]
    assert [[one.message_id for one in call.events] for call in destination.batches] == [["id-0", "id-2"]]
    assert deliver(destination, Batch([event(1, size=51)], Position(500, -1)))[0][0].outcome is Outcome.REJECTED
    assert len(destination.batches) == 1


def test_nothing_is_asked_for_no_events() -> None:
    destination = MemoryDestination()
    assert deliver(destination, Batch([], Position(500, -1))) == ([], [])
    assert destination.batches == []


def test_stop_before_the_first_try_sends_nothing() -> None:
    destination = MemoryDestination()
    with pytest.raises(Interrupted):
        send(destination, batch(3), stop=lambda: True, on_trouble=lambda error: None)
    assert destination.batches == []


def test_an_interruption_tells_what_was_settled_before() -> None:
    destination = MemoryDestination()
    destination.answers.append([DELIVERED, Receipt(Outcome.RETRY), DELIVERED])
    with pytest.raises(Interrupted) as caught:
        send(destination, batch(3), stop=lambda: len(destination.batches) > 0, on_trouble=lambda error: None)
    assert caught.value.receipts == [DELIVERED, None, DELIVERED]


def failing(error: BaseException, *bad: int) -> Callable[[Batch], list[Receipt]]:
    """Raises for a batch with one of these events; none named: for every batch."""

    def answer(made: Batch) -> list[Receipt]:
        if not bad or any(int(one.message_id[3:]) in bad for one in made.events):
            raise error
        return [DELIVERED] * len(made.events)

    return answer


class Panic(BaseException):
    """As a library in Rust raises it."""


ANYTHING = [
    UnicodeEncodeError("ascii", "größe", 2, 3, "ordinal not in range"),
    ValueError("Exceeds the limit (4300 digits) for integer string conversion"),
    OverflowError(),
    RecursionError(),
    MemoryError(),
    SystemExit(1),
    KeyboardInterrupt(),
    Panic("index out of bounds"),
    CdcTrackerError("none that its contract names"),
]


@pytest.mark.parametrize("error", ANYTHING, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_for_an_event_that_event_is_rejected_and_the_others_go_once(error: BaseException) -> None:
    destination = MemoryDestination()
    destination.always = failing(error, 5)
    receipts, _ = deliver(destination, batch(12))
    assert [receipt.reason for receipt in receipts] == ["destination_error" if n == 5 else "" for n in range(12)]
    assert [one.message_id for one in destination.events] == [f"id-{n}" for n in range(12) if n != 5]
    assert type(error).__name__ in receipts[5].detail


@settings(deadline=None)
@given(count=st.integers(2, 40), bad=st.sets(st.integers(0, 39)), limit=st.integers(1, 50))
def test_exactly_what_a_destination_fails_at_is_rejected(count: int, bad: set[int], limit: int) -> None:
    bad = {n for n in bad if n < count}
    destination = MemoryDestination()
    destination.limits = Limits(events=limit, batch_bytes=1_000, event_bytes=50)
    destination.always = failing(KeyError("x"), *bad) if bad else None
    if len(bad) == count:
        with pytest.raises(NothingPasses):
            deliver(destination, batch(count))
        return
    receipts, _ = deliver(destination, batch(count))
    assert {n for n, receipt in enumerate(receipts) if receipt.reason == "destination_error"} == bad
    assert [one.message_id for one in destination.events] == [f"id-{n}" for n in range(count) if n not in bad]


@pytest.mark.parametrize("count", [1, 2, 300])
def test_a_destination_that_fails_at_every_event_is_told_and_nothing_is_rejected(count: int) -> None:
    destination = MemoryDestination()
    destination.always = failing(ImportError("no codec"))
    with pytest.raises(NothingPasses, match=r"ImportError in test_sender\.py") as caught:
        deliver(destination, batch(count))
    assert caught.value.hint
    assert destination.events == []
    assert sum(sizes(destination)) <= 5 * count  # each event goes a few times only


def test_events_that_others_vouch_for_are_rejected_without_one_that_passes() -> None:
    destination = MemoryDestination()
    destination.always = failing(ValueError())
    receipts = send(destination, batch(3), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK, others_passed=True)
    assert [receipt.reason for receipt in receipts] == ["destination_error"] * 3


def test_a_fault_that_has_passed_by_the_time_that_others_pass_rejects_nothing() -> None:
    destination = MemoryDestination()
    destination.answers.extend([OSError("too many open files")] * 4)
    receipts, _ = deliver(destination, batch(8))
    assert receipts == [DELIVERED] * 8
    assert sorted(one.message_id for one in destination.events) == [f"id-{n}" for n in range(8)]


DELIVERED_ALIKE = Receipt("delivered")  # type: ignore[arg-type]  # as a plugin may write it
WRONG = {
    "too few": lambda made: [DELIVERED] * (len(made.events) - 1),
    "too many": lambda made: [DELIVERED] * (len(made.events) + 1),
    "none": lambda made: None,
    "no list": lambda made: 7,
    "no receipts": lambda made: [True] * len(made.events),
    "no outcome": lambda made: [Receipt("sent")] * len(made.events),  # type: ignore[arg-type]
}


class Answering(MemoryDestination):
    """Answers as it likes."""

    def __init__(self, answer: Callable[[Batch], object], *bad: int) -> None:
        super().__init__()
        self._answer, self._bad = answer, bad

    def deliver(self, batch: Batch) -> list[Receipt]:
        if not self._bad or any(int(one.message_id[3:]) in self._bad for one in batch.events):
            return self._answer(batch)  # type: ignore[return-value]  # that is what it is for
        return super().deliver(batch)


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
def test_an_answer_that_is_not_one_receipt_an_event_counts_as_a_failure(answer: Callable[[Batch], object]) -> None:
    receipts, _ = deliver(Answering(answer, 2), batch(4))
    assert [receipt.reason for receipt in receipts] == ["", "", "destination_error", ""]
    with pytest.raises(NothingPasses, match="WrongReceipts"):
        deliver(Answering(answer), batch(4))


def test_receipts_become_what_the_state_store_can_keep() -> None:
    odd = Receipt("rejected", None, 7, "a\0b\ud800", float("nan"))  # type: ignore[arg-type]
    receipts, _ = deliver(Answering(lambda made: (odd,)), batch(1))
    assert receipts == [Receipt(Outcome.REJECTED, "", "7", "a\\0b?")]
    assert deliver(Answering(lambda made: [DELIVERED_ALIKE]), batch(1))[0][0].outcome is Outcome.DELIVERED


class Mute(DestinationUnavailable):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_failure_is_told_and_waited_for_whatever_its_texts_and_seconds_are() -> None:
    destination = MemoryDestination()
    waits: list[Any] = ["soon", float("nan"), -1, None, True, 10**400]
    hint: Any = b"hint"
    destination.answers.extend(DestinationBlocked("a\0b\ud800", hint=hint, retry_after=wait) for wait in waits)
    receipts, troubles = deliver(destination, batch(2))
    assert receipts == [DELIVERED] * 2
    assert {(type(trouble), str(trouble), trouble.hint) for trouble in troubles} == {(DestinationBlocked, "a\\0b?", "b'hint'")}
    destination.always = failing(Mute(), 1)
    receipts, _ = deliver(destination, batch(3))
    assert [receipt.reason for receipt in receipts] == ["", "destination_error", ""]


def test_no_value_of_an_event_and_no_text_of_an_error_is_told() -> None:
    destination = MemoryDestination()
    destination.always = failing(ValueError("cannot send Ann Meier to https://u:secret@h"), 1)
    with capture_logs() as lines:
        receipts, _ = deliver(destination, batch(3))
    said = str(lines)
    assert "ValueError" in receipts[1].detail
    assert "test_sender.py" in said
    assert "Ann" not in said + receipts[1].detail
    assert "secret" not in said + receipts[1].detail


@pytest.mark.parametrize("error", [Stop("a person is needed"), CheckpointMoved("it was restored")])
def test_what_is_no_events_fault_goes_through(error: CdcTrackerError) -> None:
    destination = MemoryDestination()
    destination.always = error
    with pytest.raises(type(error)):
        deliver(destination, batch(3))


def test_a_destination_that_keeps_asking_for_a_day_is_tried_within_the_longest_wait() -> None:
    destination = MemoryDestination()
    destination.answers.append(DestinationUnavailable("tomorrow", retry_after=86_400))
    assert deliver(destination, batch(1))[0] == [DELIVERED]


LIMITS = st.builds(
    Limits, events=st.integers(1, 6), batch_bytes=st.integers(20, 120), event_bytes=st.just(10_000), whole_changes=st.booleans()
)


@settings(deadline=None)
@given(changes=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8), max_size=12), limits=LIMITS)
def test_batches_keep_the_order_and_the_limits(changes: list[list[int]], limits: Limits) -> None:
    made = [event(n, Position(100, n), size) for n, change in enumerate(changes) for size in change]
    batches = split_by_limits(made, limits)
    assert [one for part in batches for one in part] == made
    for part in batches:
        fits = len(part) <= limits.events and sum(len(one.body) + 1 for one in part) <= limits.batch_bytes
        one_change = len({one.position for one in part}) == 1
        assert fits or len(part) == 1 or (limits.whole_changes and one_change)
    if limits.whole_changes:
        positions = [{one.position for one in part} for part in batches]
        assert sum(map(len, positions)) == len(set().union(*positions))
